"""Options that several commands share, and what becomes of them."""

import argparse
import re
import sys

from ..config import CALDERA_CACHES
from ..errors import ConfigError, RequestError
from ..sequence import SamplingParams


def size(text):
    """Bytes from a size such as 512M, 2GB, 1.5GiB or plain bytes."""
    m = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([kmgt]?)(i?)b?", text.strip(), re.IGNORECASE)
    if not m:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write for example 512M or 2GiB")
    return int(float(m[1]) * 1024 ** " kmgt".index(m[2].lower() or " "))


def token_bias(text):
    """(token id, bias) from ID=BIAS (or llama-cli's ID+BIAS, ID-BIAS)."""
    m = re.fullmatch(r"(\d+)(?:=(.+)|([+-].+))", text)
    try:
        return int(m[1]), float(m[2] or m[3])
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form TOKEN_ID=BIAS, for example 42=-5") from None


def add_model(parser, what="(default: smollm2-135m)"):
    parser.add_argument("model", nargs="?", metavar="MODEL", help=f"folder, .gguf file, Hugging Face repo id or alias {what}")
    parser.add_argument("--model", dest="model_option", metavar="MODEL", help="MODEL, as an option")


def add_engine(parser):
    group = parser.add_argument_group("engine")
    group.add_argument("--kv", metavar="FORMAT", default="f16",
                       help="page format of the KV cache: f16, bf16, f32, q8, q6, q4, k8v4, a4, mixed, or q3, q2 and fit after `mlxr calibrate`, or auto: the smallest "
                            "that `mlxr validate` accepted for this model; k:q8,v:q4 for K and V apart; skip=0:2,-2: leaves "
                            "layers in f16, sink=N first tokens; mixed:ratio=0.5,low=4 sets options (default: f16)")
    group.add_argument("--kv-sink", type=int, default=0, metavar="N",
                       help="keep the first N tokens of every sequence in f16, in whole pages (default: 0)")
    group.add_argument("--kv-dequant-cache", type=size, default=0, metavar="SIZE",
                       help="keep pages that decoding reads decoded, within so many bytes beside the pool (default: 0, none)")
    group.add_argument("--calibration", metavar="FILE",
                       help="what `mlxr calibrate` wrote, for q3, q2 and fit (default: found beside the model or in the cache)")
    group.add_argument("--page-size", type=int, default=64, metavar="N",
                       help="tokens in a page: 16, 32, 64, 128 (default: 64)")
    group.add_argument("--pool", type=size, metavar="SIZE",
                       help="bytes of the page pool, for example 512M (default: as needed)")
    group.add_argument("-c", "--context", "--ctx-size", type=int, metavar="N",
                       help="tokens in one sequence at most (default: the model's)")
    group.add_argument("--token-budget", "--prefill-step-size", type=int, default=512, metavar="N",
                       help="tokens computed in one step at most (default: 512)")
    group.add_argument("--max-batch", "--parallel", type=int, default=32, metavar="N",
                       help="sequences at once at most (default: 32)")
    group.add_argument("--dtype", choices=("float32", "float16", "bfloat16"),
                       help="of activations and plain weights (default: as stored; float32 on a CPU)")
    group.add_argument("--cache", choices=CALDERA_CACHES, default="none",
                       help="of a model of mlxr convert --caldera, y = Q x + L (R x), what is kept as plain 16-bit numbers: "
                            "nothing, R, L and R, or Q + L R as one matrix; faster, and larger (default: none)")
    return group


def add_auto(parser):
    parser.add_argument("--kv-auto-validate", action="store_true",
                        help="with --kv auto: measure now what is not known of this model, which takes minutes")


def engine_options(args):
    """Keyword arguments of LLM."""
    return dict(kv=args.kv, kv_sink=args.kv_sink, kv_dequant_cache=args.kv_dequant_cache, calibration=args.calibration, page_size=args.page_size, pool_bytes=args.pool, context=args.context,
                token_budget=args.token_budget, max_batch=args.max_batch, dtype=args.dtype, caldera_cache=args.cache)


def add_sampling(parser, max_tokens=256, logprobs=True):
    group = parser.add_argument_group("sampling")
    add = group.add_argument
    add("-n", "--max-tokens", "--predict", type=int, default=max_tokens, metavar="N",
        help=f"tokens to generate at most (default: {max_tokens})")
    add("--temp", "--temperature", type=float, default=0.0, metavar="T",
        help="0 takes the most likely token (default: 0)")
    add("--top-k", type=int, default=0, metavar="K", help="sample from the K most likely (default: 0, all)")
    add("--top-p", type=float, default=1.0, metavar="P", help="sample from the nucleus of mass P (default: 1, all)")
    add("--min-p", type=float, default=0.0, metavar="P",
        help="sample from tokens of at least P times the best's probability (default: 0)")
    add("--repeat-penalty", "--repetition-penalty", type=float, default=1.0, metavar="X",
        help="penalty for repeating tokens (default: 1, none)")
    add("--repeat-last-n", "--repetition-context-size", type=int, default=64, metavar="N",
        help="tokens that it looks back at (default: 64)")
    add("--presence-penalty", type=float, default=0.0, metavar="X", help="from -2 to 2 (default: 0)")
    add("--frequency-penalty", type=float, default=0.0, metavar="X", help="from -2 to 2 (default: 0)")
    add("-l", "--logit-bias", type=token_bias, action="append", metavar="ID=BIAS",
        help="add BIAS to a token's logit; may be repeated")
    add("-s", "--seed", type=int, metavar="N", help="the same seed gives the same text (default: a new one each time)")
    add("--stop", "-r", "--reverse-prompt", action="append", metavar="TEXT",
        help="end before this text; may be repeated")
    add("--stop-token-id", type=int, action="append", metavar="ID", help="end at this token; may be repeated")
    if logprobs:
        add("--logprobs", type=int, metavar="N", help="report the N most likely tokens at each position (with --json)")
    add("--ignore-eos", action="store_true", help="go on after the end-of-sequence token")


def sampling_params(args):
    """SamplingParams from the options. Raises RequestError for bad values."""
    return SamplingParams(
        max_tokens=args.max_tokens, temperature=args.temp, top_k=args.top_k, top_p=args.top_p, min_p=args.min_p,
        repetition_penalty=args.repeat_penalty, repetition_context=args.repeat_last_n,
        presence_penalty=args.presence_penalty, frequency_penalty=args.frequency_penalty,
        logit_bias=dict(args.logit_bias) if args.logit_bias else None, seed=args.seed, stop=tuple(args.stop or ()),
        stop_token_ids=tuple(args.stop_token_id or ()), logprobs=getattr(args, "logprobs", None),
        ignore_eos=args.ignore_eos)


def add_template(parser):
    group = parser.add_argument_group("prompt format")
    group.add_argument("--raw", "--ignore-chat-template", action="store_true",
                       help="the prompt as it is, without a chat template")
    group.add_argument("-sys", "--system-prompt", metavar="TEXT", help="a system message before the prompt")
    group.add_argument("--chat-template", metavar="FILE",
                       help="a jinja file to use in place of the model's own chat template")


def template_options(args):
    """Keyword arguments of encode_chat: the text of --chat-template. Raises ConfigError when it cannot be read."""
    if args.chat_template is None:
        return {}
    return {"chat_template": read_text(args.chat_template, "--chat-template")}


def read_text(path, what):
    """A text file's content ("-" is standard input). Raises ConfigError naming the option and the file."""
    try:
        if path == "-":
            return sys.stdin.buffer.read().decode()
        with open(path, encoding="utf-8") as f:
            return f.read()
    except OSError as e:
        raise ConfigError(f"{what}: cannot read {path}: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise RequestError(f"{what}: {path} is not UTF-8 text (byte {e.start})") from e
