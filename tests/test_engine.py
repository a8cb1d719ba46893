"""The engine on a small random model: one meaning whatever the schedule, pages conserved, requests ended cleanly."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.tiny import LLAMA, Observer, prompts, relative, run, stock_logits, tiny_engine, tiny_model
from mlxr.errors import ConfigError, PromptTooLong, RequestError
from mlxr.models import zoo
from mlxr.sequence import Handling, SamplingParams
from mlxr.tokenizer import ChatIds

LENGTHS = [1, 5, 16, 17, 40, 100, 250]
PAGE_BYTES = 3 * 2 * (16 * 32 * 2)       # a page of 16 tokens in f16: 3 layers, 2 heads, K and V of 16


@pytest.fixture(scope="module")
def model():
    return tiny_model(scale=3.0)


def outcome(model, requests, **config):
    """(token ids, logits) of each request, and the engine, for prompts and params run under some configuration."""
    engine = tiny_engine(model, **config)
    seen = Observer(engine)
    made = [engine.add(p, s) for p, s in requests]
    tokens = run(engine, made)
    return tokens, [seen.of(r) for r in made], engine


@pytest.mark.parametrize("mode", ["paged", "serial", "gathered"])
def test_same_as_stock(model, mode):
    """With f32 pages the engine computes what mlx-lm computes, at every position, in every way to run."""
    requests = [(p, SamplingParams(max_tokens=20)) for p in prompts(LENGTHS)]
    tokens, logits, _ = outcome(model, requests, mode=mode, token_budget=33)
    for (prompt, _), generated, ours in zip(requests, tokens, logits):
        stock = np.array(stock_logits(model, prompt + generated[:-1]))[len(prompt) - 1:]
        assert relative(ours, stock) <= 1e-5
        assert generated == stock.argmax(-1).tolist()


SCHEDULES = {
    "chunks of 1": dict(token_budget=1), "chunks of 7": dict(token_budget=7), "chunks of 64": dict(token_budget=64),
    "one after the other": dict(max_batch=1), "two at a time": dict(max_batch=2),
    "preempted": dict(pool_bytes=24 * PAGE_BYTES), "serial": dict(mode="serial"), "gathered": dict(mode="gathered"),
}


# fp32 noise (sums in another order) can flip the rounding of an element of K or V, which this model amplifies; reading
# plain numbers where stored ones are meant would show as much as f32 pages differ from these (the control below).
NOISE = {"f32": 1e-5, "f16": 1e-3, "bf16": 1e-3}


@pytest.mark.parametrize("kv", [pytest.param(k, marks=[pytest.mark.slow] * (k == "bf16")) for k in NOISE])
def test_one_meaning_whatever_the_schedule(model, kv):
    """Logits depend on what is stored, never on chunks, batches, preemption or the way to run."""
    requests = [(p, SamplingParams(max_tokens=60)) for p in prompts(LENGTHS)]
    tokens, logits, _ = outcome(model, requests, kv=kv, token_budget=600)
    for name, config in SCHEDULES.items():
        if "pool_bytes" in config and kv == "f32":
            config = dict(pool_bytes=2 * config["pool_bytes"])
        t, ours, engine = outcome(model, requests, kv=kv, **config)
        assert t == tokens, name
        assert max(relative(a, b) for a, b in zip(ours, logits)) <= NOISE[kv], name
        assert (engine.preemptions > 0) == (name == "preempted"), name
    if kv == "bf16":
        forced, exact, _ = outcome(model, requests[-1:], kv="f32", token_budget=600)
        assert relative(logits[-1][0], exact[0][0]) >= 3 * NOISE[kv]


def test_preemption_gives_the_same_texts(model):
    """A pool too small for 8 prompts at once, with every sampler option that looks at history or chance."""
    params = [SamplingParams(max_tokens=40), SamplingParams(max_tokens=40, temperature=1.0, seed=5, top_p=0.9),
              SamplingParams(max_tokens=40, repetition_penalty=1.3, frequency_penalty=0.5)]
    requests = [(p, params[i % 3]) for i, p in enumerate(prompts([60] * 8))]
    large, _, _ = outcome(model, requests, kv="f16")
    small, _, engine = outcome(model, requests, kv="f16", pool_bytes=20 * PAGE_BYTES)
    assert small == large and engine.preemptions > 0


@settings(max_examples=15)
@given(data=st.data())
def test_joining_leaving_and_cancelling(model, data):
    """Requests that come and go at random steps: pages conserved after each, and every answer as if it were alone."""
    engine = tiny_engine(model, kv="f16", pool_bytes=24 * PAGE_BYTES, token_budget=data.draw(st.integers(1, 80)), max_batch=3)
    made = []
    for length in data.draw(st.lists(st.integers(1, 90), min_size=1, max_size=6)):
        prompt = prompts([length], seed=length)[0]
        made.append((engine.add(prompt, SamplingParams(max_tokens=data.draw(st.integers(1, 12)))), prompt))
        for _ in range(data.draw(st.integers(0, 5))):
            engine.step()
            engine.scheduler.check()
        if data.draw(st.integers(0, 3)) == 0:
            engine.cancel(made[data.draw(st.integers(0, len(made) - 1))][0])
            engine.scheduler.check()
    run(engine, [])
    assert engine.scheduler.allocator.used == 0
    for request, prompt in made:
        s = request.sequence
        alone, _, _ = outcome(model, [(prompt, s.params)], kv="f16")
        assert s.generated == alone[0][:len(s.generated)]
        assert s.finish_reason == "cancelled" or s.generated == alone[0]


def test_end_tokens_and_limits(model):
    prompt = prompts([10])[0]
    (free,), _, _ = outcome(model, [(prompt, SamplingParams(max_tokens=12))])
    engine = tiny_engine(model)
    stop = engine.add(prompt, SamplingParams(max_tokens=12, stop_token_ids=(free[4],)))
    chunks = []
    while engine.busy:
        chunks += engine.step()
    assert stop.sequence.finish_reason == "stop"
    first = free.index(free[4])
    assert stop.sequence.generated == free[:first + 1]
    assert "".join(c.text for _, c in chunks) == "".join(f" {t}" for t in free[:first])
    engine = tiny_engine(model, context=14)
    short = engine.add(prompt, SamplingParams(max_tokens=12))
    run(engine, [short])
    assert short.sequence.finish_reason == "length" and short.sequence.generated == free[:4]


def test_requests_that_cannot_be_served(model):
    engine = tiny_engine(model, pool_bytes=5 * 2 * PAGE_BYTES, context=200)
    for prompt, error, what in (([], RequestError, "empty"), ([1, -1], RequestError, "token ids"), ([131], RequestError, "131"),
                                ([True], RequestError, "token ids"), ([1.5], RequestError, "token ids"),
                                ([1] * 200, PromptTooLong, "context is 200"), ([1] * 100, PromptTooLong, "pool holds 79")):
        with pytest.raises(error, match=what):
            engine.add(prompt, SamplingParams())
    with pytest.raises(RequestError, match="token 131, but the vocabulary ends at 130"):
        engine.add([1], SamplingParams(logit_bias={131: 1.0}))
    assert not engine.busy and not engine.requests
    with pytest.raises(ConfigError, match="two pages of this model take"):
        tiny_engine(model, pool_bytes=100)


def test_memory_is_as_predicted_and_does_not_grow(model):
    """The pool takes what the formula says, to the byte, and serving does not add to it."""
    engine = tiny_engine(model, kv="f16", pool_bytes=1 << 20)
    info = engine.info()
    assert info["pool_bytes"] == (info["pages"] + 1) * info["page_bytes"] and info["page_bytes"] == PAGE_BYTES
    assert info["pool_bytes"] <= 1 << 20 < info["pool_bytes"] + info["page_bytes"]
    engine.pool.reserve(16)                    # tails: how many sequences run at once depends on measured times
    for p in prompts([100] * 12):
        engine.add(p, SamplingParams(max_tokens=20))
    run(engine, [])
    mx.synchronize()
    held = mx.get_active_memory()
    for p in prompts([100] * 12, seed=1):
        engine.add(p, SamplingParams(max_tokens=20))
    run(engine, [])
    mx.synchronize()
    assert mx.get_active_memory() <= held + (64 << 10)


def test_tails_are_never_more_than_were_counted(model):
    """Growing twofold, those of 6 sequences would be 8; made at once, they stay the same arrays' size."""
    engine = tiny_engine(model, max_batch=6)
    run(engine, [engine.add(p, SamplingParams(max_tokens=4)) for p in prompts([20] * 3)])
    assert engine.pool.slots == 4
    run(engine, [engine.add(p, SamplingParams(max_tokens=4)) for p in prompts([20] * 9)])
    assert engine.pool.slots == 6 and engine.info()["tail_bytes"] == engine.info()["tail_bytes_most"]
    engine = tiny_engine(model, max_batch=6)
    engine.pool.reserve(6, now=True)
    assert all(layer.k_tail.shape[0] == 6 * 16 for layer in engine.pool.layers)
    run(engine, [engine.add(p, SamplingParams(max_tokens=4)) for p in prompts([20] * 9)])
    assert engine.pool.slots == 6


def test_sliding_window_layers():
    """A model with window layers, past the window, against stock's rotating cache."""
    config = {**LLAMA, "sliding_window": 20, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    model = tiny_model(config, scale=3.0)
    requests = [(p, SamplingParams(max_tokens=20)) for p in prompts([3, 30, 90])]
    for mode in ("paged", "serial", "gathered"):
        engine = tiny_engine(model, config, mode=mode, token_budget=25)
        seen = Observer(engine)
        made = [engine.add(p, s) for p, s in requests]
        for (prompt, _), tokens, request in zip(requests, run(engine, made), made):
            stock = np.array(stock_logits(model, prompt + tokens[:-1]))[len(prompt) - 1:]
            assert relative(seen.of(request), stock) <= 1e-5, mode


def test_text_goes_on_from_a_prompt_but_not_from_a_chat(model, monkeypatch):
    """A sentencepiece model's first word keeps its space after a plain prompt, and loses it as an answer."""
    engine, asked = tiny_engine(model), []
    monkeypatch.setattr(engine.tokenizer, "stream", lambda **options: asked.append(options["continues"]), raising=False)
    for prompt in ("ab", [1, 2], ChatIds([1, 2])):
        engine.add(prompt, SamplingParams(max_tokens=1))
    assert asked == [True, True, False]


@pytest.mark.parametrize("mode", ["paged", "serial", "gathered"])
def test_hidden_states_are_those_of_mlx_lm(mode):
    """What a prompt's last token ends as, before the head: beside requests that do not ask for it, and for one token too."""
    model = tiny_model(scale=2.0)
    texts = prompts([1, 5, 100, 30])
    stock = [np.array(model.model(mx.array([p]), cache=[zoo.lm_module("cache").KVCache() for _ in model.layers]))[0, -1] for p in texts]
    engine = tiny_engine(model, mode=mode, token_budget=40)
    plain = engine.add(texts[3], SamplingParams(max_tokens=9))
    for _ in range(6):
        engine.step()
    asked = [engine.add(p, SamplingParams(max_tokens=1), Handling(embed=True)) for p in texts]
    found = {}
    while engine.busy:
        for request, chunk in engine.step():
            assert (chunk.hidden is not None) == (request is not plain)
            found[request.sequence.id] = chunk.hidden
    for request, expected in zip(asked, stock):
        assert relative(found[request.sequence.id], expected) < 1e-5
