"""Affine codes: what q8, q6 and a4 share. K has a scale and an offset for each channel of a page, V for each token."""

from dataclasses import dataclass
from typing import ClassVar

import mlx.core as mx

from ..encoding import Encoding
from ..record import deal, dealt, k_rows, k_words


def quantize(x, axis, bits):
    """(codes uint32, words uint32) of x float32, affine along one axis: value = code * scale + offset, both fp16; a word
    has the scale in its low half and the offset in its high half. What is not finite makes all of its codes NaN."""
    offset = (mx.min(x, axis=axis, keepdims=True) + (x * 0).sum(axis=axis, keepdims=True)).astype(mx.float16)
    top = (1 << bits) - 1
    scale = ((mx.max(x, axis=axis, keepdims=True) - offset.astype(mx.float32)) / top).astype(mx.float16)
    step = mx.where(scale > 0, scale.astype(mx.float32), 1.0)
    codes = mx.clip(mx.round((x - offset.astype(mx.float32)) / step), 0, top)
    codes = mx.where(mx.isnan(codes), 0, codes).astype(mx.uint32)
    words = [mx.contiguous(a).view(mx.uint16).astype(mx.uint32) for a in (scale, offset)]
    return codes, (words[0] | (words[1] << 16)).squeeze(axis)


def values(codes, words, axis):
    """float32: what codes and their words of scale and offset stand for."""
    scale, offset = ((words >> s & 0xFFFF).astype(mx.uint16).view(mx.float16).astype(mx.float32) for s in (0, 16))
    return codes.astype(mx.float32) * mx.expand_dims(scale, axis) + mx.expand_dims(offset, axis)


@dataclass(frozen=True)
class Affine(Encoding):
    """Codes of 4, 6 or 8 bits; then a word of scale and offset for each channel (K) or token (V).

    A group of 6-bit codes is a plane of their high four bits (two words) and one of their low two bits (one word).
    """

    shared: ClassVar[tuple] = ("formats/affine.h",)
    bits: ClassVar[int] = 8
    own_query: ClassVar[bool] = True
    bytes: ClassVar[bool] = True

    def defines(self, d):
        return super().defines(d) | {f"{self.kind}_AFFINE": 1, f"{self.kind}_BITS": self.bits}

    @property
    def _axis(self):
        return -2 if self.kind == "K" else -1

    def words(self, page, d):
        return page * d * self.bits // 32 + (d if self.kind == "K" else page)

    def encode(self, x):
        codes, scales = quantize(x, self._axis, self.bits)
        codes = codes.swapaxes(-1, -2) if self.deep else codes
        if self.bits == 6:
            wide = codes.reshape(*codes.shape[:-1], -1, 16)
            words = mx.concatenate([deal(wide >> 2, 4), deal(wide & 3, 2)], axis=-1)      # [..., rows, groups, 3]
            words = words.reshape(*words.shape[:-2], -1)
        else:
            words = deal(codes, self.bits)
        return mx.concatenate([k_rows(words), scales], axis=-1)

    def decode(self, words, page, d):
        codes, scales = mx.split(words, [page * d * self.bits // 32], axis=-1)
        rows = d if self.deep else page
        words = k_words(codes, rows).reshape(*words.shape[:-1], rows, -1, self.loads)
        codes = dealt(words[..., :2], 4) * 4 + dealt(words[..., 2:], 2) if self.bits == 6 else dealt(words, self.bits)
        codes = codes.reshape(*words.shape[:-2], -1)
        return values(codes.swapaxes(-1, -2) if self.deep else codes, scales, self._axis)
