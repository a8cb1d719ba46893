"""Q8_0: 32 weights in 34 bytes: an fp16 scale d, then 32 signed bytes; weight = d * byte."""

import numpy as np

from .block import Block, half, scale


class Q8_0(Block):
    name, number, block_size, type_size = "Q8_0", 8, 32, 34
    affine_bits = 8
    scales_at = (0,)

    @classmethod
    def weights(cls, parts, of):
        return scale(of, parts, 0) * of.real(of.view(parts, 2, 34, "int8"))

    @classmethod
    def to_affine(cls, blocks):
        parts = cls.split(blocks)
        scales = half(parts, 0)
        codes = parts[..., 2:] ^ np.uint8(0x80)  # signed byte + 128
        return codes.view(np.uint32).reshape(blocks.shape[0], -1), scales, scales * np.float32(-128)
