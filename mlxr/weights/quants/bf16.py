"""BF16: the upper half of a 32-bit float."""

import numpy as np

from .block import Block


class BF16(Block):
    name, number, block_size, type_size = "BF16", 30, 1, 2
    float_dtype = "bfloat16"

    @classmethod
    def dequantize(cls, blocks):
        cls.split(blocks)
        return (np.ascontiguousarray(blocks).view(np.uint16).astype(np.uint32) << 16).view(np.float32)
