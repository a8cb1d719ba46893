"""Page format mixed: K's most important channels at 16 bits, the others at 4 or 2 (MixKVQ). By itself, V is as in q4.

MixKVQ ("Query-Aware Mixed-Precision KV Cache Quantization") ranks a channel by the size of the queries that meet it times
the error that its quantization would leave. No statistics of queries are kept here, so that all queries count alike: the
rank is by the channel's range over the page, which that error is proportional to. Each page has its own ranking.
"""

from dataclasses import dataclass
from typing import ClassVar

import mlx.core as mx

from ...errors import ConfigError
from ..encoding import Encoding
from ..record import deal, dealt, half_words, halves, k_rows, k_words, pack, unpack
from .affine import quantize, values

REST = {"v": "q4"}       # what a name that gives K alone goes with


@dataclass(frozen=True)
class K(Encoding):
    """ratio: the share of channels at 16 bits. low: bits of the others, 4 or 2.

    Channels in the order of their importance: their numbers, a byte each [d / 4 words]; fp16 [high / 2][page]; codes
    [(d - high) / per][page]; a word of scale and offset for each coded channel. Of channels alike the first ranks first.
    """

    ratio: float = 0.25
    low: int = 4

    kind: ClassVar[str] = "K"
    shared: ClassVar[tuple] = ("formats/affine.h", "formats/mixed.h")
    own_query: ClassVar[bool] = True

    def __post_init__(self):
        if self.low not in (2, 4):
            raise ConfigError(f"mixed: low must be 2 or 4, not {self.low:g}")
        if not 0 < self.ratio < 1:
            raise ConfigError(f"mixed: ratio must lie between 0 and 1, not {self.ratio:g}")

    @property
    def per(self):
        return 32 // int(self.low)

    def high(self, d):
        """Channels at 16 bits of d: the ratio's share, so that the others fill words; some of either kind."""
        low = round((1 - self.ratio) * d / self.per) * self.per
        return d - min(max(low, self.per), d - self.per)

    def unfit(self, page, d):
        if d < 2 * self.per or d > 256:
            return f"heads of {d} elements: it takes {2 * self.per} to 256"
        return super().unfit(page, d)

    def defines(self, d):
        return super().defines(d) | {"K_AFFINE": 1, "K_BITS": int(self.low), "K_HIGH": self.high(d)}

    def words(self, page, d):
        high = self.high(d)
        return d // 4 + page * high // 2 + page * (d - high) // self.per + d - high

    def seal_floats(self, page, d, simdgroups):
        return 2 * d

    def encode(self, x):
        d = x.shape[-1]
        high, span = self.high(d), x.max(axis=-2) - x.min(axis=-2)
        order = mx.argsort(-mx.where(mx.isnan(span), mx.inf, span), axis=-1).astype(mx.uint32)        # stable
        x = mx.take_along_axis(x, order[..., None, :], axis=-1)
        codes, scales = quantize(x[..., high:], -2, int(self.low))
        plain = half_words(x[..., :high])
        return mx.concatenate([pack(order, 8), k_rows(plain), k_rows(deal(codes, int(self.low))), scales], axis=-1)

    def decode(self, words, page, d):
        high, lead = self.high(d), words.shape[:-1]
        sizes = (d // 4, page * high // 2, page * (d - high) // self.per)
        order, plain, codes, scales = mx.split(words, [sum(sizes[:i]) for i in (1, 2, 3)], axis=-1)
        plain = halves(k_words(plain, page))
        coded = values(dealt(k_words(codes, page), int(self.low)), scales, -2)
        back = mx.argsort(unpack(order, 8), axis=-1)
        return mx.take_along_axis(mx.concatenate([plain, coded], axis=-1), mx.broadcast_to(
            back[..., None, :], (*lead, page, d)), axis=-1)
