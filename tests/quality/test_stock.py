"""mlx-lm's quantized cache as we run it: the same numbers as its own attention on it, and as its own generation."""

import mlxr  # noqa: F401
import mlx.core as mx
import numpy as np
import pytest

from helpers.quality import WIDE, byte_engine
from helpers.tiny import prompts, relative
from mlxr.errors import UnsupportedModel
from mlxr.models import seam
from mlxr.models.zoo import lm_module
from mlxr.quality import stock
from mlxr.quality.teacher import SCORED, window_tokens

WINDOW = prompts([window_tokens(700)], seed=5)[0]


@pytest.fixture(scope="module")
def cache():
    return stock.StockCache(byte_engine(WIDE, scale=3.0).model, WINDOW, 700)


@pytest.mark.parametrize("bits", [8, 4])
def test_in_forward_is_a_prompt_on_the_quantized_cache(cache, bits):
    """Dequantized for attention, the cache means what mlx-lm's quantized attention computes with."""
    ours = cache.in_forward(bits)
    own = [lm_module("cache").QuantizedKVCache(group_size=64, bits=bits) for _ in ours]
    for at in range(0, 700, stock.CHUNK):
        cache.model(mx.array([WINDOW[at:min(at + stock.CHUNK, 700)]]), cache=own)
    assert [type(c) for c in ours] == [type(c) for c in own] and ours[0].offset == own[0].offset == 700
    assert relative(cache.score(ours), cache.score(own)) < (1e-3 if bits == 8 else 2e-2)     # codes may flip
    assert ours[0].offset == 700


def test_snapshots_are_the_plain_cache_quantized(cache):
    plain = cache.plain
    wanted = [c.to_quantized(group_size=64, bits=4) for c in plain]
    got = cache.snapshot(4)
    assert all(np.array_equal(np.array(a), np.array(b)) for a, b in zip(got[0].keys, wanted[0].keys))
    assert relative(cache.score(plain), cache.model(mx.array([WINDOW[:-1]]), cache=seam.stock_caches(cache.model))[0, 700:]) < 1e-4


def test_greedy_is_step_by_step(cache):
    caches, again = cache.snapshot(8), cache.snapshot(8)
    ours = cache.greedy(caches, 10)
    for c in again:
        c.trim(1)
    token, wanted = WINDOW[699], []
    for _ in range(10):
        token = int(mx.argmax(cache.model(mx.array([[token]]), cache=again)[0, -1]).item())
        wanted.append(token)
    assert ours.tolist() == wanted and caches[0].offset == 699 and cache.score(caches).shape == (SCORED, 131)


def test_bits_and_support():
    assert stock.bits_of(4) == 4.5 and stock.bits_of(8) == 8.5
    stock.supported(byte_engine(WIDE))
    with pytest.raises(UnsupportedModel, match="groups of 64 elements, and heads have 16"):
        stock.supported(byte_engine())
