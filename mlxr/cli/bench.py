"""`mlxr bench MODEL`: tokens a second, alone or against other engines; `mlxr bench kernels`: every kernel by itself."""

import json
import os
import sys

from ..errors import ConfigError
from . import options, show

HELP = "measure tokens a second of a model, or time and bandwidth of every kernel"
EXAMPLES = """examples:
  mlxr bench ./model.gguf                               prefill of 512 tokens, 64 tokens after 128 others
  mlxr bench --depth 4096 --against llama.cpp,mlx-lm    in one run, taking turns
  mlxr bench kernels --kernels attend,q_gemv            kernels, against MLX's own operations
  mlxr bench kernels --preset full --csv runs.csv --tag before
"""
KERNELS = "kernels"   # the word in place of MODEL
PRESETS = "tiny", "quick", "full"
_SPEED = {"pp": 512, "tg": 64, "depth": 128, "batch": 1, "against": None}
_KERNELS = {"csv": None, "tag": "", "preset": "quick", "kernels": None}


def arguments(parser):
    options.add_model(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--reps", type=int, metavar="N", help="repetitions, of which the median is taken (default: 5)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of a CPU (default: MLXR_THREADS, or the physical cores)")
    group = parser.add_argument_group("of a model")
    add = group.add_argument
    add("--pp", type=int, metavar="N", help="tokens of the prompts that are read (default: 512)")
    add("--tg", type=int, metavar="N", help="tokens that are generated (default: 64)")
    add("--depth", type=int, metavar="N", help="tokens of context before those (default: 128)")
    add("--batch", type=int, metavar="N", help="sequences at once (default: 1)")
    add("--against", metavar="NAMES", help="measure llama.cpp, mlx-lm or both (with a comma), too, in the same run")
    group = parser.add_argument_group("of kernels (mlxr bench kernels)")
    add = group.add_argument
    add("--kernels", metavar="NAMES", help="these alone, with commas")
    add("--preset", choices=PRESETS, help="how many shapes: tiny, quick or full (default: quick)")
    add("--csv", metavar="FILE", help="append the rows to a CSV file")
    add("--tag", metavar="TEXT", help="a word for the rows of the CSV file")
    options.add_engine(parser)


def run(args):
    wanted = args.model_option or args.model
    kernels = wanted == KERNELS
    for name in (_SPEED if kernels else _KERNELS):
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name} is an option of {'mlxr bench MODEL' if kernels else 'mlxr bench kernels'}")
    for name, default in (_KERNELS if kernels else _SPEED).items():
        if getattr(args, name) is None:
            setattr(args, name, default)
    args.reps = 5 if args.reps is None else args.reps
    if args.threads is not None and args.threads < 1:
        raise ConfigError(f"--threads must be at least 1, not {args.threads}")
    return _kernels(args) if kernels else _speed(args, wanted)


def _speed(args, model):
    from ..benchmarks.speed import Contest, Plan, check_peers     # late: `mlxr --help` must not wait for it
    from ..weights.locate import locate

    plan = Plan(args.pp, args.tg, args.depth, args.batch, args.reps)
    against = _names(args.against)
    check_peers(against)
    config = options.engine_options(args)
    for name in ("pool_bytes", "context"):
        if config.pop(name) is not None:
            raise ConfigError(f"--{name.split('_')[0]} cannot be chosen here: it follows from --pp, --depth, --tg and --batch")
    contest = Contest(locate(model), plan, config, against, args.threads).run()
    report = contest.report()
    if args.json:
        print(json.dumps(report))
    else:
        print(*_speed_lines(report), sep="\n")
    return _ended(contest.interrupted)


def _speed_lines(r):
    m = r["machine"]
    yield f"{r['model']}  ({r['architecture']}, {r['dtype']}, weights {show.bytes_text(r['weights_bytes'])})"
    yield (f"backend {r['backend']}, {r['threads']} threads, pages {r['page_format']} of {r['page_size']}, "
           f"kernels {', '.join(n if b == r['backend'] else f'{n} ({b})' for n, b in (r['kernels'] or {}).items()) or 'none'}")
    yield f"{m['cpu']}, {m['cpus']} CPUs, load {m['load']}; " + ", ".join(f"{n} {v}" for n, v in r["versions"].items())
    yield ""
    what = f"pp{r['pp']}", f"tg{r['tg']} @ {r['depth']}" + (f", batch {r['batch']}" if r["batch"] > 1 else "")
    yield f"{'tokens/s (least - most)':24s} {what[0]:>28s} {what[1]:>28s}   ratio of mlxr's to theirs"
    for name, result in [("mlxr", r), *r["against"].items()]:
        cells = [_cell(result, metric) for metric in ("prefill", "decode")]
        ratios = "" if name == "mlxr" else "   ".join(f"{k} {_times(result[f'{k}_ratio'])}" for k in ("prefill", "decode"))
        yield f"{name:24s} {cells[0]:>28s} {cells[1]:>28s}   {ratios}".rstrip()
    yield from (f"note: {n}" for n in r["notes"])
    if r["interrupted"]:
        yield "note: interrupted; these are the repetitions that were complete"


def _cell(result, metric):
    if result[f"{metric}_tps"] is None:
        return "-"
    least, most = result[f"{metric}_tps_spread"]
    return f"{result[f'{metric}_tps']:.1f} ({least:.1f} - {most:.1f})"


def _times(x):
    return "-" if x is None else f"{x:.2f} x"


def _kernels(args):
    if args.reps < 1:
        raise ConfigError(f"--reps must be at least 1, not {args.reps}")
    if args.threads is not None:
        os.environ["MLXR_THREADS"] = str(args.threads)
    from ..benchmarks import kernel_table
    from ..benchmarks.kernel_bench import KernelBench

    if args.csv:
        kernel_table.check_csv(args.csv)                 # told before anything is measured
    bench = KernelBench(args.preset, _names(args.kernels), args.reps).run()
    if args.csv:
        kernel_table.append_csv(args.csv, bench.rows, args.tag)
    if args.json:
        print(json.dumps(bench.rows))
    else:
        print(*kernel_table.lines(bench.rows), sep="\n")
    for note in bench.notes:
        print(f"mlxr: {note}", file=sys.stderr)
    return _ended(bench.interrupted) or (1 if bench.wrong else 0)


def _names(text):
    return [n.strip() for n in (text or "").split(",") if n.strip()]


def _ended(interrupted):
    return 130 if interrupted else 0
