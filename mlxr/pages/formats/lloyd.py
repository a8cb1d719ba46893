"""V rotated, in trellis codes of 2 or 3 bits with a gain of one byte for each token: what q3's and q2's V share.

As in q4, a head's Hadamard rotation makes its numbers close to normal ones, and the scale leaves the product of a vector with
its own code as it was. Levels are the means of what they stand for, on normal numbers, with paths of 32 (pages/trellis.py).

Beside a calibrated K, pages keep only what V has beyond what K says of it (PageFormat.given). A sequence's first token is
attended to most, and its V is nearly the same in all sequences: that is part of what is known of it.
"""

from typing import ClassVar

import mlx.core as mx

from .. import trellis
from ..encoding import Encoding, rotate
from ..record import pack, unpack, v_lines, v_words

# Upper half of the levels, by bits; metal/include/formats/lloyd.h has the same.
LEVELS = {2: (0.196668, 0.611198, 1.089838, 1.86218),
          3: (0.107797, 0.315728, 0.543486, 0.778598, 1.051457, 1.3665, 1.808395, 2.48915)}
STEPS = 8        # of a gain, to a factor of 2
MIDDLE = 160     # the byte of a gain of 1


class Lloyd(Encoding):
    """Codes [page][d / 32] groups in lines: a word of 32 codes' lowest bits, one of the next bits, and so on. Then gains, a byte
    a token [page / 4]: 2^((byte - 160) / 8); 0 is 0, 255 NaN."""

    kind: ClassVar[str] = "V"
    rotated: ClassVar[bool] = True
    shared: ClassVar[tuple] = ("formats/trellis.h", "formats/lloyd.h")
    per: ClassVar[int] = 32
    width: ClassVar[int] = 3
    given_k: ClassVar[bool] = True

    def defines(self, d):
        return super().defines(d) | {"V_LLOYD": self.width}

    def unfit(self, page, d):
        return f"heads of {d} elements: it takes 256 at most" if d > 256 else super().unfit(page, d)

    def words(self, page, d):
        return page * d * self.width // 32 + page // 4

    def seal_floats(self, page, d, simdgroups):
        return min(simdgroups, 2) * 2048 + 32

    def encode(self, x):
        x = rotate(x)
        levels = _all(self.width)
        square = (x * x).sum(axis=-1, keepdims=True)
        unit = x * mx.where(square > 0, mx.rsqrt(square / x.shape[-1]), 0.0)
        errors, r = trellis.nearest(unit.reshape(*x.shape[:-1], -1, 32), levels)
        u, subsets = trellis.path(errors, 32)
        index = trellis.index_of(r, subsets)
        product, square = (x * levels[index].reshape(x.shape)).sum(axis=-1), square.squeeze(-1)
        gain = mx.where(square > 0, square / product, 0.0)
        byte = mx.clip(mx.round(mx.log2(mx.maximum(gain, 1e-30)) * STEPS) + MIDDLE, 1, 254)
        byte = mx.where(mx.isfinite(square), mx.where(square > 0, byte, 0), 255).astype(mx.uint32)
        codes = (u + 2 * (index >> 2)).astype(mx.uint32)
        words = mx.concatenate([pack(codes >> i & 1, 1) for i in range(self.width)], axis=-1)
        return mx.concatenate([v_lines(words), pack(byte, 8)], axis=-1)

    def decode(self, words, page, d):
        codes, gains = mx.split(words, [page * d * self.width // 32], axis=-1)
        u, *more = (unpack(w, 1).astype(mx.int32) for w in mx.split(v_words(codes, page, self.loads), self.width, axis=-1))
        before = (mx.pad(u[..., :-n], [(0, 0)] * (u.ndim - 1) + [(n, 0)]) for n in (1, 2, 3))
        index = trellis.subsets_of(u, *before) + sum(b << 2 + i for i, b in enumerate(more))
        byte = unpack(gains, 8)
        gain = mx.power(2.0, (byte.astype(mx.float32) - MIDDLE) / STEPS)
        gain = mx.where(byte == 255, mx.nan, mx.where(byte == 0, 0.0, gain))
        return rotate(_all(self.width)[index.reshape(*gain.shape, d)] * gain[..., None])


def _all(width):
    return mx.array([-x for x in reversed(LEVELS[width])] + list(LEVELS[width]), mx.float32)
