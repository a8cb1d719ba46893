"""Q4_0: 32 weights in 18 bytes: an fp16 scale d, then 32 nibbles; weight = d * (nibble - 8)."""

import numpy as np

from .block import Block, half, nibbles_in_order, planes, scale


class Q4_0(Block):
    name, number, block_size, type_size = "Q4_0", 2, 32, 18
    affine_bits = 4
    scales_at = (0,)

    @classmethod
    def weights(cls, parts, of):
        return scale(of, parts, 0) * (of.real(planes(of, parts[..., 2:], 4)) - 8)

    @classmethod
    def to_affine(cls, blocks):
        parts = cls.split(blocks)
        scales = half(parts, 0)
        return nibbles_in_order(parts[..., 2:]), scales, scales * np.float32(-8)
