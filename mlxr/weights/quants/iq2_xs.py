"""IQ2_XS: 256 weights in 74 bytes: fp16 d, for each 8 weights 9 bits of a grid entry and 7 of signs, then 4-bit scales.

weight = d * (0.5 + scale) / 4 * grid * sign, a scale for 16 weights; the eighth sign makes the number of minus signs even.
"""

from . import grids
from .block import Block, fields, scale


class IQ2_XS(Block):
    name, number, block_size, type_size = "IQ2_XS", 17, 256, 74
    scales_at = (0,)

    @classmethod
    def weights(cls, parts, of):
        lead, codes = parts.shape[:-1], of.view(parts, 2, 66, "uint16")
        scales = scale(of, parts, 0) * (of.real(fields(of, parts[..., 66:], 4)) + 0.5) * 0.25
        eights = (of.pick(table, at).reshape(*lead, 16, 16)
                  for table, at in ((grids.grid(cls.name), codes & 511), (grids.EVEN_SIGNS, codes >> 9)))
        magnitudes, signs = eights
        return (scales[..., None] * magnitudes * signs).reshape(*lead, 256)
