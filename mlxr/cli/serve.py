"""`mlxr serve`: an HTTP server with OpenAI's and Anthropic's interfaces, and a chat page."""

import os
import re
import sys

from ..errors import ConfigError
from . import options, show

DEFAULT_SHARE = 0.5      # of the machine's memory, where neither --memory nor --pool is given
HELP = "serve a model over HTTP, with OpenAI's and Anthropic's interfaces and a chat page"
EXAMPLES = """examples:
  mlxr serve
  mlxr serve ./model.gguf --port 9000 --kv q8 --memory 60%
  MLXR_API_KEY=secret mlxr serve --host 0.0.0.0

then open http://127.0.0.1:8080/ in a browser, or
  curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{"messages": [{"role": "user", "content": "Why is the sky blue?"}]}'
"""


def arguments(parser):
    options.add_model(parser)
    group = parser.add_argument_group("server")
    add = group.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine alone)")
    add("--port", type=int, default=8080, metavar="N", help="port (default: 8080; 0 picks a free one)")
    add("--api-key", metavar="KEY", help="what clients must send as a bearer token (or MLXR_API_KEY, which others cannot see)")
    add("--alias", metavar="NAME", help="the model's name for clients (default: as given, without folders)")
    add("--also", action="append", metavar="NAME=MODEL", help="another model, loaded when a request names it; may be repeated")
    add("--max-loaded", type=int, default=1, metavar="N", help="models in memory at once; they share --memory (default: 1)")
    add("--unload-after", type=float, metavar="SECONDS", help="unload a model that was not used for that long (default: never)")
    add("--max-queue", type=int, default=256, metavar="N", help="sequences that may wait; more are told to come back (default: 256)")
    add("--max-tokens", type=int, default=4096, metavar="N", help="generated where a request says nothing (default: 4096)")
    add("--max-body", type=options.size, default=4 << 20, metavar="SIZE", help="bytes of a request at most (default: 4M)")
    add("--timeout", type=float, metavar="SECONDS", help="end requests after this time (default: none)")
    add("--grace", type=float, default=30.0, metavar="SECONDS", help="for open requests when the server stops (default: 30)")
    add("--cors", action="append", metavar="ORIGIN", help="let pages of this origin read answers; may be repeated (default: none)")
    add("--allowed-hosts", metavar="NAMES", help="names in requests' Host header that are accepted, with commas, * for all "
        "(default: this machine's loopback names without a key, all with one)")
    add("--log-prompts", action="store_true", help="write prompts to the log (default: never)")
    add("--no-prefix-cache", action="store_true", help="compute every prompt in full")
    add("--cache-dir", metavar="FOLDER", help="keep pages of prompts there, which can be read from them, for "
        "a restart to find (default: nowhere)")
    add("--cache-dir-size", type=options.size, default=8 << 30, metavar="SIZE", help="bytes that it may take (default: 8G)")
    options.add_engine(parser).add_argument(
        "--memory", metavar="SIZE", help="for weights, page pool and scratch together: bytes (8G) or a share of the machine (default: 50%%)")


def run(args):
    key = args.api_key if args.api_key is not None else os.environ.get("MLXR_API_KEY")
    if key == "":
        raise ConfigError("the API key is empty; leave it out, or give one")
    from ..server.binding import LOCAL_NAMES, check_binding

    check_binding(args.host, key)
    _check(args)
    served, engine = _served(args), _engine(args)
    from ..server.models import Models               # late: what is wrong above is told without a wait for mlx
    from ..server.run import serve
    from ..server.service import ServeConfig, Service

    config = ServeConfig(api_key=key, max_queue=args.max_queue, max_body=args.max_body,
                         max_tokens=args.max_tokens, timeout=args.timeout, grace=args.grace, cors=tuple(args.cors or ()),
                         hosts=_hosts(args, key, LOCAL_NAMES), log_prompts=args.log_prompts)
    progress = show.load_progress() if sys.stderr.isatty() else None

    def load(name):
        service = Service(name, served[name], config, engine, warn=show.warn, progress=progress)
        lines = [*show.engine_lines(service.info), *show.memory_table(service.info)]
        print(f"loaded {name}", *lines, sep="\n", file=sys.stderr, flush=True)
        return service

    def started(url):
        print(f"serving {', '.join(served)} on {url}", file=sys.stderr, flush=True)
    return serve(Models(config, list(served), load, args.max_loaded, args.unload_after), args.host, args.port, started)


def _check(args):
    """Raise ConfigError for a number that cannot be used."""
    for name, low in (("max_queue", 0), ("max_tokens", 1), ("grace", 0), ("timeout", 1e-9), ("max_loaded", 1), ("unload_after", 0)):
        value = getattr(args, name)
        if value is not None and not value >= low:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least {low:g}, not {value}")
    if not 0 <= args.port <= 65535:
        raise ConfigError(f"--port must be from 0 to 65535, not {args.port}")


def _engine(args):
    """The EngineConfig of each model: of the budget, an equal part for each that may be loaded."""
    from ..config import EngineConfig

    memory = _memory(args.memory) or ({} if args.pool else {"memory_share": DEFAULT_SHARE})
    memory = {name: value / args.max_loaded if name == "memory_share" else value // args.max_loaded for name, value in memory.items()}
    return EngineConfig(**options.engine_options(args), prefix_cache=not args.no_prefix_cache, cache_dir=args.cache_dir,
                        cache_dir_bytes=args.cache_dir_size, **memory)


def _served(args):
    """{name: model}, the default first. Raises ConfigError."""
    model = args.model_option or args.model
    served = {args.alias or _name(model): model}
    for text in args.also or ():
        name, sign, other = text.partition("=")
        if not (name and sign and other):
            raise ConfigError(f"--also is {text!r}; write NAME=MODEL")
        if name in served:
            raise ConfigError(f"--also names {name!r}, which is there already")
        served[name] = other
    return served


def _name(model):
    """A model's name for clients: a repository's or alias as it is, of a path the last part."""
    if model is None:
        return "smollm2-135m"
    return os.path.basename(os.path.abspath(model)) if os.path.exists(model) else model


def _hosts(args, key, local):
    if args.allowed_hosts:
        names = frozenset(n.strip().lower() for n in args.allowed_hosts.split(",") if n.strip())
        return None if "*" in names else names
    return None if key else local | {args.host.strip("[]").lower()}


def _memory(text):
    """Fields of EngineConfig for --memory. Raises ConfigError."""
    if text is None:
        return {}
    share = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*%", text.strip())
    if share or re.fullmatch(r"0?\.[0-9]+", text.strip()):
        part = float(share[1]) / 100 if share else float(text)
        if not 0 < part <= 1:
            raise ConfigError(f"--memory must be more than nothing and at most 100%, not {text}")
        return {"memory_share": part}
    import argparse

    try:
        return {"memory_bytes": options.size(text)}
    except argparse.ArgumentTypeError:
        raise ConfigError(f"--memory is {text!r}; write bytes such as 8G, or a share such as 60%") from None
