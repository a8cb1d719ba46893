"""IQ2_S: 256 weights in 82 bytes: fp16 d, 32 low bytes of grid entries of 8 weights, 32 bytes of signs, 8 bytes of the
entries' upper two bits, 8 of 4-bit scales; weight = d * (0.5 + scale) / 4 * grid * sign, a scale for 16 weights."""

from . import grids
from .block import Block, fields, scale


class IQ2_S(Block):
    name, number, block_size, type_size = "IQ2_S", 22, 256, 82
    scales_at = (0,)

    @classmethod
    def weights(cls, parts, of):
        lead = parts.shape[:-1]
        scales = scale(of, parts, 0) * (of.real(fields(of, parts[..., 74:], 4)) + 0.5) * 0.25
        entries = of.wide(parts[..., 2:34]) | of.wide(fields(of, parts[..., 66:74], 2)) << 8
        magnitudes = of.pick(grids.grid(cls.name), entries).reshape(*lead, 16, 16)
        signs = of.pick(grids.SIGNS, parts[..., 34:66]).reshape(*lead, 16, 16)
        return (scales[..., None] * magnitudes * signs).reshape(*lead, 256)
