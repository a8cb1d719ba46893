"""`mlxr generate`: text for one prompt, streamed, or for many as one batch."""

import dataclasses
import json
import os
import sys
import time

from ..errors import ConfigError, RequestError
from . import options, show

HELP = "generate text for a prompt, or for many prompts as one batch"
EXAMPLES = """examples:
  mlxr generate --prompt "The quick brown fox" --raw --max-tokens 30
  mlxr generate ./Qwen3-0.6B "Why is the sky blue?" --temp 0.7 --top-p 0.9
  git diff | mlxr generate --system-prompt "Summarise this change." > summary.txt
  mlxr generate --prompts prompts.txt --json          one prompt a line, one result a line
"""


def arguments(parser):
    options.add_model(parser)
    parser.add_argument("text", nargs="?", metavar="PROMPT",
                        help="the prompt; a lone argument with spaces in it is taken as the prompt, too")
    parser.add_argument("-p", "--prompt", metavar="TEXT",
                        help="the prompt; '-', or no prompt at all, reads standard input")
    parser.add_argument("-f", "--file", metavar="FILE", help="read the prompt from a file, less its last line end")
    parser.add_argument("--prompts", metavar="FILE",
                        help="many prompts: one a line, or JSON objects with a `prompt`; run as one batch")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each prompt")
    parser.add_argument("-q", "--quiet", action="store_true", help="no statistics and no progress on standard error; warnings alone")
    options.add_template(parser)
    options.add_sampling(parser)
    options.add_engine(parser)
    options.add_auto(parser)


def run(args):
    _check(args)                                     # bad values are told before a model is loaded
    params = options.sampling_params(args)
    template = options.template_options(args)
    model, prompts = _model_and_prompts(args)
    from ..api import LLM                            # late: `mlxr --help` must not wait for mlx
    from ..kernels import host_build

    if args.quiet:
        host_build.quiet()
    ids = []

    def size_pool(tokenizer):
        ids.extend(_encode(tokenizer, p, args, template) for p in prompts)
        return _tokens_needed(ids, args)

    with LLM(model, warn=show.warn, progress=None if args.quiet else _progress(), size_pool=size_pool,
             kv_auto_validate=args.kv_auto_validate, **options.engine_options(args)) as llm:
        if not args.quiet:
            print(*show.engine_lines(llm.info), sep="\n", file=sys.stderr)
        if len(ids) == 1 and not args.json:
            return _stream(llm, ids[0], params, args)
        return _batch(llm, prompts, ids, params, args)


def _check(args):
    """Raises ConfigError for options that would do nothing."""
    if args.raw:
        for name in ("system_prompt", "chat_template"):
            if getattr(args, name) is not None:
                option = "--" + name.replace("_", "-")
                raise ConfigError(f"--raw leaves the chat template out, so {option} cannot be used with it")
    if args.logprobs is not None and not args.json:
        raise ConfigError("--logprobs are printed with --json alone; add --json")


def _tokens_needed(ids, args):
    """Tokens that the page pool must hold, so that the largest max_batch prompts can run to their ends at once."""
    size = max(1, args.page_size)
    pages = sorted(((len(x) + args.max_tokens) // size + 1 for x in ids), reverse=True)
    return sum(pages[:args.max_batch]) * size


def _model_and_prompts(args):
    """The model's name, and the prompts, from the several ways to give them."""
    model, text = args.model, args.text
    if args.model_option:                            # then the first positional is the prompt
        if text is not None:
            raise ConfigError("the model is given twice: once as an argument and once with --model")
        model, text = args.model_option, args.model
    elif text is None and model and not (args.prompt or args.file or args.prompts) and _is_text(model):
        model, text = None, model                    # mlxr generate "Why is the sky blue?"
    given = [x for x in (text, args.prompt, args.file, args.prompts) if x is not None]
    if len(given) > 1:
        raise ConfigError("give one prompt: as an argument, with --prompt, with --file, or many with --prompts")
    if args.prompts is not None:
        return model, _many(options.read_text(args.prompts, "--prompts"))
    prompt = args.prompt if args.prompt is not None else text
    if args.file is not None:
        prompt = _without_line_end(options.read_text(args.file, "--file"))
    elif prompt == "-" or (prompt is None and not sys.stdin.isatty()):
        prompt = _without_line_end(options.read_text("-", "standard input"))
    if not prompt:
        raise RequestError("the prompt is empty; give one as an argument, with --prompt, --file, or on standard input")
    return model, [prompt]


def _is_text(word):
    """Whether a lone argument is a prompt and not a model: '-', or words that are no file's name."""
    return word == "-" or (any(c.isspace() for c in word) and not os.path.exists(word))


def _without_line_end(text):
    return text[:-1] if text.endswith("\n") else text


def _many(text):
    prompts = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        if line.lstrip().startswith("{"):
            try:
                line = json.loads(line)["prompt"]
            except (json.JSONDecodeError, KeyError, TypeError) as e:
                raise RequestError(f"--prompts, line {number}: a JSON object with a string `prompt` is expected") from e
            if not isinstance(line, str):
                raise RequestError(f"--prompts, line {number}: `prompt` must be a string")
        prompts.append(line)
    if not prompts:
        raise RequestError("--prompts: the file has no prompt in it")
    return prompts


def _encode(tokenizer, prompt, args, template):
    if args.raw or (tokenizer.chat_template is None and not args.system_prompt and not template):
        return tokenizer.encode(prompt)              # a base model continues its prompt
    system = [{"role": "system", "content": args.system_prompt}] if args.system_prompt else []
    return tokenizer.encode_chat([*system, {"role": "user", "content": prompt}], **template)


def _stream(llm, ids, params, args):
    start, first, count, reason = time.perf_counter(), None, 0, None
    for chunk in llm.stream(ids, params):
        first = first or time.perf_counter()
        count += len(chunk.token_ids)
        reason = chunk.finish_reason
        sys.stdout.write(chunk.text)
        sys.stdout.flush()
    end = time.perf_counter()
    sys.stdout.write("\n")
    if not args.quiet:
        rest = end - first
        stats = {"prompt_tokens": len(ids), "prompt_tps": len(ids) / (first - start),
                 "time_to_first_token": first - start, "generated_tokens": count,
                 "generation_tps": (count - 1) / rest if count > 1 and rest else 0.0}
        print("", *show.run_lines(stats, llm.stats()["peak_bytes"]), f"finished: {reason}", sep="\n", file=sys.stderr)
    return 0


def _batch(llm, prompts, ids, params, args):
    start = time.perf_counter()
    outputs = llm.generate(ids, params)
    stats = show.total_stats(outputs, time.perf_counter() - start)
    engine = {**llm.info, **llm.stats()}
    for prompt, output in zip(prompts, outputs):
        if args.json:
            print(json.dumps(_object(prompt, output, engine), ensure_ascii=False))
        else:
            print(f"==== {prompt.strip().splitlines()[0][:70]}\n{output.text}\n")
    if not args.quiet:
        print(*show.run_lines(stats, engine["peak_bytes"]), f"{len(outputs)} prompts in {stats['seconds']:.2f} s",
              sep="\n", file=sys.stderr)
    return 0


def _object(prompt, output, engine):
    logprobs = None
    if output.logprobs is not None:
        logprobs = [dataclasses.asdict(x) for x in output.logprobs]
    return {"prompt": prompt, "text": output.text, "token_ids": output.token_ids, "finish_reason": output.finish_reason,
            "prompt_tokens": output.prompt_tokens, "logprobs": logprobs, "stats": output.stats, "engine": engine}


def _progress():
    return show.load_progress() if sys.stderr.isatty() else None
