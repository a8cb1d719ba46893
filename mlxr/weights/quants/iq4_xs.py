"""IQ4_XS: 256 weights in 136 bytes: fp16 d, 2 bytes of upper bits and 4 of lower halves of eight 6-bit scales, nibbles.

weight = (d * (scale - 32)) * VALUES[nibble], a scale for 32 weights, whose 16 bytes of nibbles are as in IQ4_NL.
"""

from .block import Block, fields, planes, scale
from .iq4_nl import VALUES


class IQ4_XS(Block):
    name, number, block_size, type_size = "IQ4_XS", 23, 256, 136
    scales_at = (0,)

    @classmethod
    def weights(cls, parts, of):
        lead = parts.shape[:-1]
        scales = fields(of, parts[..., 4:8], 4) | fields(of, parts[..., 2:4], 2) << 4
        scales = scale(of, parts, 0) * (of.real(scales) - 32)
        values = of.pick(VALUES, planes(of, parts[..., 8:].reshape(*lead, 8, 16), 4))
        return (scales[..., None] * values).reshape(*lead, 256)
