"""No dequantized copy of the cache exists at any time: the peak memory of prefill and decode on quantized pages."""

import gc

import mlx.core as mx
import pytest

from helpers.quality import WIDE, byte_engine
from mlxr.kernels import host_build
from mlxr.quality.teacher import Feed, window_tokens

CONTEXT = 4096
HEADS = {**WIDE, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 16384}
COPY = CONTEXT * 4 * (64 + 64) * 2          # bytes of one layer's K and V in 16 bits


def measured(kv):
    """(prefill, 4 steps of decode): bytes that MLX held at most, beyond what an engine with such pages holds before."""
    one = byte_engine(HEADS, scale=1.0, kv=kv, page_size=64, pool_tokens=CONTEXT + 256, token_budget=64)
    window = [(7 * i + i // 131) % 131 for i in range(window_tokens(CONTEXT))]
    gc.collect()
    mx.eval(one.pool.arrays)
    mx.synchronize()
    before, peaks = mx.get_active_memory(), []
    with Feed(one, [window], CONTEXT) as feed:
        for compute in (feed.prefill, lambda: mx.eval(feed.decode(0, 4))):
            mx.reset_peak_memory()
            compute()
            mx.eval(one.pool.arrays)
            mx.synchronize()
            peaks.append(mx.get_peak_memory() - before)
    return peaks


@pytest.mark.parametrize("kv", ["q4", pytest.param("q8", marks=pytest.mark.slow), pytest.param("mixed", marks=pytest.mark.slow)])
def test_kernels_never_hold_the_cache_decoded(kv, monkeypatch):
    if host_build.compiler() is None:
        pytest.skip("no C++ compiler")
    monkeypatch.setenv("MLXR_BACKEND", "host")
    prefill, decode = measured(kv)
    assert 0 < prefill < COPY / 2 and 0 < decode < COPY / 2, (prefill, decode, COPY)


def test_such_a_copy_would_be_seen(monkeypatch):
    """The plain twins do decode the pages that they read, and the same measurement tells."""
    monkeypatch.setenv("MLXR_BACKEND", "reference")
    prefill, decode = measured("q4")
    assert prefill > COPY and decode > COPY, (prefill, decode, COPY)
