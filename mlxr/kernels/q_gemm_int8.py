"""q_gemm_int8: rows of activations times a stored matrix by integer products, on CPUs that have them; exact to 2^-22."""

import functools

from ..errors import KernelError
from . import host_build, int8_split, library
from .host_call import as_float
from .library import Kernel
from .q_gemv import reference
from .stored import stored

LEAST, MOST = 2, 12   # rows of x: one waits for memory; with codes of more than 4 bits many are faster in q_gemm
TILE = 45             # rows of x of a threadgroup, at most

__all__ = ["apply", "kernel", "launch", "reference", "takes"]


@functools.lru_cache(None)
def kernel(kind, *, swiglu=False, bias=False, residual=False, on=None, checked=False, tile=TILE, sgs=1, flags=()):
    """The specialisation of a Stored type whose header gives codes. tile: rows of x of a threadgroup, at most."""
    kind, on = stored(kind), on or library.backend()
    return Kernel(
        "q_gemm_int8",
        headers=(kind.header,),
        inputs=[*kind.parameters, ("digits", "uchar"), ("factors", "float"),
                *((n, "float") for n, is_in in (("bias", bias), ("residual", residual)) if is_in)],
        outputs=[("y", "float")],
        ints=["M", "N", "K", "per"],
        defines=dict(kind.defines)
        | {"MT": tile, "LOW": int8_split.low_of(kind.codes), "SGS": sgs}
        | {"SWIGLU": int(swiglu), "BIAS": int(bias), "RESIDUAL": int(residual)},
        shared=sgs * tile * 32 * (2 if swiglu else 1),
        on=on,
        checked=checked,
        flags=flags,
    )


def takes(kind, rows):
    """Whether this is the fast way for so many rows of x, here."""
    few = LEAST <= rows <= MOST or rows > MOST and kind.codes <= 4
    return kind.codes and few and library.backend() == "host" and host_build.has_byte_products()


def launch(k, m, n, width):
    """(grid, ints): rows of x are dealt out evenly, so many that the kernel takes them five at a time."""
    groups = -(-m // k.defines["MT"])
    per = min(k.defines["MT"], -(-m // groups // 5) * 5)
    return (-(-n // (32 * k.sgs)), -(-m // per), 1), (m, n, width, per)


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
    given = [*kind.inputs(weights), *int8_split.apply(x, norm, eps, int8_split.low_of(kind.codes)), *extra]
    y = k(given, [(m, n)], *launch(k, m, n, width))[0]
    return y if y.dtype == x.dtype else y.astype(x.dtype)
