"""Whose product of a matrix is faster here: that of our kernels, straight on stored weights, or MLX's own."""

import re
import statistics

import mlx.core as mx

from ..benchmarks import kernel_cases as cases
from ..benchmarks.kernel_bench import timed
from ..benchmarks.kernel_weights import KINDS
from ..kernels.tuning import MLX, OURS, linear_key
from ..weights.checkpoint import open_checkpoint
from .kernels import distance

REPETITIONS = 5
MOST = 1 << 29          # weights of a matrix that is measured
LAUNCHES = 8            # of one measurement, on as many copies of the weights where they are small
ROWS = 1, 64            # of decoding and of a chunk
SLOW = 0.5              # seconds of one of MLX's products from which it is measured once
DEFAULT = ("Q4_1", 576, 576), ("Q4_1", 1536, 576), ("Q4_1", 576, 1536), ("affine4_64_half", 2048, 2048)


def shapes_of(path):
    """[(type of weights, N, K)] of the linear layers of a model's files, each once, the largest last; and what is left out."""
    checkpoint = open_checkpoint(path)
    found, left = {}, set()
    for t in checkpoint.tensors.values():
        kind, shape = _kind(checkpoint, t)
        if len(shape) != 2 or not t.name.endswith(".weight"):
            continue
        if kind in KINDS or re.fullmatch(r"affine\d_\d+_\w+", kind):
            if shape[0] * shape[1] <= MOST:
                key = (kind, *shape)
                found[key] = True
                continue
        left.add(f"{kind} {shape[0]}x{shape[1]}")
    return sorted(found, key=lambda s: s[1] * s[2]), sorted(left)


def _kind(checkpoint, t):
    """(type of weights, [N, K]) of a tensor, MLX's packed codes unpacked."""
    layer = t.name.rpartition(".")[0]
    scales = checkpoint.tensors.get(layer + ".scales")
    how = checkpoint.config.get("quantization") or {}
    own = how.get(layer)
    how = own if isinstance(own, dict) else how
    if scales is None or t.type != "U32" or not isinstance(how.get("bits"), int):
        return t.type, t.shape
    element = {"F32": "float", "F16": "half", "BF16": "bfloat16_t"}.get(scales.type, scales.type)
    return f"affine{how['bits']}_{how.get('group_size', 64)}_{element}", (t.shape[0], t.shape[1] * 32 // how["bits"])


def measure(kind, n, k):
    """A dict: milliseconds of ours and MLX's for each number of rows, in turns, the median; and the choice, by decoding.

    mlx is None where MLX has no format with the same numbers: there ours is the only one. error: relative L2 of ours from
    the twin.
    """
    row = {"kind": kind, "n": n, "k": k, "key": linear_key(kind, n, k), "rows": {}, "error": 0.0}
    for rows in ROWS:
        case = (cases.gemv if rows == 1 else cases.gemm)(kind, rows, n, k, most=LAUNCHES)
        row["error"] = max(row["error"], *(distance(*pair) for pair in case.check()))
        row["mlx"] = case.mlx
        ours, theirs, count = [], [], case.copies
        mx.eval(case.theirs(0))
        repeat = 1 if timed(case.theirs, 1) > SLOW else REPETITIONS
        for i in range(REPETITIONS):
            ours.append(timed(case.ours, count))
            if i < repeat:
                theirs.append(timed(case.theirs, count if repeat > 1 else 1))
        row["rows"][str(rows)] = {"ours_ms": round(statistics.median(ours) * 1e3, 4), "mlx_ms": round(statistics.median(theirs) * 1e3, 4)}
        del case
    one = row["rows"]["1"]
    row["choice"] = OURS if row["mlx"] != "mx.quantized_matmul" or one["ours_ms"] <= one["mlx_ms"] else MLX
    return row
