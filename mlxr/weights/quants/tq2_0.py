"""TQ2_0: 256 weights of -1, 0, 1 (and 2) in 66 bytes: 64 bytes of 2-bit codes, fp16 d; weight = d * (code - 1).

Each half of the codes is four planes of 32 weights.
"""

from .block import planes, scale
from .tq1_0 import TQ1_0


class TQ2_0(TQ1_0):
    name, number, block_size, type_size = "TQ2_0", 35, 256, 66
    scales_at = (64,)

    @classmethod
    def codes(cls, parts, of):
        lead = parts.shape[:-1]
        return planes(of, parts[..., :64].reshape(*lead, 2, 32), 2).reshape(*lead, 256)

    @classmethod
    def weights(cls, parts, of):
        return scale(of, parts, 64) * (of.real(cls.codes(parts, of)) - 1)
