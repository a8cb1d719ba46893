"""`mlxr chat`: a conversation in the terminal."""

import contextlib
import sys

from ..errors import MlxrError
from . import options, show

HELP = "talk with a model in the terminal"
EXAMPLES = """examples:
  mlxr chat
  mlxr chat Qwen/Qwen3-0.6B --system-prompt "Answer in one sentence." --temp 0.7

in the conversation: /reset forgets it, /stats shows numbers, /help lists commands, /exit or Ctrl-D leaves;
Ctrl-C stops an answer and not the program
"""
COMMANDS = "/reset forgets the conversation, /stats shows numbers, /exit leaves; Ctrl-C stops an answer"


def arguments(parser):
    options.add_model(parser)
    group = parser.add_argument_group("prompt format")
    group.add_argument("-sys", "--system-prompt", metavar="TEXT", help="a system message before the conversation")
    group.add_argument("--chat-template", metavar="FILE", help="a jinja file in place of the model's own chat template")
    options.add_sampling(parser, max_tokens=1024, logprobs=False)
    options.add_engine(parser)
    options.add_auto(parser)


def run(args):
    params = options.sampling_params(args)
    template = options.template_options(args)
    from ..api import LLM                            # late: `mlxr --help` must not wait for mlx

    progress = show.load_progress() if sys.stderr.isatty() else None
    with LLM(args.model_option or args.model, warn=show.warn, progress=progress,
             kv_auto_validate=args.kv_auto_validate, **options.engine_options(args)) as llm:
        print(*show.engine_lines(llm.info), COMMANDS, sep="\n", file=sys.stderr)
        with contextlib.suppress(ImportError):       # input() then has line editing and history, where Python has it
            import readline  # noqa: F401
        return Conversation(llm, params, args.system_prompt, template).run()


class Conversation:
    """The messages so far, and the loop that reads, answers and obeys commands."""

    def __init__(self, llm, params, system, template):
        self.llm, self.params, self.system, self.template = llm, params, system, template
        self.reset()

    def reset(self):
        self.messages = [{"role": "system", "content": self.system}] if self.system else []

    def run(self):
        """Until the user leaves. Returns the exit code."""
        while True:
            try:
                line = input("> " if sys.stdin.isatty() else "").strip()
            except EOFError:
                return 0
            except KeyboardInterrupt:                # at the prompt: forget the line, stay
                print("\n(Ctrl-D or /exit leaves)", file=sys.stderr)
                continue
            if line in ("/exit", "/quit"):
                return 0
            if line.startswith("/"):
                self.command(line)
            elif line:
                self.say(line)

    def command(self, line):
        if line == "/reset":
            self.reset()
            print("(forgotten)", file=sys.stderr)
        elif line == "/stats":
            stats = self.llm.stats()
            print(f"{len(self.messages)} messages, {stats['tokens']} tokens computed in {stats['steps']} steps, "
                  f"pages {stats['pages_used']} used, {stats['pages_free']} free, "
                  f"peak memory {show.bytes_text(stats['peak_bytes'])}", file=sys.stderr)
        else:
            print("" if line == "/help" else f"unknown command {line}; ", COMMANDS, sep="", file=sys.stderr)

    def say(self, text):
        """Answer one message. What is stopped by Ctrl-C stays in the conversation as far as it came."""
        self.messages.append({"role": "user", "content": text})
        answer, chunks = "", None
        try:
            chunks = self.llm.stream_chat(self.messages, self.params, **self.template)
            for chunk in chunks:
                answer += chunk.text
                sys.stdout.write(chunk.text)
                sys.stdout.flush()
            sys.stdout.write("\n")
        except KeyboardInterrupt:
            chunks.close() if chunks else None       # frees its pages
            print("\n(stopped)", file=sys.stderr)
        except MlxrError as e:                       # too long, say: the conversation goes on without this message
            self.messages.pop()
            print(f"mlxr: error: {e}", file=sys.stderr)
            return
        self.messages.append({"role": "assistant", "content": answer})
