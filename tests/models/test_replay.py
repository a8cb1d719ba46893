"""Decode steps that are replayed: the same logits, bit for bit, as where their graph is built; and when they are not."""

import mlx.core as mx
import numpy as np
import pytest
from helpers.tiny import Observer, prompts, run, tiny_engine, tiny_model
from kernels.matrices import needs_compiler
from test_fusion import BASE, on_kernels

from mlxr.kernels import library
from mlxr.kernels.recording import read
from mlxr.calibration import made_up
from mlxr.models import replay
from mlxr.pace import Unpaced
from mlxr.sequence import SamplingParams

pytestmark = needs_compiler


@pytest.fixture(autouse=True)
def host(monkeypatch):
    monkeypatch.setenv("MLXR_BACKEND", "host")


def engine_of(architecture="llama", **config):
    shape = dict(BASE, model_type=architecture, **config.pop("model", {}))
    return tiny_engine(on_kernels(tiny_model(shape)), shape, **config)


def stack_of(engine):
    return engine.model.model.layers[0].stack


def logits_of(engine, requests, tokens):
    """Every row of logits that the requests are sampled from, in order."""
    observer = Observer(engine)
    added = [engine.add(p, SamplingParams(max_tokens=tokens, ignore_eos=True)) for p in requests]
    return run(engine, added), [observer.of(r) for r in added]


@pytest.mark.parametrize("architecture, model", [
    ("llama", {}), ("llama", {"tie_word_embeddings": False}), ("qwen3", {}), ("qwen2", {"tie_word_embeddings": False}),
    ("llama", {"sliding_window": 20, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]})])
def test_a_replay_gives_the_same_bits(architecture, model):
    requests, results = prompts([1, 5, 30, 70]), []
    for off in (False, True):
        engine = engine_of(architecture, model=model)
        stack_of(engine).off = off
        results.append(logits_of(engine, requests, 40))
        assert (stack_of(engine).replays > 10) != off
    assert results[0][0] == results[1][0]
    for one, other in zip(results[0][1], results[1][1]):
        assert np.array_equal(one, other)


def test_batches_of_many_rows():
    """From the rows on that q_gemm takes; pages are completed by some sequences in every other step."""
    requests, results = prompts([3, 6, 9, 12, 21, 30, 2]), []
    for off in (False, True):
        engine = engine_of(max_batch=7)
        stack_of(engine).off = off
        results.append(logits_of(engine, requests, 24))
        assert (stack_of(engine).replays >= 15) != off and stack_of(engine).why is None
    assert results[0][0] == results[1][0]
    for one, other in zip(results[0][1], results[1][1]):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("config", [{}, {"kv": "q8", "kv_sink": 16}])
def test_prompts_beside_decoding(config):
    """A few tokens of prompts in each step, chunks of which end where pages end: those steps are replayed, too."""
    requests, results = prompts([5, 61, 90]), []
    for off in (False, True):
        engine = engine_of(max_batch=3, **config)
        stack_of(engine).off, engine.pace = off, Unpaced(6)
        observer = Observer(engine)
        added = [engine.add(requests[0], SamplingParams(max_tokens=60, ignore_eos=True))]
        for _ in range(4):
            engine.step()
        before = stack_of(engine).replays
        added += [engine.add(p, SamplingParams(max_tokens=9, ignore_eos=True)) for p in requests[1:]]
        while len(added[1].sequence.generated) + len(added[2].sequence.generated) < 2:
            engine.step()
        assert (stack_of(engine).replays >= before + 6) != off and stack_of(engine).why is None
        results.append((run(engine, added), [observer.of(r) for r in added]))
        engine.scheduler.check()
    assert results[0][0] == results[1][0]
    for one, other in zip(results[0][1], results[1][1]):
        assert np.array_equal(one, other)


def test_tokens_do_not_wait_for_a_graph_that_is_built():
    """Where a step has to be built whole, those of the step before are read back and handed on first; penalties count them once."""
    requests, params = prompts([5, 70]), SamplingParams(max_tokens=40, ignore_eos=True, frequency_penalty=0.7, presence_penalty=0.3)
    engine, early = engine_of(max_batch=2), []
    first = engine.add(requests[0], params)
    while not first.done:
        if len(first.sequence.generated) == 9:
            stack_of(engine)._likes.clear()
            engine.add(requests[1], SamplingParams(max_tokens=2, ignore_eos=True))
        engine.step(early.extend)
    assert early
    alone = engine_of(max_batch=2)
    assert run(alone, [alone.add(requests[0], params)]) == [first.sequence.generated]


@pytest.mark.parametrize("layers, built", [(None, {0}), (["sliding_attention", "full_attention", "sliding_attention"], {0, 1})])
def test_blocks_that_are_alike_are_built_once(monkeypatch, layers, built):
    """Whole prompts and chunks beside decoding, too: each of their steps is one operation; and none waits for what is built."""
    made, record = [], replay.Recording
    monkeypatch.setattr(replay, "Recording", lambda *a: made.append(a) or record(*a))
    model = {"sliding_window": 20, "layer_types": layers} if layers else {}
    engine, alone, calls, early = engine_of(model=model), engine_of(model=model), set(), []
    stack_of(alone).off = True
    first = run(engine, [engine.add(p, SamplingParams(max_tokens=3, ignore_eos=True)) for p in prompts([7])])
    for i, block in enumerate(engine.model.model.layers):
        inner = block._compute
        object.__setattr__(block, "_compute", lambda *a, i=i, inner=inner: calls.add(i) or inner(*a))
    made.clear()
    requests, params = prompts([7, 40, 150, 2, 15, 40]), SamplingParams(max_tokens=20, ignore_eos=True)
    added, steps = [engine.add(p, params) for p in requests], engine.steps
    while engine.busy:
        engine.step(early.extend)
    assert calls == built and not early and stack_of(engine).why is None
    assert len(made) >= 5 and len(made) + stack_of(engine).replays >= engine.steps - steps
    assert [r.sequence.generated for r in added] == run(alone, [alone.add(p, params) for p in requests])
    assert first[0] == added[0].sequence.generated[:3]


def test_a_block_with_a_new_constant_is_built(monkeypatch):
    """Such as weights in another form, which a kernel for other numbers of rows takes: from then on that is known, too."""
    results = []
    for off in (False, True):
        engine = engine_of()
        stack_of(engine).off = off
        runs = [logits_of(engine, prompts([3]), 5)]
        for block in engine.model.model.layers:
            (weight, eps), *rest = block.norms
            object.__setattr__(block, "norms", ((weight * 1, eps), *rest))
            mx.eval(block.norms[0][0])
        stack_of(engine).recordings.clear()
        calls, inner = [], engine.model.model.layers[1]._compute
        object.__setattr__(engine.model.model.layers[1], "_compute", lambda *a, calls=calls, inner=inner: calls.append(1) or inner(*a))
        runs += [logits_of(engine, prompts([3]), n) for n in (5, 70)]
        assert off or len(calls) <= 2
        results.append(runs)
    assert results[0][2][0] == results[1][2][0]
    for one, other in zip(*[[x for tokens, rows in runs for x in rows] for runs in results]):
        assert np.array_equal(one, other)


def test_engines_of_one_model_do_not_meet():
    """Each step by turns, with other pages and other numbers of them: what one recorded is not replayed on the other's."""
    requests, engine = prompts([3, 20]), engine_of()
    alone = logits_of(engine, requests, 30)
    replays = stack_of(engine).replays
    assert replays > 0
    one, other = engine.sibling(max_batch=2), engine.sibling(kv="f32", max_batch=4)
    assert one.vocabulary == other.vocabulary == engine.vocabulary
    added = [(e, e.add(p, SamplingParams(max_tokens=30, ignore_eos=True))) for p in requests for e in (one, other)]
    while one.busy or other.busy:
        one.step()
        other.step()
    for _e, request in added:
        assert request.sequence.tokens[request.sequence.num_prompt:] == alone[0][requests.index(request.sequence.tokens[:request.sequence.num_prompt])]
    assert logits_of(one, requests, 30)[0] == alone[0] and stack_of(one).replays > replays


def test_pages_whose_keys_are_turned_back_are_sealed_after_a_replay(monkeypatch):
    """q3 stores K before RoPE: a seal must know which page of its sequence each is."""
    monkeypatch.setattr("mlxr.engine.calibration.fitted", lambda formats, specs, *_: [
        made_up(f, s.kv_heads, s.dk, s.dv, 32, 40) for f, s in zip(formats, specs)])
    results = []
    for off in (False, True):
        engine = engine_of(kv="k:q3:bits=3,v:f32", page_size=32)
        stack_of(engine).off = off
        results.append(logits_of(engine, prompts([3, 40]), 90))
        assert (stack_of(engine).replays > 60) != off
    assert results[0][0] == results[1][0]
    for one, other in zip(results[0][1], results[1][1]):
        assert np.array_equal(one, other)


def test_pages_are_sealed_in_place():
    engine = engine_of()
    address = lambda: [np.array(p.pool.records, copy=False).__array_interface__["data"][0] for p in engine.runner.layers]
    logits_of(engine, prompts([3]), 40)
    before, replays = address(), stack_of(engine).replays
    tokens, _ = logits_of(engine, prompts([3]), 70)
    assert len(tokens[0]) == 70 and stack_of(engine).replays >= replays + 65 and address() == before


def test_a_seal_after_a_replay_copies_no_pool():
    """The replay, which reads the pool, need not have run when the seal of the same step is scheduled."""
    engine = engine_of(pool_bytes=96 << 20)
    run(engine, [engine.add(p, SamplingParams(max_tokens=20, ignore_eos=True)) for p in prompts([3])])
    mx.synchronize()
    mx.reset_peak_memory()
    before, replays = mx.get_active_memory(), stack_of(engine).replays
    run(engine, [engine.add(p, SamplingParams(max_tokens=100, ignore_eos=True)) for p in prompts([3])])
    mx.synchronize()
    assert stack_of(engine).replays >= replays + 90
    assert mx.get_peak_memory() - before < engine.pool.nbytes / 8


def test_a_seal_after_a_replay_is_one_more_replay_and_waits_for_nobody():
    engine, early = engine_of(), []
    logits_of(engine, prompts([3]), 100)
    stack, sealed = stack_of(engine), library.used["seal", "host"]
    replays = stack.replays
    request = engine.add(prompts([3])[0], SamplingParams(max_tokens=100, ignore_eos=True))
    engine.step(early.extend)
    engine.step(early.extend)
    early.clear()
    while not request.done:
        engine.step(early.extend)
    assert not early, "the tokens of the step before were waited for"
    kinds = [found for key, found in stack.recordings.items() if key[0] == "seals"]
    assert len(kinds) == 1 and kinds[0] is not None and stack.replays >= replays + 95
    pages = (3 + 100 - 1) // engine.config.page_size     # the last token is never computed
    assert library.used["seal", "host"] - sealed == pages * len(engine.runner.layers)


def test_most_steps_of_one_sequence_are_replayed():
    engine = engine_of()
    logits_of(engine, prompts([3]), 100)
    stack = stack_of(engine)
    # All but the first of each kind: the pages seen double a few times.
    assert stack.replays >= 90 and stack.why is None and len(stack.recordings) <= 8


def test_sequences_join_and_leave():
    engine, alone = engine_of(max_batch=3), []
    requests = prompts([4, 9, 2, 33, 17])
    for p in requests:
        alone += run(engine, [engine.add(p, SamplingParams(max_tokens=30, ignore_eos=True))])
    together = [engine.add(p, SamplingParams(max_tokens=30, ignore_eos=True)) for p in requests]
    assert run(engine, together) == alone
    assert stack_of(engine).replays > 60


def test_what_is_watched_is_not_replayed():
    engine = engine_of()
    seen = []
    for layer in engine.runner.layers:
        layer.observer = lambda *call: seen.append(call)
    logits_of(engine, prompts([3]), 20)
    assert stack_of(engine).replays == 0 and len(seen) >= 20 * 3


def test_a_graph_that_cannot_be_recorded_still_runs(monkeypatch):
    engine = engine_of()
    block = engine.model.model.layers[1]
    inner = block._compute
    object.__setattr__(block, "_compute", lambda x, mask, cache: mx.exp(mx.log(mx.exp(inner(x, mask, cache)))))
    tokens, _ = logits_of(engine, prompts([3]), 20)
    assert len(tokens[0]) == 20 and stack_of(engine).replays == 0
    assert stack_of(engine).why == "this graph cannot be recorded: it has an operation Exp"


def test_a_graph_that_is_read_from_is_not_recorded():
    """What was read is evaluated, so that a recording would keep this step's values for all steps to come."""
    engine = engine_of()
    block = engine.model.model.layers[1]
    inner = block._compute

    def read_first(x, mask, cache):
        read(x)
        return inner(x, mask, cache)
    object.__setattr__(block, "_compute", read_first)
    plain, watched = engine_of(), logits_of(engine, prompts([3]), 20)
    assert watched[0] == logits_of(plain, prompts([3]), 20)[0]
    assert stack_of(engine).replays == 0 and stack_of(engine).why == "a layer reads values while the graph of a step is built"
