"""merge: puts the parts of a split attention together."""

import functools

import mlx.core as mx

from . import library
from .host_call import ELEMENT_OF
from .library import Kernel


@functools.lru_cache(None)
def kernel(dv, element, on=None, checked=False, flags=()):
    """The specialisation for value heads of dv elements and outputs of an element type."""
    on = on or library.backend()
    return Kernel("merge", inputs=[("part", "float"), ("lse", "float")], outputs=[("out", element)],
                  ints=["units", "rows"], on=on, checked=checked, flags=flags,
                  defines={"DV": dv, "YTYPE": element, "SGS": 1 if on == "host" else 4})


def merge(part, lse, dtype, dv):
    """[T, heads, dv] in dtype from part float32 [T, heads, units, dv], each normalised, and lse [T, heads, units].

    lse: log2-sum-exp, -infinity for an empty part. part None: only whether the kernel is ready.
    """
    k = kernel(dv, ELEMENT_OF[dtype])
    if part is None or not k.ready():
        return k.ready() if part is None else reference(part, lse).astype(dtype)
    rows, heads, units = lse.shape
    return k([part, lse], [(rows, heads, dv)], (-(-rows * heads // k.sgs), 1, 1), (units, rows * heads))[0]


def reference(part, lse):
    """The same in plain MLX operations, in fp32."""
    top = mx.max(lse, axis=-1, keepdims=True)
    weight = mx.where(lse > -mx.inf, mx.power(2.0, lse - top), 0.0)
    total = mx.sum(weight, axis=-1, keepdims=True)
    weight = mx.where(total > 0, weight / mx.maximum(total, 1e-30), 0.0)
    return mx.sum(mx.where(weight[..., None] > 0, part, 0.0) * weight[..., None], axis=-2)
