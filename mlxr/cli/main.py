"""The `mlxr` command: finds the module of a subcommand and runs it. Errors are one line, exit code 2."""

import argparse
import importlib
import os
import pkgutil
import signal
import sys
import threading

from .. import _version
from ..errors import MlxrError

_NOT_COMMANDS = {"main", "options", "show"}
EXAMPLES = """examples:
  mlxr generate --prompt "The quick brown fox"        the default model answers
  mlxr generate Qwen/Qwen3-0.6B -p "Write a haiku"    a model from Hugging Face
  mlxr chat ./model.gguf                              a conversation with a local file
  mlxr inspect ./model.gguf                           what is in a model
"""


def commands():
    """Names of the subcommands: the modules of this package."""
    return sorted(m.name for m in pkgutil.iter_modules([os.path.dirname(__file__)]) if m.name not in _NOT_COMMANDS)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message):
        self.exit(2, f"mlxr: error: {_one_line(message)} (see '{self.prog} --help')\n")


def main(argv=None):
    """Run the command line. Returns the exit code."""
    interrupts = _watch_interrupts()
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()                           # a reader that went away is noticed here, not after the end
        return code
    except MlxrError as e:
        print(f"mlxr: error: {_one_line(e)}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (KeyboardInterrupt, ImportError) as e:    # an import that is interrupted may say that it was built badly
        if isinstance(e, ImportError) and not interrupts:
            raise
        _interrupted()


def _interrupted():
    print("", file=sys.stderr, flush=True)
    os._exit(130)            # at once: the engine's thread may be in the middle of loading, and cannot be asked to stop


def _watch_interrupts():
    """A list that is empty until Ctrl-C. One that falls into a callback, which cannot raise, ends the process too."""
    seen = []
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return seen                                  # ignored by who started this process, or not ours to take

    def handler(number, frame):
        seen.append(number)
        signal.default_int_handler(number, frame)

    def unraisable(report, usual=sys.unraisablehook):
        if isinstance(report.exc_value, KeyboardInterrupt):
            _interrupted()
        usual(report)

    signal.signal(signal.SIGINT, handler)
    sys.unraisablehook = unraisable
    return seen


def _run(argv):
    try:
        name, args = _parse(argv)
    except SystemExit as e:                          # argparse printed what there was to say
        return e.code
    return importlib.import_module(f".{name}", __package__).run(args) or 0


def _parse(argv):
    """(command, its options). A parser for each command, so that options may stand before and between arguments."""
    if argv and argv[0] in commands():
        module = importlib.import_module(f".{argv[0]}", __package__)
        parser = Parser(prog=f"mlxr {argv[0]}", description=_sentence(module.HELP), epilog=module.EXAMPLES,
                        formatter_class=argparse.RawDescriptionHelpFormatter)
        module.arguments(parser)
        return argv[0], parser.parse_intermixed_args(argv[1:])
    parser = Parser(prog="mlxr", description="Run language models on pages of quantized KV cache, on MLX.",
                    epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"mlxr {_version.__version__}")
    listed = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for name in commands():
        listed.add_parser(name, help=importlib.import_module(f".{name}", __package__).HELP)
    parser.parse_args(argv)                          # prints the help or the version, or names what is wrong
    parser.error("give the command first, then its options")


def _sentence(text):
    return text[0].upper() + text[1:] + "."


def _one_line(error):
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
