"""`mlxr calibrate MODEL`: fit the page formats that keep K before RoPE (q3, q2, fit) to a model."""

import json
import os

from ..errors import ConfigError
from . import options, show
from .validate import Progress, text_of

HELP = "fit the page formats q3, q2 and fit to a model, on real text"
EXAMPLES = """examples:
  mlxr calibrate                                    the default model, on prose and program text that mlxr ships
  mlxr calibrate ./model.gguf --text book.txt       on a text of yours
  mlxr calibrate ./model.gguf --out model.gguf.calibration.safetensors     beside the model, where it is found, too
  mlxr validate ./model.gguf --kv q3 --text other.txt                      then: what it costs, on text it has not seen
"""


def arguments(parser):
    options.add_model(parser)
    add = parser.add_argument
    add("--text", metavar="FILE", help="real text, UTF-8 (default: prose that mlxr ships, and its own source)")
    add("--windows", type=int, default=12, metavar="N", help="passages, spread over the text (default: 12)")
    add("--context", type=int, default=1024, metavar="N", help="tokens of a passage (default: 1024)")
    add("--out", metavar="FILE", help="where it goes (default: the cache folder)")
    add("--costs", type=int, default=2, metavar="N",
        help="measure what each layer costs in few bits, for page format fit, on N passages between those (default: 2; 0: do not)")
    add("--gains", type=int, default=4, metavar="N",
        help="measure what each part gains, on N passages between those (default: 4; 0: do not)")
    add("--json", action="store_true", help="print JSON")


def run(args):
    if args.windows < 2:
        raise ConfigError(f"--windows must be at least 2, not {args.windows}")
    if args.costs < 0:
        raise ConfigError(f"--costs must be at least 0, not {args.costs}")
    if args.gains < 0:
        raise ConfigError(f"--gains must be at least 0, not {args.gains}")
    if args.out and not os.path.isdir(os.path.dirname(os.path.abspath(args.out))):
        raise ConfigError(f"--out {args.out}: there is no folder {os.path.dirname(os.path.abspath(args.out))}")
    from ..quality.calibrate import calibrate            # late: `mlxr --help` must not wait for mlx
    from ..quality.texts import calibration_text
    from ..weights.locate import locate

    text = text_of(args.text) if args.text else calibration_text()

    with Progress() as progress:
        report = calibrate(locate(args.model_option or args.model), text, windows=args.windows, context=args.context,
                           out=args.out, costs_on=args.costs, gains_on=args.gains, progress=progress, warn=show.warn)
    if args.json:
        print(json.dumps(report))
    else:
        print(f"calibrated {report['layers']} layers on {report['tokens']} tokens of {report['text']['name']}: {report['file']}")
        if report["before_rope"] < report["layers"]:
            print(f"in {report['layers'] - report['before_rope']} of them K is kept as attention sees it: how it is rotated is "
                  "not known")
        if report["gains"]:
            print(*_gains_lines(report), sep="\n")
        elif args.gains:
            print("gains were not measured: between the passages there is no room for others; give a longer --text, or fewer --windows")
    return 0


def _gains_lines(report):
    n = report["gains_windows"]
    yield f"what each part gains, in-forward, on {n} other passage{'s' if n > 1 else ''} of {report['context']} tokens:"
    yield f"  {'':38s} {'bits':>6s} {'KL':>18s} {'top-1 %':>14s} {'perplexity %':>16s}"
    for r in report["gains"]:
        cells = [f"{r[name]:{form}} ±{r[name + '_se'] or 0:{se}}" if r[name] is not None else "no number"
                 for name, form, se in (("kl", ".5f", ".5f"), ("top1", ".1f", ".1f"), ("delta_ppl", "+.2f", ".2f"))]
        yield f"  {r['what']:38s} {r['bits']:6.2f} {cells[0]:>18s} {cells[1]:>14s} {cells[2]:>16s}"
