"""MXFP4: 32 weights in 17 bytes: an exponent e, then 32 nibbles; weight = 2^(e - 128) * VALUES[nibble].

The OCP microscaling format: VALUES are twice those of E2M1, and the scale half of E8M0's.
"""

import numpy as np

from .block import Block, planes

VALUES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)
SCALES = np.array([2.0 ** (e - 128) for e in range(256)], np.float32)
_LARGEST = 252    # the exponent up to which every weight is a finite fp32 number


class MXFP4(Block):
    name, number, block_size, type_size = "MXFP4", 39, 32, 17

    @classmethod
    def finite(cls, blocks):
        return bool((cls.split(blocks)[..., 0] <= _LARGEST).all())

    @classmethod
    def weights(cls, parts, of):
        return of.pick(SCALES, parts[..., :1]) * of.pick(VALUES, planes(of, parts[..., 1:], 4))
