"""IQ3_XXS: 256 weights in 98 bytes: fp16 d, 64 bytes of grid entries of 4 weights, then for each 32 weights a word.

It has four sets of 7 signs of 8 weights, whose eighth makes the number of minus signs even, and on top a scale.
weight = d * (0.5 + scale) / 2 * grid * sign.
"""

from . import grids
from .block import Block, scale


class IQ3_XXS(Block):
    name, number, block_size, type_size = "IQ3_XXS", 18, 256, 98
    scales_at = (0,)

    @classmethod
    def weights(cls, parts, of):
        lead, words = parts.shape[:-1], of.view(parts, 66, 98, "uint32")
        scales = scale(of, parts, 0) * (of.real(words >> 28) + 0.5) * 0.5
        magnitudes = of.pick(grids.grid(cls.name), parts[..., 2:66]).reshape(*lead, 8, 32)
        signs = of.pick(grids.EVEN_SIGNS, of.shifts(words, (0, 7, 14, 21), 127)).reshape(*lead, 8, 32)
        return (scales[..., None] * magnitudes * signs).reshape(*lead, 256)
