"""K before RoPE, in coefficients of a transform that was fitted to a model, with bits by their weight: q3's and q2's K.

Per KV head: the mean is taken out, and blocks of channels go through a Karhunen-Loeve transform that is whitened by the
second moments of the queries they meet; bits go to coefficients by their variance in that metric (reverse water-filling);
codes are a trellis's (pages/trellis.py), but for those of 5 bits, which stand for Lloyd-Max levels. A token has a gain of one
byte. The leading coefficients have levels of their own, far apart, and no gain. A sequence's first token is an attention sink, and alike in all
sequences; so are some that follow it at once ("\n\n"): a token that is nearer to first ones than to others is stored less their
mean, which its gain says.

What a token's K says of its V costs nothing to store: a V that goes with it (PageFormat.given) is stored less a linear map of
the coefficients as they are read, and less its mean.
"""

import hashlib
from dataclasses import dataclass, field
from typing import ClassVar

import mlx.core as mx
import numpy as np

from ...errors import ConfigError
from .. import trellis
from ..encoding import Encoding, rotate

BLOCKS = 64, 16          # channels of a transform that calibrations hold
WIDE = 8                 # bits of the leading coefficient, and of others that are large
MOST = 5                 # bits of the rest
TRELLIS = 4              # at most of one on a trellis
LEFT = 1.0, 0.3137, 0.0919, 0.0253, 0.0068, 0.0025        # of a normal's variance, after so many bits
LEFT_WIDE = 0.0004       # after WIDE bits
STEPS = 16               # of a gain, to a factor of 2
LIKE = 64                # bytes of gains below this are of tokens like first ones, in steps of 1/8
LIKE_ONE = 48            # of these, that of a gain of 1
COUNTS = tuple(1 << min(b + 1, MOST) for b in range(1, MOST + 1))       # levels of a coefficient of so many bits
LEVELS = sum(COUNTS)
ROWS = 16                # of a matrix that kernels multiply at once: K_ROWS of formats/calibrated.h


def allocate(variances, total):
    """int [D]: `total` bits over coefficients of these variances (a NumPy array), where each next one saves most: WIDE for the
    largest, for others up to MOST, or WIDE, too."""
    bits = np.zeros(len(variances), np.int64)
    left, steps = np.asarray(LEFT), np.r_[np.ones(MOST, np.int64), WIDE - MOST]
    saved = -np.diff(np.r_[left, LEFT_WIDE]) / steps                  # of a unit of variance, for each bit of a step
    lead, spare = int(np.argmax(variances)), total - WIDE
    worth = variances * saved[0]
    worth[lead] = -1.0
    while spare > 0 and worth.max() > 0:
        best = int(np.argmax(worth))
        step = steps[bits[best]]
        if step > spare:
            worth[best] = -1.0
            continue
        bits[best] += step
        spare -= step
        worth[best] = variances[best] * saved[bits[best]] if bits[best] <= MOST else -1.0
    bits[lead] = WIDE
    return bits


def lost(variances, total):
    """What is left of coefficients of these variances [H, D], `total` bits of each head."""
    left = np.r_[LEFT, [LEFT_WIDE] * (WIDE - MOST)]
    return float(sum((v * left[allocate(v, total)]).sum() for v in variances.astype(np.float64)))


def value_places(dim):
    """int [DV]: the channels of V in the order in which kernels have them: of all groups the first, then the second, and so on;
    as they are where they are rotated in blocks."""
    return np.arange(dim) if dim & (dim - 1) else np.arange(dim).reshape(-1, min(32, dim)).T.reshape(-1)


def books(levels):
    """{bits: float32 [H, count]} of levels [H, LEVELS]: those of 1 to MOST bits, one after the other; twice as many on a trellis."""
    ends = np.cumsum([0, *COUNTS])
    return {b: levels[:, ends[b - 1]:ends[b]] for b in range(1, MOST + 1)}


class Tables:
    """What one layer's K goes by, for pages of `page` tokens and positions below pages * page.

    fitted: arrays of a calibration (NumPy), for this block size: order int [D], the channels place by place, a pair that is
    rotated together side by side; frequencies [D / 2]; mean [H, D], first [H, D] (what a
    sequence's first token has more), first_value [H, DV] (what its V is), value_mean [H, DV], value_map [H, DV, D] (of K less its
    mean, to V less its own), forward and inverse [H, D / block, block, block],
    variances [H, D], levels [H, LEVELS], span [H]. Channels of K by place, but for order and frequencies.
    """

    def __init__(self, fitted, bits, page, pages):
        heads, dim = fitted["mean"].shape
        block = fitted["forward"].shape[-1]
        self.heads, self.dim, self.block, self.page, self.planes = heads, dim, block, page, int(bits * dim)
        allocated = np.stack([allocate(v.astype(np.float64), self.planes) for v in fitted["variances"]])
        self.bits = allocated
        angles = np.outer(np.arange(pages + 1) * page, fitted["frequencies"].astype(np.float64))
        self.turns = mx.array(np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32))          # [pages, 2, D / 2]
        angles = np.outer(np.arange(page), fitted["frequencies"].astype(np.float64))
        self.steps = mx.array(np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32))             # [2, page, D / 2]
        self.order = mx.array(fitted["order"].astype(np.int32))
        self.back = mx.array(np.argsort(fitted["order"]).astype(np.int32))
        self.mean, self.first, self.forward, self.inverse = (
            mx.array(fitted[n].astype(np.float32)) for n in ("mean", "first", "forward", "inverse"))
        self.value_mean = mx.array(fitted["value_mean"].astype(np.float32))
        self.first_value = mx.array(fitted["first_value"].astype(np.float32)) - self.value_mean          # what it has more
        parts = fitted["value_map"].reshape(heads, -1, dim // block, block).swapaxes(1, 2)
        self.value_map = mx.array((parts @ fitted["inverse"]).swapaxes(1, 2).reshape(heads, -1, dim).astype(np.float32))     # of coefficients
        wide = allocated == WIDE
        weights = np.where(wide | (allocated == 0), 0, fitted["variances"])
        forward = fitted["forward"].astype(np.float64)
        self.first_code = mx.array(np.einsum("hnij,hnj->hni", forward, fitted["first"].reshape(heads, -1, block)).reshape(heads, dim).astype(np.float32))
        self.halfway = mx.array((0.5 * (fitted["first"].astype(np.float64) ** 2).sum(axis=1)).astype(np.float32))     # [H]
        self.weights = mx.array(weights.astype(np.float32))                                              # [H, D]
        self.wide = mx.array(wide)
        self.step = mx.array((2 * fitted["span"] / ((1 << WIDE) - 2)).astype(np.float32))                # [H]
        table = np.full((heads, dim, 1 << MOST), 1e18, np.float32)              # far from all numbers, and finite when squared
        table[allocated == 0] = 0
        for b, book in books(fitted["levels"]).items():
            for h, d in zip(*np.nonzero(allocated == b)):
                table[h, d, :book.shape[1]] = book[h]
        self.levels = mx.array(table)
        coded = (allocated > 0) & (allocated <= TRELLIS)
        self.on_trellis = mx.array(coded)
        before = np.full((3, heads, dim), dim, np.int32)                        # the numbers before, of the same path; dim: none
        for h in range(heads):
            for start in range(0, dim, block):
                own = start + np.nonzero(coded[h, start:start + block])[0]
                for n in (1, 2, 3):
                    before[n - 1, h, own[n:]] = own[:-n] if len(own) > n else []
        self.before = mx.array(before)
        place = [[(d, i) for d in range(dim) for i in range(allocated[h, d])] for h in range(heads)]
        self.plane = mx.array(np.array([[d * WIDE + i for d, i in p] for p in place], np.int32))         # [H, planes]
        worth = np.zeros((heads, self.planes, dim), np.float32)
        for h, p in enumerate(place):
            for n, (d, i) in enumerate(p):
                worth[h, n, d] = 1 << i
        self.worth = mx.array(worth)
        self.fitted = fitted
        self.constants = mx.array(np.concatenate([x.astype(np.float32).reshape(-1) for x in self._constants()]))

    def __repr__(self):
        return f"<tables {hashlib.sha256(np.array(self.constants).tobytes()).hexdigest()[:16]}>"     # of stored pages, too

    def _constants(self):
        """The parts of what kernels read, in the order of metal/include/formats/calibrated.h."""
        f = self.fitted
        yield f["order"]
        yield np.array(self.steps).transpose(2, 0, 1)                                        # [D / 2, 2, page]
        table = books(f["levels"])
        for h in range(self.heads):
            yield from (f["inverse"][h], f["forward"][h], f["mean"][h], f["first"][h], self.bits[h])
            yield np.concatenate([[0], np.cumsum(self.bits[h])[:-1]])
            yield np.array(self.weights[h])
            yield np.array(self.first_code[h])
            levels = np.zeros((6, 32))
            for b, book in table.items():
                levels[b, :book.shape[1]] = book[h]
            yield levels
            used = np.zeros(16)
            used[0] = np.array(self.step)[h]
            for n, bits in enumerate(self.bits[h].reshape(-1, self.block)):
                used[1 + n] = -(-(int(np.nonzero(bits)[0].max(initial=-1)) + 1) // 8) * 8    # a product takes eight at once
            used[15] = np.array(self.halfway)[h]
            yield used
            yield np.array(self.first_value[h])
            yield np.array(rotate(self.first_value[h]))
            place = value_places(self.value_mean.shape[1])
            yield np.array(self.value_mean[h])[place]
            yield np.array(self.value_map[h])[place]
            yield np.array(self.value_map[h])[place].T
        yield np.array(self.turns)                                                           # [pages, 2, D / 2]

    def turned(self, x, at, back=False):
        """x [..., H, page, D] by place, of pages number `at` int [...] of their sequences, rotated; back: undone."""
        cos, sin = (self.turns[at][..., None, None, i, :] for i in (0, 1))                               # [..., 1, 1, D / 2]
        c, s = self.steps[0], self.steps[1]
        cos, sin = cos * c - sin * s, sin * c + cos * s
        if back:
            sin = -sin
        a, b = x[..., 0::2], x[..., 1::2]
        return mx.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape)

    def means(self, like):
        """[..., H, page, D]: what is taken out of K by place. like: bool [..., H, page], which tokens are like first ones."""
        return self.mean[:, None] + mx.where(like[..., None], self.first[:, None], 0.0)

    def values(self, coefficients, like):
        """[..., H, page, DV]: what is taken out of V, where K has these coefficients [..., H, page, D]."""
        more = self.value_mean[:, None] + mx.where(like[..., None], self.first_value[:, None], 0.0)
        return coefficients @ self.value_map.swapaxes(-1, -2) + more

    def coefficients(self, x, matrices):
        """Each block of x [..., H, page, D] times its matrix [H, D / block, block, block]."""
        y = x.reshape(*x.shape[:-1], -1, self.block).swapaxes(-2, -3) @ matrices.swapaxes(-1, -2)
        return y.swapaxes(-2, -3).reshape(x.shape)

    def choose(self, unit):
        """(codes, levels) of coefficients [..., H, page, D] that were brought to the levels' range; of the wide one neither."""
        errors, r = trellis.nearest(unit, self.levels[:, None])
        active = self.on_trellis[:, None]
        u, subsets = trellis.path(errors * self.weights[:, None, :, None], self.block, active)
        best = mx.argmin(errors, axis=-1).astype(mx.int32)                      # where it is no trellis's
        index = trellis.index_of(r, mx.where(active, subsets, best))
        return mx.where(active, u + 2 * (index >> 2), index), self._level(index)

    def look_up(self, codes):
        """What codes [..., H, page, D] stand for, before the gain."""
        u = mx.pad(codes & 1, [(0, 0)] * (codes.ndim - 1) + [(0, 1)])
        before = (mx.take_along_axis(u, mx.broadcast_to(b[:, None], codes.shape), axis=-1) for b in self.before)
        index = mx.where(self.on_trellis[:, None], 4 * (codes >> 1) + trellis.subsets_of(codes & 1, *before), codes)
        wide = (codes.astype(mx.float32) - (1 << WIDE - 1)) * self.step[:, None, None]
        return mx.where(self.wide[:, None], wide, self._level(index))

    def _level(self, index):
        first = mx.arange(self.heads * self.dim).reshape(self.heads, 1, self.dim) * (1 << MOST)
        return mx.take(self.levels.reshape(-1), first + mx.minimum(index, (1 << MOST) - 1))


@dataclass(frozen=True)
class Calibrated(Encoding):
    """bits: of an element, on average, without the gains. block: channels of a transform, 64 or 16.

    For each 32 tokens, bits * d words, each a bit of 32 tokens' codes: of the first coefficient its bits from the lowest
    up, then of the second. A new path of the trellis begins with each block. Then the tokens' gains, a byte each [page / 4]:
    2^((byte - 128) / 16); 0 is 0, 255 NaN; below 64 2^((byte - 48) / 8), of a token like first ones.
    tables: a Tables, of a layer; it does not tell formats apart.
    """

    bits: float = 3
    block: int = 64
    tables: Tables | None = field(default=None, compare=False)

    kind: ClassVar[str] = "K"
    before_rope: ClassVar[bool] = True
    per: ClassVar[int] = 8
    shared: ClassVar[tuple] = ("formats/trellis.h", "formats/calibrated.h")

    def __post_init__(self):
        if not 1 <= self.bits <= 4:
            raise ConfigError(f"{self.name}: bits must lie between 1 and 4, not {self.bits:g}")
        if self.block not in BLOCKS:
            raise ConfigError(f"{self.name}: block must be {' or '.join(map(str, BLOCKS))}, not {self.block:g}")

    def defines(self, d):
        return super().defines(d) | {"K_CALIBRATED": 1, "K_BLOCK": self.block_of(d), "K_PLANES": self.planes(d)}

    def block_of(self, d):
        """Channels of a transform, for heads of d."""
        return min(self.block, d)

    def planes(self, d):
        """Bits of a token."""
        return int(self.bits * d)

    def unfit(self, page, d):
        if page < 32:
            return f"pages of {page} tokens: use --page-size 32 or more"
        if d % 16 or d % self.block_of(d):
            return f"heads of {d} elements, which are no multiple of {self.block_of(d) if d % 16 == 0 else 16}"
        if d > 128:
            return f"heads of {d} elements: it takes 128 at most"
        return None

    def words(self, page, d):
        return page // 32 * self.planes(d) + page // 4

    def table_bytes(self, heads, d, dv, page, pages):
        """Of the arrays that Tables makes, in the order of its lines."""
        block, planes, turns = self.block_of(d), self.planes(d), (pages + 1) * d
        constants = d + page * d + heads * (2 * d * block + 6 * d + 6 * 32 + 16 + 3 * dv + 2 * d * dv) + turns
        own = heads * (7 * d + 2 * d * block + 2 * dv + d * dv + 2 + d * (1 << MOST) + planes + planes * d)
        return 4 * (turns + page * d + 2 * d + own + constants) + 2 * heads * d

    def read_floats(self, d, on):
        return 32 * (self.block_of(d) + ROWS) + self._staged(d, on)

    def given_floats(self, page, d, on):
        """As read_floats, of attend beside a V that is given K: a CPU keeps a page's coefficients, a GPU its words."""
        blocks = page // 32
        return 32 * ((blocks * d if on == "host" else self.block_of(d)) + ROWS) + blocks * self._staged(d, on)

    def _staged(self, d, on):
        return -(-self.planes(d) // 32) * 32 if on == "metal" else 0

    def seal_floats(self, page, d, simdgroups):
        room = 32 * (self.block_of(d) + d)
        return min(simdgroups, 8192 // room) * room

    def encode(self, x, at=None):
        t, page = self.need(), x.shape[-2]
        centred = t.turned(x[..., t.order], at, back=True) - t.mean[:, None]
        like = (centred * t.first[:, None]).sum(axis=-1) > t.halfway[:, None]
        c = t.coefficients(centred, t.forward) - mx.where(like[..., None], t.first_code[:, None], 0.0)
        weights = t.weights[:, None]
        rms = mx.sqrt((c * c * weights).sum(axis=-1, keepdims=True) / weights.sum(axis=-1, keepdims=True))
        unit = c * mx.where(rms > 0, 1 / rms, 0.0)
        codes, level = t.choose(unit)
        gain = (weights * c * level).sum(axis=-1) / (weights * level * level).sum(axis=-1)
        top = (1 << WIDE) - 1
        far = mx.clip(mx.round(c / t.step[:, None, None]) + (1 << WIDE - 1), 0, top)
        codes = mx.where(t.wide[:, None], far.astype(mx.int32), codes)
        finite = mx.isfinite((c * 0).sum(axis=-1))
        n = mx.round(mx.log2(mx.maximum(gain, 1e-30)) * STEPS)
        byte = mx.where(gain > 0, mx.clip(n + 128, LIKE, 254), 0)
        byte = mx.where(like, mx.where(gain > 0, mx.clip(mx.floor((n + 1) / 2) + LIKE_ONE, 1, LIKE - 1), 1), byte)
        byte = mx.where(finite, byte, 255).astype(mx.uint32)
        codes = mx.where(finite[..., None], codes, 0)
        bits = (codes[..., None] >> mx.arange(WIDE)) & 1                                  # [..., H, page, D, WIDE]
        bits = bits.reshape(*codes.shape[:-1], -1)
        bits = mx.take_along_axis(bits, mx.broadcast_to(t.plane[:, None], (*bits.shape[:-1], t.planes)), axis=-1)
        words = (bits.reshape(*bits.shape[:-2], page // 32, 32, -1).astype(mx.uint32)
                 << mx.arange(32, dtype=mx.uint32)[:, None]).sum(axis=-2).astype(mx.uint32)
        gains = (byte.reshape(*byte.shape[:-1], -1, 4) << (8 * mx.arange(4, dtype=mx.uint32))).sum(axis=-1).astype(mx.uint32)
        return mx.concatenate([words.reshape(*words.shape[:-2], -1), gains], axis=-1)

    def decode(self, words, page, d, at=None):
        t = self.need()
        c, like = self.coefficients(words, page)
        return t.turned(t.coefficients(c, t.inverse) + t.means(like), at)[..., t.back]

    def values(self, words, page):
        """[..., H, page, DV]: what a V that is given K is stored less, of pages whose K is stored in these words."""
        return self.need().values(*self.coefficients(words, page))

    def coefficients(self, words, page):
        """(float32 [..., H, page, D], which tokens are like first ones: bool [..., H, page]) of words [..., H, words], as
        attention reads them."""
        t = self.need()
        planes, gains = mx.split(words, [page // 32 * t.planes], axis=-1)
        planes = planes.reshape(*planes.shape[:-1], page // 32, 1, -1)
        bits = (planes >> mx.arange(32, dtype=mx.uint32)[:, None]) & 1                    # [..., H, page / 32, 32, planes]
        bits = bits.reshape(*words.shape[:-1], page, -1).astype(mx.float32)
        codes = (bits @ t.worth).astype(mx.int32)
        byte = ((gains[..., None] >> (8 * mx.arange(4, dtype=mx.uint32))) & 255).reshape(*words.shape[:-1], page)
        like, number = (byte > 0) & (byte < LIKE), byte.astype(mx.float32)
        gain = mx.power(2.0, mx.where(like, (number - LIKE_ONE) / (STEPS / 2), (number - 128) / STEPS))
        gain = mx.where(byte == 255, mx.nan, mx.where(byte == 0, 0.0, gain))[..., None]
        level = t.look_up(codes)
        return mx.where(t.wide[:, None], level + 0 * gain, level * gain), like

    def need(self):
        """The tables. Raises ConfigError where there are none."""
        if self.tables is None:
            raise ConfigError(f"page format {self.name} needs a calibration of the model; run `mlxr calibrate MODEL`")
        return self.tables
