"""Tables of the IQ2 and IQ3 types: grids of 8 or 4 magnitudes, which gguf-py has, and signs of 8 weights."""

import functools

import numpy as np

_BITS = np.arange(8)
SIGNS = np.where(np.arange(256)[:, None] >> _BITS & 1, -1, 1).astype(np.float32)                 # a bit a weight
EVEN_SIGNS = SIGNS[[i | (i.bit_count() & 1) << 7 for i in range(128)]]                           # with an even number of -1


@functools.lru_cache(None)
def grid(name):
    """float32 [entries, 8 or 4]: the magnitudes that a code of this type stands for."""
    return _table(name).grid[0, 0]


@functools.lru_cache(None)
def values(name):
    """float32 [3 or 8]: the magnitudes that occur in the grid, from the smallest."""
    return np.array(_table(name).grid_map, np.float32)


@functools.lru_cache(None)
def packed_grid(name):
    """uint32 [entries]: the grid with each magnitude as its number among `values`: of 8, number i in the lower half of byte i, i + 4 in
    the upper one; of 4, a byte each."""
    numbers = np.searchsorted(values(name), grid(name)).astype(np.uint32)
    return (numbers << np.array([0, 8, 16, 24, 4, 12, 20, 28], np.uint32)[:numbers.shape[1]]).sum(axis=1, dtype=np.uint32)


def _table(name):
    from gguf import quants  # it takes 0.1 s, and few models have these types

    table = getattr(quants, name)
    table.init_grid()
    return table
