"""TQ1_0: 256 weights of -1, 0, 1 in 54 bytes: 52 bytes of five digits to base 3 each, then an fp16 scale d.

A byte b holds digits as a fraction: digit n = floor(3 * (b * 3^n mod 256) / 256); weight = d * (digit - 1). Bytes 0-31
have five planes of 32 weights, bytes 32-47 five of 16, bytes 48-51 four of 4.
"""

import numpy as np

from .block import Block, Numbers, half, pack, scale


class TQ1_0(Block):
    name, number, block_size, type_size = "TQ1_0", 34, 256, 54
    affine_bits, affine_halves = 2, False
    scales_at = (52,)

    @classmethod
    def codes(cls, parts, of):
        """uint16 [..., 256]"""
        plane = [parts[..., at:to] * 3 ** n for at, to, digits in ((0, 32, 5), (32, 48, 5), (48, 52, 4)) for n in range(digits)]
        return of.wide(of.join(plane)) * 3 >> 8

    @classmethod
    def weights(cls, parts, of):
        return scale(of, parts, 52) * (of.real(cls.codes(parts, of)) - 1)

    @classmethod
    def to_affine(cls, blocks):
        """The scale of 256 weights, for each 32 of them."""
        parts = cls.split(blocks)
        scales = np.repeat(half(parts, cls.scales_at[0]), 8, axis=-1)
        return pack(cls.codes(parts, Numbers).reshape(len(blocks), -1).astype(np.uint8), 2), scales, -scales
