"""Q5_0: 32 weights in 22 bytes: an fp16 scale d, 32 fifth bits, then 32 nibbles; weight = d * (code - 16)."""

import numpy as np

from .block import Block, Numbers, fields, half, pack, planes, scale


class Q5_0(Block):
    name, number, block_size, type_size = "Q5_0", 6, 32, 22
    affine_bits = 5
    scales_at = (0,)

    @classmethod
    def codes(cls, parts, of):
        """Fifth bits are in the order of the weights; nibbles are low halves, then high halves."""
        return planes(of, parts[..., 6:], 4) | fields(of, parts[..., 2:6], 1) << 4

    @classmethod
    def weights(cls, parts, of):
        return scale(of, parts, 0) * (of.real(cls.codes(parts, of)) - 16)

    @classmethod
    def to_affine(cls, blocks):
        parts = cls.split(blocks)
        scales = half(parts, 0)
        return pack(cls.codes(parts, Numbers).reshape(len(blocks), -1), 5), scales, scales * np.float32(-16)
