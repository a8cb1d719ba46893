"""q_gemv: 1 to 8 rows of activations times a stored matrix, transposed; with norm, SwiGLU, bias, residual."""

import functools

import mlx.core as mx

from ..errors import KernelError
from . import host_build, host_call, library, low_rank
from .library import Kernel
from .stored import stored
from .twins import dequantize

MOST_ROWS = 8
STEP = 256  # weights of a step
CHUNKS = 4  # threadgroups a thread, on the host
WORTH = 64  # steps that a threadgroup does for each one whose activations it prepares


@functools.lru_cache(None)
def kernel(
    kind,
    batch,
    x_type="float",
    y_type=None,
    *,
    eps=None,
    swiglu=False,
    bias=False,
    residual=False,
    low=None,
    width=0,
    on=None,
    checked=False,
    stream=None,
    products=None,
    rows=None,
    sgs=None,
    shared=0,
    flags=(),
):
    """The specialisation of a Stored type for `batch` rows.

    low: (type of L, rank) of a low_rank.Correction. width: of the matrix; what it leaves modulo STEP is built in. stream, products (BYTES): see metal/q_gemv.metal; shared: floats of
    threadgroup memory, where Metal streams.
    """
    kind, on = stored(kind), on or library.backend()
    stream = on == "host" if stream is None else stream
    products = stream and kind.bytes and on == "host" and host_build.has_pair_products() if products is None else products
    rows = rows or (32 if stream else 4)
    sgs = sgs or (1 if on == "host" else 2)
    y_type = y_type or x_type
    defines = dict(kind.defines) | {
        "XTYPE": x_type,
        "YTYPE": y_type,
        "B": batch,
        "ROWS": rows,
        "SGS": sgs,
        "STREAM": int(stream),
        "TAIL": width % STEP if stream else 0,
        "WIDTH": width if stream and width <= 1024 else 0,
        "BYTES": int(products),
        "SWIGLU": int(swiglu),
        "BIAS": int(bias),
        "RESIDUAL": int(residual),
    } | low_rank.defines(low)
    if eps is not None:
        defines["NORM_EPS"] = f"{float(eps)!r}f"
    inputs = [
        *kind.parameters,
        ("x", x_type),
        *low_rank.parameters(low, x_type),
        *([("norm", x_type)] if eps is not None else []),
        *([("bias", y_type)] if bias else []),
        *([("residual", y_type)] if residual else []),
    ]
    return Kernel(
        "q_gemv",
        headers=(kind.header, *low_rank.headers(low)),
        inputs=inputs,
        outputs=[("y", y_type)],
        ints=["N", "K", "own"],
        defines=defines,
        shared=shared,
        on=on,
        checked=checked,
        flags=flags,
    )


def launch(k, n, width):
    """(threadgroups, ints, floats of threadgroup memory) of a launch on [n, width] weights."""
    stream, tail, sgs, own = k.defines["STREAM"], k.defines["TAIL"], k.sgs, k.defines["ROWS"]
    if stream and tail != width % STEP:
        raise KernelError(f"q_gemv was built for a width that leaves {tail} modulo {STEP}, and is given {width}")
    more = 2 if 128 < tail <= 192 else min(tail, 1)  # steps with tails, at most
    steps = width // STEP + more
    if k.backend == "host":  # some chunks a thread: they share the prepared activations, and even out
        threads = host_call.threads()
        groups = min(threads * CHUNKS if threads > 1 else 1, n * width // (STEP * steps * WORTH)) if stream else min(threads * CHUNKS, n)
        own = max(8, -(-n // max(1, groups)))
    shared = k.defines["B"] * (steps * 288 + width + more * STEP + sgs * 1025 + low_rank.floats(k.defines)) if stream else 0
    return -(-n // (own * sgs)), (n, width, own), shared


def apply(x, weights, kind, *, norm=None, eps=None, swiglu=False, bias=None, residual=None, low=None, t=None):
    """x [B, K] times W [N, K] transposed: lazily [B, N] in x's dtype. B at most 8.

    weights: the arrays of W (stored.arrays); kind: its Stored, or a GGUF type name. norm [K], eps: x is RMS-normed
    first. swiglu: W is gate over up ([2 N, K]), the result silu(gate) * up, [B, N]. bias [N]; residual [B, N].
    low: a low_rank.Correction of W, whose L times t [B, rank], its R times the normed x, is added to the product with W.
    """
    kind = stored(kind)
    batch, width = x.shape
    n = weights[0].shape[0] // (2 if swiglu else 1)
    if batch > MOST_ROWS:
        raise KernelError(f"q_gemv takes 1 to {MOST_ROWS} rows, got {batch}: use q_gemm")
    if width % kind.block:
        raise KernelError(f"q_gemv on {kind.name} weights: {width} columns are not a multiple of {kind.block}")
    element = host_call.ELEMENT_OF[x.dtype]
    k = kernel(
        kind,
        batch,
        element,
        eps=eps if norm is not None else None,
        swiglu=swiglu,
        bias=bias is not None,
        residual=residual is not None,
        low=low and low.key,
        width=width,
    )
    if not k.ready():
        return reference(x, weights, kind, norm=norm, eps=eps, swiglu=swiglu, bias=bias, residual=residual, low=low, t=t)
    groups, ints, shared = launch(k, n, width)
    extra = [*(low.inputs(t) if low else ()), *(a for a in (norm, bias, residual) if a is not None)]
    return k([*kind.inputs(weights), x, *extra], [(batch, n)], (groups, 1, 1), ints, shared)[0]


def reference(x, weights, kind, *, norm=None, eps=None, swiglu=False, bias=None, residual=None, low=None, t=None):
    """The same in plain MLX operations."""
    h = x.astype(mx.float32)
    if norm is not None:
        h = mx.fast.rms_norm(h, norm.astype(mx.float32), eps)
    y = h @ dequantize(weights, kind, x.shape[1]).T
    if low is not None:
        y = y + t.astype(mx.float32) @ dequantize(low.left, low.left_kind, low.rank).T
    if swiglu:
        gate, up = mx.split(y, 2, axis=-1)
        y = gate * mx.sigmoid(gate) * up
    for more in (bias, residual):
        if more is not None:
            y = y + more.astype(mx.float32)
    return y.astype(x.dtype)
