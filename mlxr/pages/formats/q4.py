"""Page format q4: 4-bit codes of rotated K, less its mean over the page, and of rotated V; a scale for each token.

The token of a page whose K is farthest from the mean is no part of it, and keeps its numbers as fp16: attention sinks are far
from all other tokens, and attended to most.

A head's Hadamard rotation makes its numbers close to normal ones, so that the codes are the Lloyd-Max levels of a unit
normal (Max, "Quantizing for minimum distortion", 1960), here the multiples of one step that are nearest to them: CPUs
multiply bytes, and 0.1 % more error is what that costs. Before it is coded, a vector is brought to where its largest number
is a little beyond the last level: 15 % less squared error for 64 numbers than with unit variance, and 9 % for 128. The scale
of its codes is the one that leaves the product of the vector with them as it was: <x, x> / <x, levels>. Kernels rotate q and
the output, never the pages.
"""

import mlx.core as mx

from ..encoding import Encoding, rotate
from ..record import deal, dealt, half_words, halves, k_rows, k_words

# Upper half of the 16 levels; metal/include/formats/q4.h has the same.
STEP = 1 / 45.11
LEVELS = tuple(n * STEP for n in (6, 18, 30, 43, 57, 73, 93, 123))
PEAK = 2.9              # where a vector's largest number is put among them
_ALL = mx.array([-x for x in reversed(LEVELS)] + list(LEVELS), mx.float32)
_BETWEEN = mx.array([(a + b) / 2 for a, b in zip(LEVELS, LEVELS[1:])], mx.float32)


def quantize(x):
    """(codes uint32 [..., d], scales float32 [...]) of x [..., d]. What is not finite makes the scale NaN."""
    square = (x * x).sum(axis=-1)
    unit = x * mx.where(square > 0, PEAK / mx.abs(x).max(axis=-1), 0.0)[..., None]
    steps = (mx.abs(unit)[..., None] > _BETWEEN).sum(axis=-1)
    codes = mx.where(unit >= 0, 8 + steps, 7 - steps).astype(mx.uint32)
    product = (x * _ALL[codes]).sum(axis=-1)
    return codes, mx.where(square == 0, 0.0, square / product)


class K(Encoding):
    """Codes [d / 8][page]; scales of tokens, fp16 [page], -0 for the one that has none; the rotated mean, fp16 [d]; that token less
    the mean, rotated, fp16 [d]."""

    kind, header, per, rotated, bytes = "K", "formats/q4.h", 8, True, True

    def words(self, page, d):
        return page * d // 8 + page // 2 + d

    def seal_floats(self, page, d, simdgroups):
        return simdgroups * d + page * d // 8

    def encode(self, x):
        page, total = x.shape[-2], x.sum(axis=-2, keepdims=True)
        distance = mx.square(x - total / page).sum(axis=-1)
        far = mx.argmax(mx.where(mx.isnan(distance), -1.0, distance), axis=-1, keepdims=True)        # the first of equals
        outlier = mx.take_along_axis(x, far[..., None], axis=-2)
        mean = rotate((total - outlier) / (page - 1)).astype(mx.float16)
        x = rotate(x) - mean.astype(mx.float32)
        codes, scales = quantize(x)
        scales = mx.where(mx.arange(page) == far, -0.0, scales)
        kept = [half_words(a.squeeze(-2)) for a in (mean, mx.take_along_axis(x, far[..., None], axis=-2))]
        return mx.concatenate([k_rows(deal(codes, 4)), half_words(scales), *kept], axis=-1)

    def decode(self, words, page, d):
        sizes = page * d // 8, page // 2, d // 2
        codes, scales, mean, outlier = mx.split(words, [sum(sizes[:i]) for i in (1, 2, 3)], axis=-1)
        x = _ALL[dealt(k_words(codes, page), 4)] * halves(scales)[..., None]
        held = mx.contiguous(scales).view(mx.uint16) == 0x8000
        x = mx.where(held[..., None], halves(outlier)[..., None, :], x)
        return rotate(x + halves(mean)[..., None, :])


class V(Encoding):
    """Codes [page / 8][d]; scales of tokens, fp16 [page]."""

    kind, header, per, rotated, deep, bytes = "V", "formats/q4.h", 8, True, True, True

    def words(self, page, d):
        return page * d // 8 + page // 2

    def encode(self, x):
        codes, scales = quantize(rotate(x))
        return mx.concatenate([k_rows(deal(codes.swapaxes(-1, -2), 4)), half_words(scales)], axis=-1)

    def decode(self, words, page, d):
        codes, scales = mx.split(words, [page * d // 8], axis=-1)
        return rotate(_ALL[dealt(k_words(codes, d), 4)].swapaxes(-1, -2) * halves(scales)[..., None])
