"""Held pages: first tokens in f16 (--kv-sink) and decoded pages (--kv-dequant-cache), in whole engines."""

import mlx.core as mx
import numpy as np
import pytest

from helpers.command import refused
from helpers.quality import WIDE, byte_engine
from helpers.tiny import Observer, relative, run
from mlxr.errors import ConfigError
from mlxr.memory import memory_bytes
from mlxr.pages.allocator import PageAllocator
from mlxr.pages.format import effective_bits
from mlxr.pages.held import AT_ONCE, Held
from mlxr.pages.spec import parse_kv
from mlxr.quality.texts import shipped_text
from mlxr.sequence import SamplingParams

ROOM = 1 << 22
SINK, CACHE = dict(kv_sink=33), dict(kv_dequant_cache=250_000)       # two pages of 32 tokens; five decoded ones


def engine_of(kv="q4", **config):
    return byte_engine(WIDE, scale=1.0, **{"page_size": 32, "kv": kv, "pool_bytes": ROOM, "max_batch": 4, "prefix_cache": True, **config})


def logits_of(engine, lengths=(70, 200), times=1, tokens=12):
    """float32 [draws, vocabulary] of prompts that run as one batch; of the last time."""
    text = shipped_text().content.encode()
    prompts = [[b % 131 for b in text[5000 * i:5000 * i + n]] for i, n in enumerate(lengths)]
    for _ in range(times):
        seen = Observer(engine)
        made = [engine.add(p, SamplingParams(max_tokens=tokens, ignore_eos=True)) for p in prompts]
        run(engine, made)
    return np.concatenate([np.stack(seen.of(r)) for r in made])


@pytest.fixture(scope="module")
def plain():
    return logits_of(engine_of("f32"))


def test_first_tokens_are_nearly_exact(backend, plain):
    """Where the first pages are all pages, nothing but fp16 separates them from unquantized ones."""
    quantized, held = logits_of(engine_of()), logits_of(engine_of(**SINK))
    assert relative(held, plain) < 0.8 * relative(quantized, plain)
    assert relative(logits_of(engine_of(kv_sink=1000)), plain) < 1e-3 < relative(quantized, plain)


def test_first_tokens_do_not_depend_on_the_schedule(monkeypatch):
    """With q8: in this model of random weights one code of q4, taken to its neighbour by noise, is 1.5e-4 of the logits."""
    text = dict(lengths=(150, 200), tokens=44)           # which come to need eight pages beside their first ones
    wanted = logits_of(engine_of("q8", **SINK), **text)
    small = engine_of("q8", **SINK, pool_bytes=8 * engine_of("q8").info()["page_bytes"])
    schedules = {"chunks": engine_of("q8", **SINK, token_budget=17), "alone": engine_of("q8", **SINK, max_batch=1), "preempted": small}
    for name, engine in schedules.items():
        assert relative(logits_of(engine, **text), wanted) <= 1e-4, name
    assert small.preemptions
    again = engine_of("q8", **SINK)
    assert relative(logits_of(again, times=2, **text), wanted) <= 1e-4 and again.scheduler.allocator.kept
    monkeypatch.setenv("MLXR_BACKEND", "reference")
    assert relative(logits_of(engine_of("q8", **SINK), **text), wanted) <= 1e-4


@pytest.mark.parametrize("kv", ["q8", pytest.param("mixed", marks=pytest.mark.slow), pytest.param("k8v4", marks=pytest.mark.slow),
                                pytest.param("f16", marks=pytest.mark.slow), pytest.param("a4", marks=pytest.mark.slow)])
def test_decoded_pages_change_nothing(kv, plain):
    """Five of the ten pages are decoded; the others are read as they are."""
    wanted = logits_of(engine_of(kv))
    engine = engine_of(kv, **CACHE)
    ours = logits_of(engine)
    assert relative(ours, wanted) <= 1e-4
    assert engine.info()["decoded_pages"] == 5 and len(engine.pool.held._slots) == 5
    both = logits_of(engine_of(kv, **CACHE, **SINK))
    assert relative(both, logits_of(engine_of(kv, **SINK))) <= 1e-4
    assert kv == "f16" or relative(both, plain) < relative(ours, plain)


def test_pages_that_are_written_anew_are_not_served_from_the_decoded_ones():
    """A pool of few pages, whose content changes with every prompt."""
    engine, wanted = engine_of("q8", **CACHE, pool_tokens=300, pool_bytes=None), engine_of("q8")
    for n in (150, 151, 152):
        assert relative(logits_of(engine, (n, 90)), logits_of(wanted, (n, 90))) <= 1e-4


def test_first_pages_survive_a_restart(tmp_path):
    wanted = logits_of(engine_of(**SINK))
    for pages in (0, 8):                                 # two of the first prompt, six of the second
        engine = engine_of(**SINK, cache_dir=str(tmp_path))
        engine.persist("a model")
        assert relative(logits_of(engine), wanted) <= 1e-4
        assert engine.persistence.store.stats()["disk_read"] == pages
        engine.close()


def test_bytes_are_counted():
    engine = engine_of(**SINK, **CACHE)
    info, held = engine.info(), sum(x.held.numbers.nbytes for x in engine.pool.layers)
    assert info["held_bytes"] == held == engine.held_bytes and info["sink"] == 64
    assert memory_bytes(info) >= info["pool_bytes"] + held + info["weights_bytes"]
    budget = info["weights_bytes"] + engine.scratch_bytes + (2 << 20)
    in_budget = engine_of(**SINK, **CACHE, pool_bytes=None, memory_bytes=budget).info()
    assert in_budget["pages"] < engine_of(pool_bytes=None, memory_bytes=budget).info()["pages"]
    assert memory_bytes(in_budget) <= budget
    specs = [s for s in engine.specs if s]
    plain, more = (effective_bits(specs, parse_kv("q4").format, 64, 1024, mx.float16, sink) for sink in (0, 4))
    assert more == pytest.approx(plain + 64 / 1024 * (16 - 4.5))
    assert effective_bits(specs, parse_kv("q4").format, 64, 1024, None, 4) == pytest.approx(4.5 + 64 / 1024 * (16 - 4.5))


def test_slots_of_decoded_pages():
    """A few a step; those in use stay, the longest unused go."""
    held = Held(1, 4, 100, 3)
    assert held.slot(102) == 2 and held.record(102) == 0 and held.record(7) == 7
    assert [f[:2] for f in held.wanted([[101, 5, 6]])] == [(5, 1), (6, 2)]
    assert held.wanted([[101, 5, 6, 7, 8]]) == [(7, 3, 7)] and not held.wanted([[101, 5, 6, 7, 8]])
    assert [f[0] for f in held.wanted([[102, 8, 9]])] == [8, 9] and held.slot(7) and not held.slot(5)
    held.forget([8])
    assert not held.slot(8) and len(Held(0, 0, 100, 50).wanted([list(range(1, 40))])) == AT_ONCE


def test_pages_for_beginnings_are_given_to_nothing_else():
    a = PageAllocator(3, 2)
    pages = a.take(2, 1)
    assert pages[0] == 4 and max(pages[1:]) <= 3 and (a.free, a.free_firsts) == (1, 1)
    a.check([pages])
    a.keep(pages[0])
    a.release(pages)
    assert (a.free, a.free_firsts, a.kept) == (3, 2, 1) and a.take(0, 2) == [5, 4]


@pytest.mark.parametrize("kv, what", [("q4,sink=x", "sink=x is no number of tokens"), ("sink=4", "name a page format before")])
def test_bad_formats(kv, what):
    with pytest.raises(ConfigError, match=what):
        parse_kv(kv)


@pytest.mark.parametrize("config, what", [(dict(kv_sink=-1), "kv_sink must be a whole number"),
                                          (dict(kv_dequant_cache=1000), "is 1000 bytes, but one decoded page takes 49152")])
def test_bad_options(config, what):
    with pytest.raises(ConfigError, match=what):
        engine_of(**config)


def test_the_command_says_what_is_kept(smollm2_gguf):
    from helpers.command import mlxr

    done = mlxr("generate", smollm2_gguf, "--kv", "q8", "--kv-sink", 4, "--kv-dequant-cache", "64M", "--prompt", "Hi", "--max-tokens", 2)
    assert "64 first tokens in f16" in done.stderr and "decoded pages: 22 at most" in done.stderr
    assert "--kv-sink" in refused("generate", smollm2_gguf, "--kv-sink", "x", "--prompt", "Hi")
