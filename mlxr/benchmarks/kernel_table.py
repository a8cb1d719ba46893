"""The rows of the kernel benchmark as a table for people and as lines of a CSV file."""

import csv
import datetime
import os

from ..errors import ConfigError
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


def check_csv(path):
    """Raises ConfigError when rows cannot be appended to that file."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise ConfigError(f"--csv {path}: there is no folder {folder}")
    try:
        with open(path, newline="") as f:
            header = next(csv.reader(f), None)
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"--csv {path}: cannot read it: {e}") from e
    if header is not None and tuple(header) != COLUMNS:
        raise ConfigError(f"--csv {path} has other columns than these rows; name another file")


def append_csv(path, rows, tag=""):
    """Append rows to a CSV file, with a header where it is new. Raises ConfigError when it cannot be written."""
    now, m, v = datetime.datetime.now().astimezone().isoformat(timespec="seconds"), machine(), versions()
    try:
        with open(path, "a", newline="") as f:
            writer = csv.writer(f)
            if f.tell() == 0:
                writer.writerow(COLUMNS)
            for r in rows:
                writer.writerow([now, tag, *(r[n] for n in FIELDS), m["cpu"], v["mlxr"], v.get("mlx", "")])
    except OSError as e:
        raise ConfigError(f"--csv {path}: cannot write it: {e.strerror}") from e
