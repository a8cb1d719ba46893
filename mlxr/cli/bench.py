"""`mlxr bench MODEL`: tokens a second, alone or against other engines; `mlxr bench kernels`: every kernel by itself."""

import argparse
import json
import os
import sys

from ..errors import ConfigError
from . import options, show

HELP = "measure tokens a second of a model, or time and bandwidth of every kernel"
EXAMPLES = """examples:
  mlxr bench ./model.gguf                               reading 512 tokens, generating 128, as llama-bench does
  mlxr bench --depth 4096 --against llama.cpp,mlx-lm    in one run, taking turns
  mlxr bench --depth 0,4096,32768 --batch 1,8,32 --kv f16,q8,q4 --serving --html bench.html --csv runs.csv --tag before
  mlxr bench kernels --kernels attend,q_gemv            kernels, against MLX's own operations
  mlxr bench kernels --preset full --csv runs.csv --tag before
"""
KERNELS = "kernels"   # the word in place of MODEL
PRESETS = "tiny", "quick", "full"
_SPEED = {"pp": 512, "tg": 128, "depth": [0], "batch": [1], "against": None, "serving": False, "html": None}
_KERNELS = {"preset": "quick", "kernels": None}


def arguments(parser):
    options.add_model(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--reps", type=int, metavar="N", help="repetitions, of which the median is taken (default: 5)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of a CPU (default: MLXR_THREADS, or the physical cores)")
    parser.add_argument("--csv", metavar="FILE", help="append the results to a CSV file")
    parser.add_argument("--tag", metavar="TEXT", default="", help="a word for the rows of the CSV file")
    group = parser.add_argument_group("of a model (--kv may name several page formats, with commas)")
    add = group.add_argument
    add("--pp", type=int, metavar="N", help="tokens of the prompts that are read, after --depth others (default: 512)")
    add("--tg", type=int, metavar="N", help="tokens that are generated, after --depth others (default: 128)")
    add("--depth", type=sizes, metavar="N,...", help="tokens of context before those; several with commas (default: 0). Past 4096 they are copies of "
                                        "pages, which cost the same to read; past the model's own limit only speed means something")
    add("--batch", type=sizes, metavar="N,...", help="sequences at once; several with commas (default: 1)")
    add("--serving", action="store_true", default=None, help="measure prefix hits and a small serving load, too")
    add("--html", metavar="FILE", help="write the results as one HTML page with charts")
    add("--against", metavar="NAMES", help="measure llama.cpp, mlx-lm or both (with a comma), too, in the same run")
    group = parser.add_argument_group("of kernels (mlxr bench kernels)")
    add = group.add_argument
    add("--kernels", metavar="NAMES", help="these alone, with commas")
    add("--preset", choices=PRESETS, help="how many shapes: tiny, quick or full (default: quick)")
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


def sizes(text):
    """Whole numbers with commas, each once."""
    try:
        return list(dict.fromkeys(int(n) for n in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers, such as 0,4096,32768") from None


def _speed(args, model):
    from .. import calibration                                    # late: `mlxr --help` must not wait for it
    from ..benchmarks import csv_file
    from ..benchmarks.speed import check_peers
    from ..benchmarks.suite import CSV, Plan, Suite
    from ..config import EngineConfig
    from ..pages.spec import parse_kv
    from ..quality.auto import AUTO, resolve
    from ..quality.formats import split
    from ..weights.locate import locate

    against = _names(args.against)
    check_peers(against)
    config = options.engine_options(args)
    for name in ("pool_bytes", "context"):
        if config.pop(name) is not None:
            raise ConfigError(f"--{name.split('_')[0]} cannot be chosen here: it follows from --pp, --depth, --tg and --batch")
    kvs = split([config.pop("kv")])
    path = locate(model)
    automatic = EngineConfig(kv=AUTO, page_size=config["page_size"])
    kvs = list(dict.fromkeys(resolve(path, automatic, say=show.warn_of_auto).kv if kv == AUTO else kv for kv in kvs))
    for kv in kvs:
        calibration.require(parse_kv(kv).format, path, config["calibration"])
    show.check_page(args.html)
    if args.csv:
        csv_file.check(args.csv, CSV)                             # told before anything is measured
    suite = Suite(path, Plan(args.pp, args.tg, args.depth[0], args.batch[0], args.reps), args.depth, args.batch, kvs, config, against,
                  args.threads, args.serving).run()
    report = suite.report()
    if args.csv:
        csv_file.append(args.csv, CSV, suite.csv_rows(args.tag))
    show.write_page(args.html, lambda: _page(report))
    if args.json:
        print(json.dumps(report))
    else:
        print(*_speed_lines(report), sep="\n")
    return _ended(suite.interrupted) or (1 if suite.failed else 0)


def _page(report):
    from ..benchmarks.page import page                            # late: only where a page is wanted

    return page(report)


def _speed_lines(r):
    m = r["machine"]
    yield f"{r['model']}  ({r['architecture']}, {r['dtype']}, weights {show.bytes_text(r['weights_bytes'])})"
    yield (f"backend {r['backend']}, {r['threads']} threads, pages {r['page_format']} of {r['page_size']}"
           + (f", first {r['sink']} tokens in f16" if r["sink"] else "") + (f", {r['decoded_pages']} kept decoded" if r["decoded_pages"] else "") + ", "
           f"kernels {', '.join(n if b == r['backend'] else f'{n} ({b})' for n, b in (r['kernels'] or {}).items()) or 'none'}")
    yield f"{m['cpu']}, {m['cpus']} CPUs, load {m['load']}; " + ", ".join(f"{n} {v}" for n, v in r["versions"].items())
    yield ""
    heads = f"pp{r['pp']}", f"tg{r['tg']}"
    yield (f"{'tokens/s (least - most)':24s} {'batch':>5s} {'depth':>6s} {heads[0]:>28s} {heads[1]:>28s}   "
           + ("ratio of mlxr's to theirs" if any(len(c["contestants"]) > 1 for c in r["cells"]) else "")).rstrip()
    for c in r["cells"]:
        for name, rates in c["contestants"].items():
            pp, tg = (_cell(rates, metric) for metric in ("prefill", "decode"))
            ratios = "" if name == "mlxr" else "   ".join(f"{k} {_times(rates[f'{k}_ratio'])}" for k in ("prefill", "decode"))
            yield f"{name + ' ' + c['kv'] if name == 'mlxr' else name:24s} {c['batch']:5d} {c['depth']:6d} {pp:>28s} {tg:>28s}   {ratios}".rstrip()
    yield from _memory_lines(r)
    yield from (f"note: {n}" for n in r["notes"])
    if r["interrupted"]:
        yield "note: interrupted; this is what was complete"


def _memory_lines(r):
    """First tokens, memory, prefix hits, serving."""
    yield ""
    yield (f"{'pages':24s} {'batch':>5s} {'depth':>6s} {'first token':>28s} {'context, cold':>14s} {'peak memory':>12s} {'pool':>10s} {'bytes a token':>14s}")
    for c in r["cells"]:
        first = "-"
        if c["ttft_seconds"] is not None:
            first = f"{_seconds(c['ttft_seconds'])} ({' - '.join(map(_seconds, c['ttft_spread']))})"
        yield (f"{c['kv']:24s} {c['batch']:5d} {c['depth']:6d} {first:>28s} {_seconds(c['fill_seconds']):>14s} {show.bytes_text(c['peak_bytes'] or 0):>12s} "
               f"{show.bytes_text(c['pool_bytes'] or 0):>10s} {c['kv_bytes_per_token']:14.0f}")
    yield f"first token: of {r['pp']} tokens" + (" after a context that is cached; context, cold: one sequence's, read once, where it is no longer than 4096" if any(c["depth"] for c in r["cells"]) else "")
    for x in r["extras"]:
        if p := x["prefix"]:
            yield (f"{x['kv']}: prefix hit of {p['cached_tokens']} of {p['prompt_tokens']} tokens: first token after {p['hit_seconds'] * 1e3:.1f} ms, "
                   f"cold {p['cold_seconds'] * 1e3:.1f} ms" + (f" ({p['note']})" if p["note"] else ""))
        if s := x["serving"]:
            yield (f"{x['kv']}: serving {s['requests']} requests, {s['at_once']} at once, one each {s['mean_gap_seconds'] * 1e3:.0f} ms: {s['tps']:.1f} "
                   f"tokens/s; first token p50 {s['ttft_p50'] * 1e3:.0f} ms, p95 {s['ttft_p95'] * 1e3:.0f} ms; a token p50 {s['pace_p50'] * 1e3:.1f} ms, "
                   f"p95 {s['pace_p95'] * 1e3:.1f} ms")


def _seconds(x):
    return "-" if x is None else f"{x * 1e3:.0f} ms" if x < 10 else f"{x:.1f} s"


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
    from ..benchmarks import csv_file, kernel_table
    from ..benchmarks.kernel_bench import KernelBench

    if args.csv:
        csv_file.check(args.csv, kernel_table.COLUMNS)   # told before anything is measured
    bench = KernelBench(args.preset, _names(args.kernels), args.reps).run()
    if args.csv:
        csv_file.append(args.csv, kernel_table.COLUMNS, kernel_table.csv_rows(bench.rows, args.tag))
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
