"""The rows of the kernel benchmark as a table for people and as lines of a CSV file."""

import datetime

from .machine import machine, versions

FIELDS = ("kernel", "model", "shape", "ms", "gbps", "share_of_bound", "bound_gbps", "gflops", "mlx", "mlx_ms", "ratio_to_mlx",
          "max_rel_error", "reps", "backend", "threads", "load")
COLUMNS = ("time", "tag", *FIELDS, "cpu", "mlxr_version", "mlx_version")


def lines(rows):
    """A header and a line for each row."""
    wide = max([len(r["shape"]) for r in rows], default=10)
    yield (f"{'kernel':10s} {'model':13s} {'shape':{wide}s} {'ms':>9s} {'GB/s':>7s} {'of bound':>8s} {'GFLOP/s':>8s} {'vs MLX':>8s} "
           f"{'error':>8s}")
    for r in rows:
        yield (f"{r['kernel']:10s} {r['model']:13s} {r['shape']:{wide}s} {r['ms']:9.4g} {r['gbps']:7.2f} {r['share_of_bound']:8.0%} "
               f"{_number(r['gflops'], 8, 1)} {_number(r['ratio_to_mlx'], 7, 2)}{'x' if r['ratio_to_mlx'] else ' '} {r['max_rel_error']:8.1e}")
    if rows:
        last = rows[-1]
        yield f"backend {last['backend']}, {last['threads']} threads, load {last['load']}; vs MLX: its time over ours"


def _number(x, wide, digits):
    return f"{'-':>{wide}s}" if x is None else f"{x:{wide}.{digits}f}"


def csv_rows(rows, tag=""):
    """The rows as lines of a CSV file with COLUMNS."""
    now, m, v = datetime.datetime.now().astimezone().isoformat(timespec="seconds"), machine(), versions()
    for r in rows:
        yield [now, tag, *(r[n] for n in FIELDS), m["cpu"], v["mlxr"], v.get("mlx", "")]
