"""The harness computes what the engine computes: the same logits, the same pages, the same greedy tokens."""

import mlxr  # noqa: F401
import numpy as np
import pytest

from helpers.quality import WIDE, byte_engine
from helpers.tiny import Observer, prompts, relative, run, stock_logits, tiny_engine
from mlxr.models.modes import GATHERED
from mlxr.quality.teacher import SCORED, Feed, Watch, window_tokens
from mlxr.sequence import SamplingParams

CONTEXT = 64
ROOM = 1 << 22
WINDOWS = prompts([window_tokens(CONTEXT)] * 2, seed=3)


def scores(engine):
    with Feed(engine, WINDOWS, CONTEXT) as feed:
        feed.prefill()
        found = [np.array(feed.score(i)) for i in range(2)]
    engine.scheduler.check()                      # all pages came back
    return found


def test_logits_are_stock_mlx_lms(backend):
    engine = byte_engine(pool_bytes=ROOM)
    for window, logits in zip(WINDOWS, scores(engine)):
        stock = np.array(stock_logits(engine.model, window[:-1]))[CONTEXT:]
        assert logits.shape == (SCORED, 131) and relative(logits, stock) < 1e-5


@pytest.mark.parametrize("kv", ["f32", pytest.param("q8", marks=pytest.mark.slow)])
def test_scored_chunks_are_what_decoding_gives(backend, kv):
    """Token by token, and in chunks of the budget: the same logits, but for the order of sums."""
    engine = byte_engine(pool_bytes=ROOM, kv=kv)
    whole = scores(engine)
    with Feed(engine, WINDOWS, CONTEXT) as feed:
        feed.prefill()
        single = np.array(feed.decode(1, 40))
        assert relative(single, whole[1][:40]) < 1e-4
        chunked = np.array(feed.prefill_logits(1, 30))
    engine.scheduler.token_budget = 24
    assert relative(scores(engine)[0], whole[0]) < (1e-5 if kv == "f32" else 2e-2)     # a code may flip
    assert chunked.shape == (30, 131)


@pytest.mark.parametrize("kv", ["f32", "q8"])
def test_greedy_tokens_are_the_engines(backend, kv):
    engine = byte_engine(pool_bytes=ROOM, kv=kv)
    with Feed(engine, WINDOWS, CONTEXT) as feed:
        feed.prefill()
        feed.score(0)
        ours = feed.greedy(20)
        assert feed.windows == WINDOWS
        other = np.where(np.arange(20) == 5, 7, ours)            # another token in the sixth place
        along = feed.greedy(20, other)
        assert np.array_equal(along[:, :6], ours[:, :6]) and np.array_equal(feed.greedy(20, ours), ours)
    requests = [engine.add(w[:CONTEXT], SamplingParams(max_tokens=20, ignore_eos=True)) for w in WINDOWS]
    assert run(engine, requests) == ours.tolist()
    requests = [engine.add([*w[:CONTEXT], *o[:6].tolist()], SamplingParams(max_tokens=1, ignore_eos=True)) for w, o in zip(WINDOWS, other)]
    assert run(engine, requests) == along[:, 6:7].tolist()


@pytest.mark.parametrize("kv", ["f32", "q8", pytest.param("q4", marks=pytest.mark.slow)])
def test_clean_contexts_are_sealed_as_a_prompt_would_be(backend, kv):
    """Sealing by hand gives the pages that a prompt's own prefill gives, in the first layer, where K and V are the same."""
    clean, other = byte_engine(WIDE, pool_bytes=ROOM), byte_engine(WIDE, pool_bytes=ROOM, kv=kv)
    with Feed(clean, WINDOWS, CONTEXT) as a, Feed(other, WINDOWS, CONTEXT) as b:
        a.prefill()
        b.prefill()
        own = [np.array(x) for x in b.stored(1, 0)]
        k, v = a.stored(1, 0)
        assert k.shape == v.shape == (CONTEXT, 1, 64)
        b.seal(1, 0, k, v)
        assert all(relative(x, y) < (1e-6 if kv == "f32" else 1e-2) for x, y in zip(b.stored(1, 0), own))
        limit = {"f32": 1e-7, "q8": 0.01, "q4": 0.15}[kv]
        assert 0 <= relative(b.stored(1, 0)[0], k) < limit and relative(b.stored(1, 0)[1], v) < limit


def test_attention_is_watched_and_done_again(backend):
    engine = byte_engine(pool_bytes=ROOM)
    with Feed(engine, WINDOWS, CONTEXT) as feed:
        feed.prefill()
        with Watch(engine) as watch:
            feed.score(1)
        reads = watch.reads
        assert [r.layer for r in reads] == [0, 1, 2] and reads[0].q.shape == (SCORED, 4, 16)
        for read in reads:
            assert relative(feed.attend(1, read), read.out) < 1e-6
        assert not any(layer.observer for layer in engine.runner.layers)


def test_models_that_gather_their_pages():
    engine = byte_engine(pool_bytes=ROOM, mode=GATHERED)
    assert relative(scores(engine)[0], scores(byte_engine(pool_bytes=ROOM))[0]) < 1e-5


def test_observer_of_the_engine_sees_the_same():
    """The engine's own prefill of a window and what the harness scores end in the same logits."""
    engine = tiny_engine()
    seen = Observer(engine)
    request = engine.add(WINDOWS[0][:-1], SamplingParams(max_tokens=1, ignore_eos=True))
    run(engine, [request])
    last = seen.of(request)[0]
    with Feed(engine, WINDOWS[:1], CONTEXT) as feed:
        feed.prefill()
        assert relative(feed.score(0)[-1], last) < 1e-5
