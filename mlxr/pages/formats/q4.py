"""Page format q4: 4-bit codes of rotated K, less its mean over the page, and of rotated V; a scale for each token.

The token of a page whose K is farthest from the mean is no part of it, and keeps its numbers as fp16: attention sinks are far
from all other tokens, and attended to most.

A head's Hadamard rotation makes its numbers close to normal ones, so that the codes are the Lloyd-Max levels of a unit
normal (Max, "Quantizing for minimum distortion", 1960), here the multiples of one step that are nearest to them: CPUs
multiply bytes, and 0.1 % more error is what that costs. Before it is coded, a vector is brought to where its largest number
is a little beyond the last level: 15 % less squared error for 64 numbers than with unit variance, and 9 % for 128. The scale
of its codes is the one that leaves the product of the vector with them as it was: <x, x> / <x, levels>. Kernels rotate q and
the output, never the pages.

K's rounding errors go where they cost least, which takes no bits and nothing on reading (see `shape`).
"""

import mlx.core as mx

from ..encoding import Encoding, rotate, stages
from ..record import deal, dealt, half_words, halves, k_rows, k_words

# Upper half of the 16 levels; metal/include/formats/q4.h has the same.
STEP = 1 / 45.11
LEVELS = tuple(n * STEP for n in (6, 18, 30, 43, 57, 73, 93, 123))
PEAK = 2.9              # where a vector's largest number is put among them
CLASSES = 32            # of channels, by what their errors cost, at most
EVEN = 0.2              # what each class's weight has beside its share: weights are 1 on average
_ALL = mx.array([-x for x in reversed(LEVELS)] + list(LEVELS), mx.float32)
_BETWEEN = mx.array([(a + b) / 2 for a, b in zip(LEVELS, LEVELS[1:])], mx.float32)


def code_of(unit):
    """uint32: the nearest level of numbers that were brought to the levels' range."""
    steps = (mx.abs(unit)[..., None] > _BETWEEN).sum(axis=-1)
    return mx.where(unit >= 0, 8 + steps, 7 - steps).astype(mx.uint32)


def quantize(x, factor=None):
    """(codes uint32 [..., d], scales float32 [...]) of x [..., d]. What is not finite makes the scale NaN.

    factor: what `shape` gives, for x [..., tokens, d]; without it each number is rounded for itself.
    """
    square = (x * x).sum(axis=-1)
    unit = x * mx.where(square > 0, PEAK / mx.abs(x).max(axis=-1), 0.0)[..., None]
    codes = code_of(unit) if factor is None else shaped_codes(unit, factor)
    product = (x * _ALL[codes]).sum(axis=-1)
    return codes, mx.where(square == 0, 0.0, square / product)


def shaped(d):
    """Whether K's errors are shaped: where a head of d elements is one block of the rotation."""
    return d == 1 << stages(d) and d >= 16


def shape(x):
    """L float32 [..., n, n], unit lower triangular, of K [..., tokens, d] after RoPE: L D L', with a diagonal D, is how errors of
    rotated numbers count; None where they are not shaped.

    What a query adds to a score for a channel is about as large as K is there, for such is how models are trained; so a
    channel's error weighs as K's square, over the tokens and over the two channels, d / 2 apart, that RoPE turns as a pair.
    Neighbours share a weight where there are more than CLASSES pairs. (Where a model pairs channels otherwise, weights are
    further from the truth, but better than none still.) A Hadamard transform makes of the weights a matrix whose entry (a, b)
    depends on a ^ b alone.
    """
    d = x.shape[-1]
    if not shaped(d):
        return None
    n = min(CLASSES, d // 2)
    energy = (x * x).sum(axis=-2).reshape(*x.shape[:-2], 2, n, -1).sum(axis=(-3, -1))
    total = energy.sum(axis=-1, keepdims=True)
    weight = rotate(mx.where(total > 0, energy * (n / total), 1.0) + EVEN)
    i = mx.arange(n)
    a = weight[..., i[:, None] ^ i]
    for k in range(n):
        own, below = a[..., k:k + 1], i[:, None] > k
        factor = own * (1 / a[..., k:k + 1, k:k + 1])
        a = mx.where(below & (i > k), a - factor * a[..., k:k + 1, :], mx.where(below & (i == k), factor, a))
    return mx.where(i[:, None] > i, a, mx.eye(n))


def shaped_codes(unit, factor):
    """Codes of unit [..., tokens, d], from the last class of channels to the first: each number is brought to where it makes up
    best for the errors of later ones (as GPTQ does: Frantar et al., "GPTQ", 2022; LDLQ of Chee et al., "QuIP", 2023)."""
    n = factor.shape[-1]
    left = unit.reshape(*unit.shape[:-1], 2, n, -1)
    errors, codes = mx.zeros(left.shape), [None] * n
    for i in reversed(range(n)):
        own = left[..., i, :]
        codes[i] = code_of(own + (factor[..., None, None, :, i, None] * errors).sum(axis=-2))
        errors = mx.where(mx.arange(n)[:, None] == i, (own - _ALL[codes[i]])[..., None, :], errors)
    return mx.stack(codes, axis=-2).reshape(unit.shape)


class K(Encoding):
    """Codes [d / 8][page]; scales of tokens, fp16 [page], -0 for the one that has none; the rotated mean, fp16 [d]; that token less
    the mean, rotated, fp16 [d]."""

    kind, header, per, rotated, bytes = "K", "formats/q4.h", 8, True, True

    def words(self, page, d):
        return page * d // 8 + page // 2 + d

    def seal_floats(self, page, d, simdgroups):
        fixed, lanes = (1024 if shaped(d) else 0) + d + 8, min(page, 32 if d <= 128 else 16 if d <= 256 else 8)
        return fixed + max(simdgroups * d, min(simdgroups, page // lanes, (8192 - fixed) // (d * lanes)) * d * lanes)

    def encode(self, x):
        page, total = x.shape[-2], x.sum(axis=-2, keepdims=True)
        distance = mx.square(x - total / page).sum(axis=-1)
        far = mx.argmax(mx.where(mx.isnan(distance), -1.0, distance), axis=-1, keepdims=True)        # the first of equals
        outlier = mx.take_along_axis(x, far[..., None], axis=-2)
        mean = rotate((total - outlier) / (page - 1)).astype(mx.float16)
        factor = shape(mx.where((mx.arange(page) == far)[..., None], 0.0, x))
        x = rotate(x) - mean.astype(mx.float32)
        codes, scales = quantize(x, factor)
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
