"""Q4_1: 32 weights in 20 bytes: fp16 scale d and minimum m, then 32 nibbles; weight = d * nibble + m."""

import numpy as np

from .block import Block, half, low_high_nibbles, nibbles_in_order


class Q4_1(Block):
    name, number, block_size, type_size = "Q4_1", 3, 32, 20
    affine_bits = 4
    scales_at = (0, 2)

    @classmethod
    def dequantize(cls, blocks):
        parts = cls.split(blocks)
        weights = half(parts, 0)[..., None] * low_high_nibbles(parts[..., 4:]).astype(np.float32)
        return (weights + half(parts, 2)[..., None]).reshape(blocks.shape[0], -1)

    @classmethod
    def to_affine(cls, blocks):
        parts = cls.split(blocks)
        return nibbles_in_order(parts[..., 4:]), half(parts, 0), half(parts, 2)
