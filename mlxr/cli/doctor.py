"""`mlxr doctor`: what this machine is, whether every kernel is right on it, and which products are faster."""

import json
import os

from ..errors import ConfigError
from . import options, show

HELP = "check every kernel on this machine, measure what is faster, and say what memory there is"
EXAMPLES = """examples:
  mlxr doctor                        a page that can be pasted into an issue
  mlxr doctor ./model.gguf           the matrices of this model are measured
  mlxr doctor --all --json           every page format and type of weights

A kernel that is wrong is noted in the tuning table in the cache folder: from then on its place is taken by plain MLX
operations on this machine, until mlxr, MLX or the kernel is another or `mlxr doctor` finds it right. The exit code is 1.
Ctrl-C prints what was found so far, and changes no table; the exit code is 130.
"""


def arguments(parser):
    options.add_model(parser, "whose matrices are measured (default: a few sizes, and no model is loaded)")
    parser.add_argument("--all", action="store_true", help="every page format and type of weights; compiling them takes minutes")
    parser.add_argument("--no-timing", action="store_true", help="check kernels alone; measure nothing")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of a CPU (default: MLXR_THREADS, or the physical cores)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args):
    if args.threads is not None:
        if args.threads < 1:
            raise ConfigError(f"--threads must be at least 1, not {args.threads}")
        os.environ["MLXR_THREADS"] = str(args.threads)
    from ..doctor.examination import Examination          # late: `mlxr --help` must not wait for mlx

    found = Examination(args.model_option or args.model, args.all, not args.no_timing).run()
    if args.json:
        print(json.dumps(found.report))
    else:
        print(*_lines(found.report), sep="\n")
    return 130 if found.report["interrupted"] else 0 if found.report["ok"] else 1


def _lines(r):
    s, m = r["system"], r["memory"]
    yield f"mlxr doctor, {r['time']}"
    yield f"system     {s['system']}, {s['cpu']}, {s['cpus']} CPUs, load {s['load']}"
    yield "versions   " + ", ".join(f"{n} {v}" for n, v in s["versions"].items())
    yield f"backend    {s['backend']}" + (f" with {s['threads']} threads" if s["backend"] == "host" else "") + f"; Metal: {'yes' if s['metal'] else 'no'}"
    yield f"compiler   {s['compiler'] or 'none found: on a CPU, kernels run as MLX operations, which are slower'}"
    yield f"BLAS       {s['blas']}"
    if s["environment"]:
        yield "settings   " + " ".join(f"{n}={v}" for n, v in s["environment"].items())
    yield (f"memory     {show.bytes_text(m['total_bytes'])}, {show.bytes_text(m['available_bytes'])} available"
           + (f", working set of the GPU {show.bytes_text(m['working_set_bytes'])}" if "working_set_bytes" in m else ""))
    yield from (f"           {line}" for line in m["advice"])
    yield ""
    yield from _kernel_lines(r)
    if r["products"]:
        yield ""
        yield f"{'product':38s} {'1 row: ours':>12s} {'MLX':>9s} {'64 rows: ours':>14s} {'MLX':>9s}   faster at 1 row"
        for p in r["products"]:
            one, many = (p["rows"][n] for n in ("1", "64"))
            yield (f"{p['key']:38s} {one['ours_ms']:9.3f} ms {one['mlx_ms']:6.3f} ms {many['ours_ms']:11.3f} ms {many['mlx_ms']:6.3f} ms   "
                   + (p["choice"] if p["mlx"] == "mx.quantized_matmul" else "ours alone: MLX would decode it first"))
        if r["system"]["backend"] != "metal":
            yield "on a CPU every layer takes ours; on Metal layers take the faster, as measured there"
    yield ""
    yield from (f"note: {n}" for n in r["notes"])
    if r["table"]:
        yield f"tuning table: {r['table']}"
    wrong = sorted({k["kernel"] for k in r["kernels"] if not k["ok"]})
    yield f"WRONG: {', '.join(wrong)}; plain MLX operations take their place on this machine. Please report this page." if wrong else (
        "NOT WELL: see above" if not r["ok"] else "interrupted: what was examined is well" if r["interrupted"] else "all is well")


def _kernel_lines(r):
    names = dict.fromkeys(k["kernel"] for k in r["kernels"])
    for name in names:
        rows = [k for k in r["kernels"] if k["kernel"] == name]
        bad = [k for k in rows if not k["ok"]]
        worst = max((k["error"] for k in rows if k["error"] is not None), default=None)
        yield (f"{name:11s} {'WRONG' if bad else 'ok':6s} {len(rows) - len(bad)} of {len(rows)} right"
               + ("" if worst is None else f", at most {worst:.1e} from the twin"))
        yield from (f"           {k['what']}: {k['why']}" for k in bad)
    d = r["donation"]
    if d:
        yield (f"{'donation':11s} {'ok' if d['ok'] else 'WRONG':6s} a seal takes {show.bytes_text(d['seal_bytes'])} beside a pool of "
               f"{show.bytes_text(d['pool_bytes'])}, a tail write {show.bytes_text(d['write_bytes'])} beside {show.bytes_text(d['tail_bytes'])}")
        if d["why"]:
            yield f"           {d['why']}"
