"""Q3_K: 256 weights in 110 bytes: 32 bytes of third bits, 64 of two lower bits, 12 of 6-bit scales, fp16 d.

weight = (d * (scale - 32)) * (code - 4), a scale for 16 weights. The third bits are eight planes of 32 weights, the lower
ones two times four. Scales: bytes 0-7 have low halves as two planes, bytes 8-11 upper bits as four.
"""

from .block import Block, planes, scale


class Q3_K(Block):
    name, number, block_size, type_size = "Q3_K", 11, 256, 110
    scales_at = (108,)

    @classmethod
    def weights(cls, parts, of):
        lead = parts.shape[:-1]
        codes = planes(of, parts[..., 32:96].reshape(*lead, 2, 32), 2).reshape(*lead, 256)
        codes = of.real(codes | planes(of, parts[..., :32], 1) << 2) - 4
        scales = planes(of, parts[..., 96:104], 4) | planes(of, parts[..., 104:108], 2) << 4
        scales = scale(of, parts, 108) * (of.real(scales) - 32)
        return (scales[..., None] * codes.reshape(*lead, 16, 16)).reshape(*lead, 256)
