"""int8_split: activations as three signed bytes each, scaled by blocks of 32: what q_gemm_int8 multiplies."""

import functools

import mlx.core as mx

from . import host_call, library
from .library import Kernel

BLOCK = 32
LOW = 7                   # bits of the last digit, where nothing else is said


def low_of(codes):
    """Bits of the last digit: with codes of up to 4 bits so many that the sum of 32 products, all digits in one, fits into 31 bits.
    With larger ones it would not without another bit lost: then 8, and the last digits' products are added up apart."""
    return 8 if codes > 4 else 7


def most(low):
    """The largest integer that the digits hold."""
    return 127 << (8 + low)


@functools.lru_cache(None)
def kernel(x_type="float", eps=None, *, low=LOW, on=None, checked=False, sgs=None, flags=()):
    """The specialisation for an element type; with eps rows are RMS-normed first."""
    on = on or library.backend()
    normed = [] if eps is None else [("norm", x_type)]
    defines = {"XTYPE": x_type, "LOW": low, "SGS": sgs or (1 if on == "host" else 4)}
    if eps is not None:
        defines["NORM_EPS"] = f"{float(eps)!r}f"
    return Kernel("int8_split", inputs=[("x", x_type), *normed], outputs=[("digits", "uchar"), ("factors", "float")],
                  ints=["M", "K"], defines=defines, on=on, checked=checked, flags=flags)


def shapes(m, width):
    """Of digits and factors for x [m, width]."""
    return (width // BLOCK, m, 3 * BLOCK), (width // BLOCK, m, 2)


def apply(x, norm=None, eps=None, low=LOW):
    """(digits uint8 [K / 32, M, 96], factors float32 [K / 32, M, 2]) of x [M, K], lazily. norm: gains [K] in x's dtype.

    digits: 32 each of the high, middle and low digits, signed; x is factors[..., 0] times
    ((high * 2^8 + middle) * 2^low + last), to 2^-(15 + low) of the largest of its block. factors[..., 1]: the sum of the block.
    """
    k = kernel(host_call.ELEMENT_OF[x.dtype], eps if norm is not None else None, low=low)
    if not k.ready():
        return reference(x, norm, eps, low)
    extra = [] if norm is None else [norm]
    return tuple(k([x, *extra], shapes(*x.shape), (-(-x.shape[0] // k.sgs), 1, 1), x.shape))


def reference(x, norm=None, eps=None, low=LOW):
    """The same in plain MLX operations."""
    x = x.astype(mx.float32)
    if norm is not None:
        x = mx.fast.rms_norm(x, norm.astype(mx.float32), eps)
    x = x.reshape(x.shape[0], -1, BLOCK).swapaxes(0, 1)
    largest = mx.abs(x).max(axis=-1, keepdims=True)
    q = mx.round(x * mx.where(largest > 0, most(low) / largest, 0.0)).astype(mx.int32)
    digits = []
    for bits in (low, 8):
        half = 1 << (bits - 1)
        digits.append(mx.bitwise_and(q + half, 2 * half - 1) - half)
        q = mx.right_shift(q - digits[-1], bits)
    bytes_ = mx.concatenate([q, digits[1], digits[0]], axis=-1).astype(mx.int8).view(mx.uint8)
    return bytes_, mx.concatenate([largest / most(low), x.sum(axis=-1, keepdims=True)], axis=-1)


def values(digits, factors, low=LOW):
    """float32 [M, K]: what digits and factors stand for."""
    a, b, c = mx.split(digits.view(mx.int8).astype(mx.float32), 3, axis=-1)
    x = ((a * 256 + b) * (1 << low) + c) * factors[..., :1]
    return x.swapaxes(0, 1).reshape(x.shape[1], -1)
