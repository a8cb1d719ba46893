"""q_gemm_int8: few rows of activations times a stored matrix by integer products, on CPUs that have them; exact to 2^-23."""

import functools


from ..errors import KernelError
from . import host_build, int8_split, library
from .host_call import as_float
from .library import Kernel
from .q_gemv import reference
from .stored import stored

ROWS = 2, 32          # of x, from and to: one row waits for memory, many are as fast in q_gemm
TILE = 16             # rows of x of a threadgroup

__all__ = ["apply", "kernel", "launch", "reference", "takes"]


@functools.lru_cache(None)
def kernel(kind, *, swiglu=False, bias=False, residual=False, on=None, checked=False, tile=TILE, sgs=1, flags=()):
    """The specialisation of a Stored type whose header gives codes."""
    kind, on = stored(kind), on or library.backend()
    return Kernel(
        "q_gemm_int8",
        headers=(kind.header,),
        inputs=[*kind.parameters, ("digits", "uint"), ("factors", "float"),
                *((n, "float") for n, is_in in (("bias", bias), ("residual", residual)) if is_in)],
        outputs=[("y", "float")],
        ints=["M", "N", "K"],
        defines=dict(kind.defines) | {"MT": tile, "SGS": sgs, "SWIGLU": int(swiglu), "BIAS": int(bias), "RESIDUAL": int(residual)},
        shared=sgs * tile * 32 * (2 if swiglu else 1),
        on=on,
        checked=checked,
        flags=flags,
    )


def takes(kind, rows):
    """Whether this is the fast way for so many rows of x, here."""
    return kind.codes and ROWS[0] <= rows <= ROWS[1] and library.backend() == "host" and host_build.has_byte_products()


def launch(k, m, n):
    """The grid."""
    return -(-n // (32 * k.sgs)), -(-m // k.defines["MT"]), 1


def apply(x, weights, kind, *, norm=None, eps=None, swiglu=False, bias=None, residual=None):
    """x [M, K] times W [N, K] transposed: lazily [M, N] in x's dtype. The options are those of q_gemv.apply."""
    kind = stored(kind)
    m, width = x.shape
    n = weights[0].shape[0] // (2 if swiglu else 1)
    if not kind.codes:
        raise KernelError(f"q_gemm_int8 does not take {kind.name} weights: use q_gemm")
    if width % kind.block:
        raise KernelError(f"q_gemm_int8 on {kind.name} weights: {width} columns are not a multiple of {kind.block}")
    k = kernel(kind, swiglu=swiglu, bias=bias is not None, residual=residual is not None)
    if not k.ready():
        return reference(x, weights, kind, norm=norm, eps=eps, swiglu=swiglu, bias=bias, residual=residual)
    extra = [as_float(a) for a in (bias, residual) if a is not None]
    given = [*kind.inputs(weights), *int8_split.apply(x, norm, eps), *extra]
    y = k(given, [(m, n)], launch(k, m, n), (m, n, width))[0]
    return y if y.dtype == x.dtype else y.astype(x.dtype)
