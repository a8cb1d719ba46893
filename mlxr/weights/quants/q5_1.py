"""Q5_1: 32 weights in 24 bytes: fp16 scale d and minimum m, 32 fifth bits, 32 nibbles; weight = d * code + m."""

from .block import Block, Numbers, fields, half, pack, planes, scale


class Q5_1(Block):
    name, number, block_size, type_size = "Q5_1", 7, 32, 24
    affine_bits = 5
    scales_at = (0, 2)

    @classmethod
    def codes(cls, parts, of):
        return planes(of, parts[..., 8:], 4) | fields(of, parts[..., 4:8], 1) << 4

    @classmethod
    def weights(cls, parts, of):
        return scale(of, parts, 0) * of.real(cls.codes(parts, of)) + scale(of, parts, 2)

    @classmethod
    def to_affine(cls, blocks):
        parts = cls.split(blocks)
        return pack(cls.codes(parts, Numbers).reshape(len(blocks), -1), 5), half(parts, 0), half(parts, 2)
