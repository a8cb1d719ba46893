"""Trellis-coded quantization: the best path of all, codes that say which, and less error than Lloyd-Max levels."""

import itertools

import mlx.core as mx
import numpy as np
import pytest

from mlxr.pages import trellis
from mlxr.pages.formats.lloyd import LEVELS

RNG = np.random.default_rng(0)


def paths_of(count, length):
    """Levels' numbers of every sequence of codes, [sequences, length], as the module's first lines define them."""
    found = []
    for codes in itertools.product(range(count // 2), repeat=length):
        u = [0, 0, 0, *(c & 1 for c in codes)]
        found.append([4 * (c >> 1) + u[n + 1] + 2 * (u[n + 3] ^ u[n + 2] ^ u[n]) for n, c in enumerate(codes)])
    return np.array(found)


@pytest.mark.parametrize("count, length", [(4, 7), (8, 4)])
def test_the_path_is_the_best_of_all(count, length):
    x, levels, weights = RNG.standard_normal((20, length)), np.sort(RNG.standard_normal(count)), RNG.uniform(0.1, 2, length)
    every = paths_of(count, length)
    least = ((x[:, None] - levels[every]) ** 2 * weights).sum(axis=-1).min(axis=-1)
    errors, r = trellis.nearest(mx.array(x.astype(np.float32)), mx.array(levels.astype(np.float32)))
    u, subsets = trellis.path(errors * mx.array(weights.astype(np.float32))[:, None], length)
    index = np.array(trellis.index_of(r, subsets))
    assert np.allclose(((x - levels[index]) ** 2 * weights).sum(axis=-1), least, rtol=1e-4)
    before = [np.pad(np.array(u), ((0, 0), (n, 0)))[:, :length] for n in (1, 2, 3)]
    assert (np.array(trellis.subsets_of(np.array(u), *before)) == index % 4).all()


def test_numbers_that_are_on_no_path_are_passed_over():
    """And a new path begins after `length` numbers."""
    x = mx.array(RNG.standard_normal((5, 12)).astype(np.float32))
    levels = mx.array(np.linspace(-2, 2, 8, dtype=np.float32))
    errors, _ = trellis.nearest(x, levels)
    active = np.array([1, 0, 1, 1, 0, 1, 1, 1, 0, 0, 1, 1], bool)
    got = [np.array(a) for a in trellis.path(errors, 6, mx.broadcast_to(mx.array(active), (5, 12)))]
    for half in (slice(0, 6), slice(6, 12)):
        own = np.nonzero(active[half])[0] + half.start
        for a, b in zip(got, trellis.path(errors[:, mx.array(own)], len(own))):
            assert (a[:, own] == np.array(b)).all()


@pytest.mark.parametrize("bits, lloyd_max, limit", [(2, 0.1175, 0.8), (3, 0.03454, 0.75)])
def test_error_of_normal_numbers(bits, lloyd_max, limit):
    """Of what V's levels were made for, to Lloyd-Max levels'; fitting them to the numbers gains next to nothing."""
    x = RNG.standard_normal((400, 32)).astype(np.float32)
    levels = np.array([-v for v in reversed(LEVELS[bits])] + list(LEVELS[bits]))

    def error(levels):
        errors, r = trellis.nearest(mx.array(x), mx.array(levels.astype(np.float32)))
        return np.square(x - levels[np.array(trellis.index_of(r, trellis.path(errors, 32)[1]))]).mean()

    assert error(levels) < limit * lloyd_max
    assert 0.97 * error(levels) < error(trellis.fit(x[None], [levels[None]])[0][0]) <= error(levels)
