"""Q4_K: 256 weights in 144 bytes: fp16 d and dmin, 12 bytes of 6-bit scales and minima, 128 bytes of nibbles.

weight = (d * scale) * nibble - dmin * minimum, scale and minimum of 32 weights. 32 bytes have 32 weights in their low
halves, then 32 in the high ones.
"""

import numpy as np

from .block import Block, Numbers, half, k_scales, pack, planes, scale


class Q4_K(Block):
    name, number, block_size, type_size = "Q4_K", 12, 256, 144
    affine_bits, affine_halves = 4, False
    scales_at = (0, 2)

    @classmethod
    def codes(cls, parts, of):
        """[..., 256]"""
        lead = parts.shape[:-1]
        return planes(of, parts[..., 16:].reshape(*lead, 4, 32), 4).reshape(*lead, 256)

    @classmethod
    def weights(cls, parts, of):
        lead = parts.shape[:-1]
        scales, minima = k_scales(of, parts[..., 4:16])
        scales, minima = scale(of, parts, 0) * of.real(scales), scale(of, parts, 2) * of.real(minima)
        codes = of.real(cls.codes(parts, of)).reshape(*lead, 8, 32)
        return (scales[..., None] * codes - minima[..., None]).reshape(*lead, 256)

    @classmethod
    def to_affine(cls, blocks):
        """Exact in fp32: a product of scale, sub-scale and code has at most 11 + 6 + 5 bits."""
        parts = cls.split(blocks)
        scales, minima = (a.astype(np.float32) for a in k_scales(Numbers, parts[..., 4:16]))
        scales, biases = half(parts, 0)[..., None] * scales, half(parts, 2)[..., None] * -minima
        codes = pack(cls.codes(parts, Numbers).reshape(len(blocks), -1), cls.affine_bits)
        return codes, scales.reshape(len(blocks), -1), biases.reshape(len(blocks), -1)
