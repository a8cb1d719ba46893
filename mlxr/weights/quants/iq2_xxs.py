"""IQ2_XXS: 256 weights in 66 bytes: fp16 d, then for each 32 weights two words.

The bytes of the first are four numbers of grid entries of 8 weights; the second has four sets of 7 signs, whose eighth
makes the number of minus signs even, and on top a scale. weight = d * (0.5 + scale) / 4 * grid * sign.
"""

from . import grids
from .block import Block, scale


class IQ2_XXS(Block):
    name, number, block_size, type_size = "IQ2_XXS", 16, 256, 66
    scales_at = (0,)

    @classmethod
    def weights(cls, parts, of):
        lead = parts.shape[:-1]
        words = of.view(parts, 2, 66, "uint32").reshape(*lead, 8, 2)
        scales = scale(of, parts, 0) * (of.real(words[..., 1] >> 28) + 0.5) * 0.25
        magnitudes = of.pick(grids.grid(cls.name), parts[..., 2:66].reshape(*lead, 8, 8)[..., :4])
        signs = of.pick(grids.EVEN_SIGNS, of.shifts(words[..., 1], (0, 7, 14, 21), 127))
        return (scales[..., None, None] * magnitudes * signs).reshape(*lead, 256)
