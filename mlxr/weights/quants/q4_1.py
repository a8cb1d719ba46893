"""Q4_1: 32 weights in 20 bytes: fp16 scale d and minimum m, then 32 nibbles; weight = d * nibble + m."""

from .block import Block, half, nibbles_in_order, planes, scale


class Q4_1(Block):
    name, number, block_size, type_size = "Q4_1", 3, 32, 20
    affine_bits = 4
    scales_at = (0, 2)

    @classmethod
    def weights(cls, parts, of):
        return scale(of, parts, 0) * of.real(planes(of, parts[..., 4:], 4)) + scale(of, parts, 2)

    @classmethod
    def to_affine(cls, blocks):
        parts = cls.split(blocks)
        return nibbles_in_order(parts[..., 4:]), half(parts, 0), half(parts, 2)
