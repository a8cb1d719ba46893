"""K and V as plain floating-point numbers: what the unquantized page formats share."""

from dataclasses import dataclass
from typing import ClassVar

import mlx.core as mx

from ..encoding import Encoding
from ..record import k_rows, k_words


@dataclass(frozen=True)
class Plain(Encoding):
    """Numbers of one floating-point type, in words, the lower channel in the low half."""

    shared: ClassVar[tuple] = ("formats/plain.h",)
    dtype: ClassVar[mx.Dtype] = mx.float32

    def words(self, page, d):
        return page * d // self.per

    def encode(self, x):
        words = mx.contiguous(x.astype(self.dtype)).view(mx.uint32)           # [..., page, d / per]
        return k_rows(words) if self.kind == "K" else words.reshape(*words.shape[:-2], -1)

    def decode(self, words, page, d):
        words = k_words(words, page) if self.kind == "K" else words.reshape(*words.shape[:-1], page, -1)
        return mx.contiguous(words).view(self.dtype).astype(mx.float32)
