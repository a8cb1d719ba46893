"""V rotated, in codes of 2 or 3 bits with a gain of one byte for each token: what q3's and q2's V share.

As in q4, a head's Hadamard rotation makes its numbers close to normal ones, and the scale leaves the product of a vector with
its own code as it was. Levels are Lloyd-Max (Max, "Quantizing for minimum distortion", 1960).

A sequence's first token is attended to most, and its V is nearly the same in all sequences: beside a calibrated K, pages
keep only what it has beyond that (PageFormat.less_first).
"""

from typing import ClassVar

import mlx.core as mx

from ..encoding import Encoding, rotate
from ..record import pack, unpack, v_lines, v_words

# Upper half of the levels, by bits; metal/include/formats/lloyd.h has the same.
LEVELS = {2: (0.4527801, 1.510417), 3: (0.2450942, 0.7560053, 1.343909, 2.151946)}
STEPS = 8        # of a gain, to a factor of 2
MIDDLE = 160     # the byte of a gain of 1


class Lloyd(Encoding):
    """Codes [page][d / per] groups in lines: of 2 bits 16 in a word; of 3 bits 32 in three: two words of their lower two
    bits, and one of their upper ones. Then gains, a byte a token [page / 4]: 2^((byte - 160) / 8); 0 is 0, 255 NaN."""

    kind: ClassVar[str] = "V"
    rotated: ClassVar[bool] = True
    shared: ClassVar[tuple] = ("formats/lloyd.h",)
    width: ClassVar[int] = 3
    less_first: ClassVar[bool] = True

    def defines(self, d):
        return super().defines(d) | {"V_LLOYD": self.width}

    def words(self, page, d):
        return page * d * self.width // 32 + page // 4

    def encode(self, x):
        x = rotate(x)
        levels = _all(self.width)
        square = (x * x).sum(axis=-1, keepdims=True)
        unit = x * mx.where(square > 0, mx.rsqrt(square / x.shape[-1]), 0.0)
        codes = (unit[..., None] > (levels[1:] + levels[:-1]) / 2).sum(axis=-1).astype(mx.uint32)
        product, square = (x * levels[codes]).sum(axis=-1), square.squeeze(-1)
        gain = mx.where(square > 0, square / product, 0.0)
        byte = mx.clip(mx.round(mx.log2(mx.maximum(gain, 1e-30)) * STEPS) + MIDDLE, 1, 254)
        byte = mx.where(mx.isfinite(square), mx.where(square > 0, byte, 0), 255).astype(mx.uint32)
        if self.width == 3:
            wide = codes.reshape(*codes.shape[:-1], -1, 32)
            words = mx.concatenate([pack(wide & 3, 2), pack(wide >> 2, 1)], axis=-1)
        else:
            words = pack(codes, 2)[..., None]
        return mx.concatenate([v_lines(words), pack(byte, 8)], axis=-1)

    def decode(self, words, page, d):
        codes, gains = mx.split(words, [page * d * self.width // 32], axis=-1)
        words = v_words(codes, page, self.loads)
        codes = unpack(words[..., :2], 2) + 4 * unpack(words[..., 2:], 1) if self.width == 3 else unpack(words, 2)
        byte = unpack(gains, 8)
        gain = mx.power(2.0, (byte.astype(mx.float32) - MIDDLE) / STEPS)
        gain = mx.where(byte == 255, mx.nan, mx.where(byte == 0, 0.0, gain))
        return rotate(_all(self.width)[codes.reshape(*gain.shape, d)] * gain[..., None])


def _all(width):
    return mx.array([-x for x in reversed(LEVELS[width])] + list(LEVELS[width]), mx.float32)
