"""Q8_K: 256 weights in 292 bytes: an fp32 scale d, 256 signed bytes, 16 sums of 16; weight = d * byte.

ggml keeps activations in it. gguf-py knows its size and no more, and llama.cpp loads no weights of it.
"""

import numpy as np

from .block import Block


class Q8_K(Block):
    name, number, block_size, type_size = "Q8_K", 15, 256, 292

    @classmethod
    def finite(cls, blocks):
        return bool(np.isfinite(np.ascontiguousarray(cls.split(blocks)[..., :4]).view("<f4")).all())

    @classmethod
    def weights(cls, parts, of):
        return of.view(parts, 0, 4, "float32") * of.real(of.view(parts, 4, 260, "int8"))
