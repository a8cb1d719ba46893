"""q_rows: rows of a matrix of stored weights by their numbers, decoded: an embedding lookup."""

import functools

import mlx.core as mx

from ..errors import KernelError
from . import library
from .host_call import ELEMENT_OF
from .library import Kernel
from .stored import stored
from .twins import dequantize

PARTS = 4  # threadgroups that share the columns


@functools.lru_cache(None)
def kernel(kind, y_type="float", *, on=None, checked=False, sgs=None, flags=()):
    """The specialisation of a Stored type."""
    kind, on = stored(kind), on or library.backend()
    return Kernel(
        "q_rows",
        headers=(kind.header,),
        inputs=[*kind.parameters, ("ids", "int")],
        outputs=[("y", y_type)],
        ints=["count", "N", "K", "parts"],
        defines=dict(kind.defines) | {"XTYPE": "float", "YTYPE": y_type, "SGS": sgs or (1 if on == "host" else 4)},
        on=on,
        checked=checked,
        flags=flags,
    )


def apply(ids, weights, kind, width, dtype=mx.float32):
    """Rows `ids` (integers of any shape) of W [N, width]: lazily [*ids.shape, width] in dtype.

    Ids are clamped to W's rows.
    """
    kind = stored(kind)
    rows = weights[0].shape[0]
    if width % kind.block:
        raise KernelError(f"q_rows on {kind.name} weights: {width} columns are not a multiple of {kind.block}")
    k = kernel(kind, ELEMENT_OF[dtype])
    if weights[0].size >= 2**31 or not k.ready():
        return reference(ids, weights, kind, width, dtype)
    flat = ids.reshape(-1).astype(mx.int32)
    count = flat.size
    if k.backend == "metal" and count < 8:
        flat = mx.pad(flat, (0, 8 - count))
    y = k([*kind.inputs(weights), flat], [(count, width)], (-(-count // 32), PARTS, 1), (count, rows, width, PARTS))[0]
    return y.reshape(*ids.shape, width)


def take(x, rows):
    """Rows [S] of x [T, K] of any float type: lazily [S, K]. Unlike x[rows] it can be part of a recording."""
    if library.backend() != "host":
        return x[rows]
    name = {mx.float32: "F32", mx.float16: "F16", mx.bfloat16: "BF16"}.get(x.dtype)
    return apply(rows, (x,), name, x.shape[1], x.dtype) if name and x.shape[1] % stored(name).block == 0 else x[rows]


def reference(ids, weights, kind, width, dtype=mx.float32):
    """The same in plain MLX operations."""
    flat = mx.clip(ids.reshape(-1).astype(mx.int32), 0, weights[0].shape[0] - 1)
    return dequantize(tuple(w[flat] for w in weights), kind, width).astype(dtype).reshape(*ids.shape, width)
