"""Q2_K: 256 weights in 84 bytes: 16 bytes of 4-bit scales and minima, 64 bytes of 2-bit codes, fp16 d and dmin.

weight = (d * scale) * code - dmin * minimum, scale and minimum of 16 weights. Each half of the codes is four planes of
32 weights.
"""

from .block import Block, planes, scale


class Q2_K(Block):
    name, number, block_size, type_size = "Q2_K", 10, 256, 84
    scales_at = (80, 82)

    @classmethod
    def weights(cls, parts, of):
        lead, both = parts.shape[:-1], parts[..., :16]
        codes = planes(of, parts[..., 16:80].reshape(*lead, 2, 32), 2).reshape(*lead, 16, 16)
        scales, minima = scale(of, parts, 80) * of.real(both & 15), scale(of, parts, 82) * of.real(both >> 4)
        return (scales[..., None] * of.real(codes) - minima[..., None]).reshape(*lead, 256)
