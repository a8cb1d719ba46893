"""Q4_0: 32 weights in 18 bytes: an fp16 scale d, then 32 nibbles; weight = d * (nibble - 8)."""

import numpy as np

from .block import Block, half, low_high_nibbles, nibbles_in_order


class Q4_0(Block):
    name, number, block_size, type_size = "Q4_0", 2, 32, 18
    affine_bits = 4
    scales_at = (0,)

    @classmethod
    def dequantize(cls, blocks):
        parts = cls.split(blocks)
        codes = low_high_nibbles(parts[..., 2:]).astype(np.int8) - np.int8(8)
        return (half(parts, 0)[..., None] * codes.astype(np.float32)).reshape(blocks.shape[0], -1)

    @classmethod
    def to_affine(cls, blocks):
        parts = cls.split(blocks)
        scales = half(parts, 0)
        return nibbles_in_order(parts[..., 2:]), scales, scales * np.float32(-8)
