"""IQ4_NL: 32 weights in 18 bytes: an fp16 scale d, then 32 nibbles; weight = d * VALUES[nibble]."""

import numpy as np

from .block import Block, planes, scale

VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)


class IQ4_NL(Block):
    name, number, block_size, type_size = "IQ4_NL", 20, 32, 18
    scales_at = (0,)

    @classmethod
    def weights(cls, parts, of):
        return scale(of, parts, 0) * of.pick(VALUES, planes(of, parts[..., 2:], 4))
