"""rms_norm: rows divided by their root mean square, in fp32, for q_gemm on the host; elsewhere it is MLX's operation."""

import functools

import mlx.core as mx

from . import host_call, library
from .library import Kernel


@functools.lru_cache(None)
def kernel(x_type="float", eps=1e-5, *, on=None, checked=False, sgs=None, flags=()):
    """The specialisation for an element type of x and of the gains."""
    on = on or library.backend()
    return Kernel("rms_norm", inputs=[("x", x_type), ("norm", x_type)], outputs=[("y", "float")], ints=["M", "K"],
                  defines={"XTYPE": x_type, "NORM_EPS": f"{float(eps)!r}f", "SGS": sgs or (1 if on == "host" else 4)},
                  on=on, checked=checked, flags=flags)


def apply(x, norm, eps):
    """float32 [M, K], lazily: x [M, K] times rsqrt(mean(x^2) + eps) of its row, times norm [K] of x's dtype.

    MLX's own operation does as well; ours is for graphs of host kernels alone, which can be recorded.
    """
    k = kernel(host_call.ELEMENT_OF[x.dtype], eps)
    if k.backend == "metal" or norm.dtype != x.dtype or not k.ready():
        return reference(x, norm, eps)
    return k([x, norm], [x.shape], (-(-x.shape[0] // k.sgs), 1, 1), x.shape)[0]


def reference(x, norm, eps):
    """The same in plain MLX operations."""
    return mx.fast.rms_norm(x.astype(mx.float32), norm.astype(mx.float32), eps)
