"""q_gemm: many rows of activations times a stored matrix, transposed; each weight is decoded once for many rows."""

import functools

import mlx.core as mx

from ..errors import KernelError
from . import library, low_rank, rms_norm
from .host_call import as_float
from .library import Kernel
from .q_gemv import reference
from .stored import stored

TILES = {"host": (12, 64, 16), "metal": (16, 64, 4), "reference": (16, 64, 4)}  # MT, PANEL, SGS
FEW = {4: (4, 64, 1), 8: (8, 64, 1), 12: (12, 64, 1), 16: (8, 64, 2)}  # on the host, up to so many rows

__all__ = ["apply", "kernel", "launch", "reference"]


@functools.lru_cache(None)
def kernel(kind, *, swiglu=False, bias=False, residual=False, low=None, on=None, checked=False, tiles=None, flags=()):
    """The specialisation of a Stored type. tiles: (MT, PANEL, SGS), see metal/q_gemm.metal; low: as for q_gemv."""
    kind, on = stored(kind), on or library.backend()
    rows, panel, sgs = tiles or TILES[on]
    return Kernel(
        "q_gemm",
        headers=(kind.header, *low_rank.headers(low)),
        outputs=[("y", "float")],
        ints=["M", "N", "K"],
        inputs=[*kind.parameters, ("x", "float"), *low_rank.parameters(low, "float"), *((n, "float") for n, is_in in (("bias", bias), ("residual", residual)) if is_in)],
        defines=dict(kind.defines)
        | {"XTYPE": "float", "MT": rows, "PANEL": panel, "SGS": sgs, "SWIGLU": int(swiglu)}
        | {"BIAS": int(bias), "RESIDUAL": int(residual)} | low_rank.defines(low),
        shared=32 * max(panel * (2 if swiglu else 1), rows),
        on=on,
        checked=checked,
        flags=flags,
    )


def tiles_of(m, on):
    """(MT, PANEL, SGS) for m rows."""
    return next((tiles for most, tiles in FEW.items() if m <= most), TILES[on]) if on == "host" else TILES[on]


def launch(k, m, n):
    """(grid, rows of x that the kernel wants: on a GPU m rounded up to whole tiles)."""
    rows = k.defines["MT"]
    padded = m if k.backend == "host" else -(-m // rows) * rows
    return (-(-n // 32), -(-m // (rows * k.sgs)), 1), padded


def apply(x, weights, kind, *, norm=None, eps=None, swiglu=False, bias=None, residual=None, low=None, t=None):
    """x [M, K] times W [N, K] transposed: lazily [M, N] in x's dtype.

    The options are those of q_gemv.apply.
    """
    kind = stored(kind)
    m, width = x.shape
    n = weights[0].shape[0] // (2 if swiglu else 1)
    if width % kind.block:
        raise KernelError(f"q_gemm on {kind.name} weights: {width} columns are not a multiple of {kind.block}")
    on = library.backend()
    k = kernel(kind, swiglu=swiglu, bias=bias is not None, residual=residual is not None, low=low and low.key, on=on,
               tiles=tiles_of(m, on))
    if not k.ready():
        return reference(x, weights, kind, norm=norm, eps=eps, swiglu=swiglu, bias=bias, residual=residual, low=low, t=t)
    grid, rows = launch(k, m, n)
    given = [*kind.inputs(weights), _padded(x if norm is None else rms_norm.apply(x, norm, eps), rows)]
    if low is not None:
        given += low.inputs(_padded(t, rows))
    if bias is not None:
        given.append(as_float(bias))
    if residual is not None:
        given.append(_padded(residual, rows))
    y = k(given, [(rows, n)], grid, (rows, n, width))[0]
    y = y if rows == m else y[:m]
    return y if y.dtype == x.dtype else y.astype(x.dtype)


def _padded(a, rows):
    a = as_float(a)
    return a if a.shape[0] == rows else mx.pad(a, [(0, rows - a.shape[0]), (0, 0)])
