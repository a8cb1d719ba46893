"""F32: plain 32-bit floats."""

import numpy as np

from .block import Block


class F32(Block):
    name, number, block_size, type_size = "F32", 0, 1, 4
    float_dtype = "float32"

    @classmethod
    def dequantize(cls, blocks):
        cls.split(blocks)
        return np.ascontiguousarray(blocks).view(np.float32)
