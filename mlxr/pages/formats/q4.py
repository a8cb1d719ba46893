"""Page format q4: 4-bit codes of rotated K, less its mean over the page, and of rotated V; a scale for each token.

A head's Hadamard rotation makes its numbers close to normal ones, so that the codes are the Lloyd-Max levels of a unit
normal (Max, "Quantizing for minimum distortion", 1960). The scale is the one that leaves the product of a vector with its
own code as it was: <x, x> / <x, levels>. Kernels rotate q and the output, never the pages.
"""

import mlx.core as mx

from ..encoding import Encoding, rotate
from ..record import half_words, halves, k_rows, k_words, pack, unpack, v_lines, v_words

# Upper half of the 16 levels; metal/include/formats/q4.h has the same.
LEVELS = (0.128395, 0.3880483, 0.6567591, 0.9423405, 1.256231, 1.618046, 2.069017, 2.73259)
_ALL = mx.array([-x for x in reversed(LEVELS)] + list(LEVELS), mx.float32)
_BETWEEN = mx.array([(a + b) / 2 for a, b in zip(LEVELS, LEVELS[1:])], mx.float32)


def quantize(x):
    """(codes uint32 [..., d], scales float32 [...]) of x [..., d]. What is not finite makes the scale NaN."""
    square = (x * x).sum(axis=-1, keepdims=True)
    unit = x * mx.where(square > 0, mx.rsqrt(square / x.shape[-1]), 0.0)
    steps = (mx.abs(unit)[..., None] > _BETWEEN).sum(axis=-1)
    codes = mx.where(unit >= 0, 8 + steps, 7 - steps).astype(mx.uint32)
    product = (x * _ALL[codes]).sum(axis=-1)
    square = square.squeeze(-1)
    return codes, mx.where(square == 0, 0.0, square / product)


class K(Encoding):
    """Codes [d / 8][page]; scales of tokens, fp16 [page]; the rotated mean, fp16 [d]."""

    kind, header, per, rotated = "K", "formats/q4.h", 8, True

    def words(self, page, d):
        return page * d // 8 + page // 2 + d // 2

    def seal_floats(self, page, d, simdgroups):
        return simdgroups * d + page * d // 8

    def encode(self, x):
        x = rotate(x)
        mean = x.mean(axis=-2, keepdims=True).astype(mx.float16)
        codes, scales = quantize(x - mean.astype(mx.float32))
        return mx.concatenate([k_rows(pack(codes, 4)), half_words(scales), half_words(mean.squeeze(-2))], axis=-1)

    def decode(self, words, page, d):
        codes, scales, mean = mx.split(words, [page * d // 8, page * d // 8 + page // 2], axis=-1)
        x = _ALL[unpack(k_words(codes, page), 4)] * halves(scales)[..., None]
        return rotate(x + halves(mean)[..., None, :])


class V(Encoding):
    """Codes [page][d / 8]; scales of tokens, fp16 [page]."""

    kind, header, per, rotated = "V", "formats/q4.h", 8, True

    def words(self, page, d):
        return page * d // 8 + page // 2

    def encode(self, x):
        codes, scales = quantize(rotate(x))
        return mx.concatenate([v_lines(pack(codes, 4)[..., None]), half_words(scales)], axis=-1)

    def decode(self, words, page, d):
        codes, scales = mx.split(words, [page * d // 8], axis=-1)
        return rotate(_ALL[unpack(v_words(codes, page)[..., 0], 4)] * halves(scales)[..., None])
