"""IQ3_S: 256 weights in 110 bytes: fp16 d, 64 low bytes of grid entries of 4 weights, 8 bytes of the entries' upper bits,
32 bytes of signs, 4 of 4-bit scales; weight = d * (1 + 2 * scale) * grid * sign, a scale for 32 weights."""

from . import grids
from .block import Block, fields, scale


class IQ3_S(Block):
    name, number, block_size, type_size = "IQ3_S", 21, 256, 110
    scales_at = (0,)

    @classmethod
    def weights(cls, parts, of):
        lead = parts.shape[:-1]
        scales = scale(of, parts, 0) * (of.real(fields(of, parts[..., 106:], 4)) * 2 + 1)
        entries = of.wide(parts[..., 2:66]) | of.wide(fields(of, parts[..., 66:74], 1)) << 8
        magnitudes = of.pick(grids.grid(cls.name), entries).reshape(*lead, 8, 32)
        signs = of.pick(grids.SIGNS, parts[..., 74:106]).reshape(*lead, 8, 32)
        return (scales[..., None] * magnitudes * signs).reshape(*lead, 256)
