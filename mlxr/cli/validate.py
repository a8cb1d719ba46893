"""`mlxr validate MODEL`: what page formats cost in quality on this model, with a verdict on each."""

import json
import os

from ..errors import ConfigError
from . import options, show

HELP = "measure what page formats cost in quality on a model, and give a verdict on each"
EXAMPLES = """examples:
  mlxr validate --kv q8,q4                                  perplexity, top-1, KL, greedy match, checks
  mlxr validate ./model.gguf --kv q4 --text book.txt --contexts 1024,4096 --html report.html
  mlxr validate --kv k:q8,v:q4 --kv q8 --require q8         exit code 1 unless q8 is accepted
  mlxr validate --kv q8,q4 --against mlx-lm --json          with mlx-lm's own quantized cache in the same table
  mlxr validate --logits f32 "kv=q8;backend=reference"      differences of two configurations' logits

--kv may be repeated. Commas separate formats, and so do semicolons; a part that is no plain name (v:q4, skip=0:2) goes on
with the format before it: `q8,q4` are two formats, `k:q8,v:q4` is one.
"""


def arguments(parser):
    options.add_model(parser)
    add = parser.add_argument
    add("--kv", action="append", metavar="FORMATS", help="page formats (default: every quantized one there is)")
    add("--kv-sink", type=int, default=0, metavar="N", help="with the first N tokens in f16, in every format (default: 0; or q4,sink=N in --kv)")
    add("--text", metavar="FILE", help="real text, UTF-8 (default: one that mlxr ships)")
    add("--contexts", metavar="N[,N]", help="tokens before the scored ones (default: 1024)")
    add("--windows", type=int, metavar="N", help="windows of each context, spread over the text (default: 12)")
    add("--modes", metavar="NAMES", help="in-forward, snapshot or both (default: both)")
    add("--streams", metavar="NAMES", help="modes in which K alone and V alone are measured, too, or none (default: snapshot)")
    add("--quick", action="store_true", help="4 windows, in-forward alone, no probes and no checks, unless said otherwise")
    add("--against", metavar="NAMES", help="mlx-lm: its own quantized cache, 8 and 4 bits, in the same table")
    add("--require", metavar="FORMAT", help="exit code 1 unless this format is accepted and its checks hold")
    add("--logits", nargs=2, metavar=("A", "B"), help="compare the logits of two configurations, and nothing else")
    add("--json", action="store_true", help="print JSON")
    add("--html", metavar="FILE", help="write a report with charts, one file that needs no other")
    add("--page-size", type=int, default=64, metavar="N", help="tokens in a page: 16, 32, 64, 128 (default: 64)")
    add("--calibration", metavar="FILE", help="what `mlxr calibrate` wrote, for q3, q2 and fit (default: found)")
    add("--dtype", choices=("float32", "float16", "bfloat16"), help="of activations and plain weights (default: as stored; float32 on a CPU)")
    add("--no-store", action="store_true", help="do not keep the verdicts for --kv auto")


def run(args):
    model, text = args.model_option or args.model, text_of(args.text)
    show.check_page(args.html)
    if args.logits:
        return _logits(args, model, text)
    from ..quality import formats, store, validation     # late: `mlxr --help` must not wait for mlx
    from ..config import EngineConfig

    EngineConfig(page_size=args.page_size)               # a bad size is told before a model is loaded
    plan = _plan(args, formats, validation)
    if args.require and args.require not in plan.formats:
        raise ConfigError(f"--require {args.require} is not among the formats measured: {'; '.join(plan.formats)}")
    from ..weights.locate import locate

    path = locate(model)
    with Progress() as progress:
        report = validation.validate(path, plan, text, page_size=args.page_size, dtype=args.dtype, calibration=args.calibration, progress=progress, warn=show.warn)
    if not args.no_store:
        store.save(store.identity(path), report)
    accepted = validation.accepted(report, args.require) if args.require else None
    report["required"] = {"format": args.require, "accepted": accepted} if args.require else None
    show.write_page(args.html, lambda: _page(report))
    if args.json:
        print(json.dumps(report))
    else:
        from ..quality import report as tables

        tables.show(report)
    return 1 if accepted is False else 0


def text_of(path):
    from ..quality.texts import Text, shipped_text

    return shipped_text() if path is None else Text(os.path.basename(path), options.read_text(path, "--text"))


def _plan(args, formats, validation):
    kv = formats.split(args.kv) if args.kv else formats.quantized(args.page_size)
    if args.kv_sink < 0:
        raise ConfigError(f"--kv-sink must be a whole number of at least 0, not {args.kv_sink}")
    if args.kv_sink:
        kv = [f"{name},sink={args.kv_sink}" for name in kv]
    quick = {"windows": 4, "modes": ("in-forward",), "streams": (), "checks": False, "recall": False} if args.quick else {}
    given = {"contexts": _numbers(args.contexts), "windows": args.windows, "modes": _names(args.modes),
             "streams": () if args.streams == "none" else _names(args.streams), "against": _names(args.against)}
    return validation.Plan(tuple(kv), **{**quick, **{n: v for n, v in given.items() if v is not None}})


def _numbers(text):
    try:
        return None if text is None else tuple(dict.fromkeys(int(n) for n in text.split(",") if n.strip()))
    except ValueError:
        raise ConfigError(f"--contexts {text!r}: whole numbers with commas are expected, for example 1024,2048") from None


def _names(text):
    return None if text is None else tuple(n.strip() for n in text.split(",") if n.strip())


def _logits(args, model, text):
    """Compare two configurations."""
    for name in ("kv", "windows", "modes", "streams", "against", "require", "html"):
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name} cannot be used with --logits, which compares two configurations alone")
    if args.quick or args.dtype or args.page_size != 64:
        raise ConfigError("--quick, --dtype and --page-size cannot be used with --logits; write dtype=... or page=... into "
                          "a configuration, for example \"kv=q8;dtype=float16;page=32\"")
    contexts = _numbers(args.contexts) or (512,)
    if len(contexts) > 1:
        raise ConfigError("--contexts: --logits takes one")
    from ..quality import compare
    from ..weights.locate import locate

    for text_of in args.logits:
        compare.parse(text_of)
    found = compare.compare(locate(model), *args.logits, text, contexts[0])
    if args.json:
        print(json.dumps(found))
    else:
        from ..quality import report as tables

        tables.show_logits(found)
    return 0


class Progress:
    """A bar with the time left on a terminal, lines elsewhere; begins when the number of steps is known."""

    def __init__(self):
        self._steps = None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self._steps:
            self._steps.__exit__(*exception)

    def expect(self, steps):
        from ..benchmarks.progress import Steps

        self.__exit__(None, None, None)              # of a validation before
        self._steps = Steps(steps, "step").__enter__()

    def begin(self, what):
        self._steps.begin(what)

    def step(self):
        self._steps.step()


def _page(report):
    from ..quality.page import page                  # late: only where a page is wanted

    return page(report)
