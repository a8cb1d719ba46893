"""Q6_K: 256 weights in 210 bytes: 128 bytes of nibbles, 64 of two upper bits, 16 signed scales, fp16 d.

weight = (d * scale) * (code - 32), a scale for 16 weights. Of each half, 64 bytes of nibbles are two planes of 64
weights, and 32 bytes of upper bits four planes of 32.
"""

from .block import Block, planes, scale


class Q6_K(Block):
    name, number, block_size, type_size = "Q6_K", 14, 256, 210
    scales_at = (208,)

    @classmethod
    def weights(cls, parts, of):
        lead = parts.shape[:-1]
        low = planes(of, parts[..., :128].reshape(*lead, 2, 64), 4)
        high = planes(of, parts[..., 128:192].reshape(*lead, 2, 32), 2)
        scales = scale(of, parts, 208) * of.real(of.view(parts, 192, 208, "int8"))
        codes = of.real(low | high << 4).reshape(*lead, 16, 16) - 32
        return (scales[..., None] * codes).reshape(*lead, 256)
