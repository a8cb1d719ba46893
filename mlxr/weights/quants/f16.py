"""F16: plain 16-bit floats."""

import numpy as np

from .block import Block


class F16(Block):
    name, number, block_size, type_size = "F16", 1, 1, 2
    float_dtype = "float16"

    @classmethod
    def dequantize(cls, blocks):
        cls.split(blocks)
        return np.ascontiguousarray(blocks).view(np.float16).astype(np.float32)
