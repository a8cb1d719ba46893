"""A linear layer on stored weights: picks q_gemv, q_gemm_int8 or q_gemm by the number of rows."""

from . import library, q_gemm, q_gemm_int8, q_gemv
from .stored import stored

# On a CPU (Zen 5), all matrices of a 135M model in Q4_1, one thread: q_gemv takes 7, 10, 17, 21 and 43 ms for 1, 2, 3, 4 and 8
# rows, q_gemm 17, 20 and 30 for 4, 8 and 16; and each number of rows is one more kernel to compile. A GPU reads the weights
# once either way, and has threads to spare for 8 rows. q_gemm_int8, where it can run, takes 8, 12, 18 and 29 for 2, 4, 8 and 16,
# and .85 of q_gemm's time for 500.
GEMV_ROWS = {"host": 3, "metal": 8, "reference": 8}


def apply(x, weights, kind, *, norm=None, eps=None, swiglu=False, bias=None, residual=None, low=None):
    """x [..., K] times W [N, K] transposed: lazily [..., N] in x's dtype. The options are those of q_gemv.apply.

    A Correction `low` is one more launch, for R x.
    """
    kind, lead = stored(kind), x.shape[:-1]
    flat = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
    if residual is not None and residual.ndim != 2:
        residual = residual.reshape(-1, residual.shape[-1])
    how = _way(kind, flat.shape[0], low)
    if low is None:
        y = how.apply(flat, weights, kind, norm=norm, eps=eps, swiglu=swiglu, bias=bias, residual=residual)
    else:
        t = how.apply(flat, low.right, low.right_kind, norm=norm, eps=eps)
        y = how.apply(flat, weights, kind, norm=norm, eps=eps, swiglu=swiglu, bias=bias, residual=residual, low=low, t=t)
    return y if x.ndim == 2 else y.reshape(*lead, -1)


def _way(kind, rows, low):
    if low is None and q_gemm_int8.takes(kind, rows):
        return q_gemm_int8
    return q_gemv if rows <= GEMV_ROWS[library.backend()] else q_gemm


def kernels(kind, width, element="float", *, eps=None, swiglu=False, bias=False, residual=False):
    """The kernels that `apply` will want first, one row and many, for library.warm. width: K."""
    if library.backend() == "reference":
        return []
    on = library.backend()
    return [
        q_gemv.kernel(stored(kind), 1, element, eps=eps, swiglu=swiglu, bias=bias, residual=residual, width=width),
        q_gemm.kernel(stored(kind), swiglu=swiglu, bias=bias, residual=residual, on=on, tiles=q_gemm.TILES[on]),
    ]
