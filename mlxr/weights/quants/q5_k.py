"""Q5_K: 256 weights in 176 bytes: as Q4_K, with 32 bytes of fifth bits before the nibbles, eight planes of 32 weights."""

from .block import planes
from .q4_k import Q4_K


class Q5_K(Q4_K):
    name, number, block_size, type_size = "Q5_K", 13, 256, 176
    affine_bits = 5

    @classmethod
    def codes(cls, parts, of):
        lead = parts.shape[:-1]
        low = planes(of, parts[..., 48:].reshape(*lead, 4, 32), 4).reshape(*lead, 256)
        return low | planes(of, parts[..., 16:48], 1) << 4
