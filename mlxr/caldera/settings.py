"""What --caldera says: bits, rank, bits of the factors, and which layers get more."""

from dataclasses import dataclass, fields

from ..errors import ConfigError

BITS, FACTOR_BITS = (2, 3, 4, 5, 6, 8), (4, 8, 16)
RANK_STEP, MOST_RANK = 32, 1024


@dataclass(frozen=True)
class Caldera:
    """How linear layers are compressed.

    bits: of Q. rank: of L R, which all layers of the same input share, a multiple of 32. factor_bits: of L and R, 4, 8
    or 16. protect: blocks whose Q gets the next larger number of bits: the first, the last, and those that calibration
    finds; None: one in eight, and two at least. tokens: of text that calibration reads. text: of which; None: what is
    shipped (quality/texts.py).
    """

    bits: int = 3
    rank: int = 64
    factor_bits: int = 4
    protect: int | None = None
    tokens: int = 8192
    text: str | None = None

    def __post_init__(self):
        _check("bits", self.bits, self.bits in BITS, f"one of {', '.join(map(str, BITS))}")
        _check("factor-bits", self.factor_bits, self.factor_bits in FACTOR_BITS, f"one of {', '.join(map(str, FACTOR_BITS))}")
        _check("rank", self.rank, 0 < self.rank <= MOST_RANK and self.rank % RANK_STEP == 0,
               f"a multiple of {RANK_STEP} from {RANK_STEP} to {MOST_RANK}")
        _check("protect", self.protect, self.protect is None or self.protect >= 0, "a number of blocks")
        _check("tokens", self.tokens, self.tokens >= 512, "at least 512")

    def protected(self, blocks):
        """How many of a model's blocks get more bits."""
        return min(blocks, max(2, round(blocks / 8)) if self.protect is None else self.protect)

    @property
    def more_bits(self):
        """Bits of Q in those."""
        return BITS[min(BITS.index(self.bits) + 1, len(BITS) - 1)]


def _check(name, value, fits, wanted):
    if not fits:
        raise ConfigError(f"--caldera {name}={value}: it must be {wanted}")


def parse(said, /, **more):
    """The Caldera of `bits=3,rank=64,factor-bits=4`; what is not said has its default, or is in `more`. Raises ConfigError."""
    names = {f.name.replace("_", "-"): f.name for f in fields(Caldera) if f.name != "text"}
    given = {}
    for part in said.split(","):
        name, _, value = (p.strip() for p in part.partition("="))
        if name not in names:
            raise ConfigError(f"--caldera {part!r}: write NAME=NUMBER, with {', '.join(names)}")
        if names[name] in given:
            raise ConfigError(f"--caldera names {name} twice")
        if not (value.isascii() and value.isdecimal()):
            raise ConfigError(f"--caldera {name}={value}: it must be a whole number")
        given[names[name]] = int(value)
    return Caldera(**given, **more)
