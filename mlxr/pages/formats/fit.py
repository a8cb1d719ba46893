"""Page format fit: K as in q3 and V as in q3 or q2, with more bits for those layers whose errors cost a model most.

`mlxr calibrate` measures what each layer's K and V cost in 2 bits (quality/costs.py). What more bits leave of that is known of the
codes, so a mean of bits is spent step by step where the next step saves most for its size (reverse water-filling, as
within a head). A layer then has the K and V of q3 or q2: kernels and records are theirs.
"""

from dataclasses import dataclass
from typing import ClassVar

from ...errors import ConfigError
from . import q2, q3
from .calibrated import Calibrated, lost
from .lloyd import Lloyd

K_BITS = 2, 3, 4                                   # few: each is a kernel of its own
WIDTHS = {2: q2.V, 3: q3.V}
V_LEFT = {2: 1.0, 3: 0.275}                        # of an error, as trellis codes leave it (pages/trellis.py)
GAIN = 8                                           # bits of a token's gain, in K and in V


def allocate(costs, elements, mean):
    """[(bits of K, bits of V)] of each layer. costs: ({bits: what K costs in so many}, {bits: V}) of each layer; elements: of a
    token and KV head, and how many of these, [(dk, dv, heads)] of each layer; mean: bits of an element of K and V, with gains."""
    bits = [[K_BITS[0], min(WIDTHS)] for _ in elements]
    steps = []
    for i, (dk, dv, heads) in enumerate(elements):
        for part, d, places in ((0, dk, K_BITS), (1, dv, sorted(WIDTHS))):
            for a, b in zip(places, places[1:]):
                size = heads * (b - a) * d
                steps.append(((costs[i][part][a] - costs[i][part][b]) / size, size, i, part, b))
    room = sum(heads * (mean * (dk + dv) - 2 * GAIN - K_BITS[0] * dk - min(WIDTHS) * dv) for dk, dv, heads in elements)
    shut = set()                                   # whose next step found no room: those after it may not be taken either
    for _, size, i, part, b in sorted(steps, key=lambda s: -s[0]):
        if size > room or (i, part) in shut:
            shut.add((i, part))
            continue
        bits[i][part], room = b, room - size
    return [tuple(b) for b in bits]


def curves(k, v, variances):
    """({bits: what K costs in so many}, {bits: V}) of a layer where these cost k and v in 2. variances [H, DK]: of K's coefficients."""
    dim = variances.shape[1]
    left = {b: lost(variances, b * dim) for b in K_BITS}
    return {b: k * x / max(left[K_BITS[0]], 1e-30) for b, x in left.items()}, {b: v * x for b, x in V_LEFT.items()}


def of_layers(formats, specs, costs):
    """(K, V) encodings of each layer: of `formats` [(K, V)], with those of this module resolved. specs: what layers store; costs: as
    allocate takes them."""
    out = [list(f) for f in formats]
    for part in (0, 1):
        for wanted in {f[part] for f in formats if isinstance(f[part], (K, V))}:
            own = [i for i, f in enumerate(formats) if f[part] == wanted]
            found = allocate([costs[i] for i in own], [(specs[i].dk, specs[i].dv, specs[i].kv_heads) for i in own], wanted.bits)
            for i, one in zip(own, found):
                out[i][part] = WIDTHS[one[1]]() if part else (q2.K if one[0] == q2.K.bits else q3.K)(bits=one[0], block=wanted.block)
    return [tuple(f) for f in out]


def _check(bits):
    if not 2.25 <= bits <= 3.5:
        raise ConfigError(f"fit: bits must lie between 2.25 and 3.5, not {bits:g}")


@dataclass(frozen=True)
class K(Calibrated):
    """bits: of an element of K and V, on average over layers, with gains; block: as in q3. A layer's own bits are known when the
    calibration is read; until then all layers count alike, with V in 2 bits."""

    bits: float = 2.6
    by_layer: ClassVar[bool] = True

    def __post_init__(self):
        _check(self.bits)
        super().__post_init__()

    def planes(self, d):
        return int(2 * self.bits * d) - 2 * d - 2 * GAIN


@dataclass(frozen=True)
class V(Lloyd):
    """bits: as K's."""

    bits: float = 2.6
    width: ClassVar[int] = 2
    loads: ClassVar[int] = 2
    by_layer: ClassVar[bool] = True

    def __post_init__(self):
        _check(self.bits)
