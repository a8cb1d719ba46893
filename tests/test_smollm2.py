"""The real model against stock mlx-lm, with the same fp32 weights: SmolLM2-135M, dequantized."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from helpers.tiny import EngineConfig, Engine, Observer, relative, run, stock_logits, unpaced
from mlxr.models.build import load_model
from mlxr.models.zoo import instantiate
from mlxr.sequence import SamplingParams
from mlxr.tokenizer import load_tokenizer
from mlxr.weights.checkpoint import open_checkpoint

EXACT = 1e-3        # largest difference of any logit that is allowed with f32 pages (logits reach 38)
HALF = 2e-2         # with f16 pages, which round K and V to 11 bits: measured 0.003
LENGTHS = [1, 5, 64, 200, 700]


@dataclass
class Real:
    """The loaded model, texts cut to tokens, and stock's answers as they are asked for."""

    model: object            # as the engine runs it
    plain: object            # mlx-lm's own, on plain weights
    config: dict
    tokenizer: object
    ids: list
    stock: dict = field(default_factory=dict)

    def engine(self, **config):
        return Engine(self.model, self.config, self.tokenizer, EngineConfig(**{"pool_bytes": 120 << 20, **config}))

    def logits(self, tokens):
        """Stock logits at every position, computed in one go."""
        key = tuple(tokens)
        if key not in self.stock:
            self.stock[key] = np.array(stock_logits(self.plain, tokens))
        return self.stock[key]


@pytest.fixture(scope="module")
def real(smollm2_fp32, wikitext):
    checkpoint = open_checkpoint(smollm2_fp32)
    tokenizer = load_tokenizer(smollm2_fp32)
    plain = instantiate(checkpoint.config)
    plain.load_weights(str(smollm2_fp32 / "model.safetensors"), strict=False)      # the tied head is not stored
    return Real(load_model(checkpoint), plain, checkpoint.config, tokenizer, tokenizer.encode(wikitext[2000:12000]))


def answers(real, prompts, params, **config):
    """(tokens, logits of every draw) of each prompt, run as one batch."""
    engine = unpaced(real.engine(**config))
    seen = Observer(engine)
    made = [engine.add(p, params) for p in prompts]
    return run(engine, made), [seen.of(r) for r in made], engine


def compare(real, prompt, tokens, ours, tolerance):
    """Every logit within tolerance of stock's; every token stock's best, but for near ties. Returns these near ties."""
    stock = real.logits(prompt + tokens[:-1])[len(prompt) - 1:]
    assert np.abs(ours - stock).max() <= tolerance
    second, best = np.sort(stock, axis=-1)[:, -2:].T
    other = stock.argmax(-1) != np.array(tokens)
    assert not (other & (best - second > 2 * tolerance)).any()
    return int(other.sum())


@pytest.mark.parametrize("budget", [4096, 65, 64])
def test_one_prefill_in_chunks(real, budget):
    prompt = real.ids[:700]
    tokens, (ours,), _ = answers(real, [prompt], SamplingParams(max_tokens=1), kv="f32", token_budget=budget)
    compare(real, prompt, tokens[0], ours, EXACT)


@pytest.mark.parametrize("budget", [1, 7])
def test_small_chunks(real, budget):
    prompt = real.ids[:75 if budget == 1 else 150]
    tokens, (ours,), _ = answers(real, [prompt], SamplingParams(max_tokens=1), kv="f32", token_budget=budget)
    compare(real, prompt, tokens[0], ours, EXACT)


@pytest.fixture(scope="module")
def ragged(real):
    """Five prompts of 1 to 700 tokens as one batch, 128 tokens each, in f32 pages."""
    prompts = [real.ids[:n] for n in LENGTHS]
    return prompts, *answers(real, prompts, SamplingParams(max_tokens=128, ignore_eos=True), kv="f32")[:2]


def test_a_ragged_batch_is_greedy_as_stock(real, ragged):
    prompts, tokens, logits = ragged
    assert [compare(real, p, t, x, EXACT) for p, t, x in zip(prompts, tokens, logits)] == [0] * 5      # near ties


def test_alone_as_in_the_batch(real, ragged):
    prompts, tokens, logits = ragged
    alone, (ours,), _ = answers(real, [prompts[3]], SamplingParams(max_tokens=128, ignore_eos=True), kv="f32", token_budget=100)
    assert alone == [tokens[3]] and relative(ours, logits[3]) <= 1e-5


def test_f16_pages(real, record_property):
    """The default format: alone as in a batch, and as close to stock as 11 bits of K and V allow."""
    prompts = [real.ids[:n] for n in (64, 200, 400)]
    params = SamplingParams(max_tokens=24, ignore_eos=True)
    tokens, logits, _ = answers(real, prompts, params, kv="f16")
    ties = [compare(real, p, t, x, HALF) for p, t, x in zip(prompts, tokens, logits)]
    record_property("near_ties", ties)
    assert sum(ties) <= 2, ties
    alone, (ours,), _ = answers(real, [prompts[1]], params, kv="f16", token_budget=100)
    # fp32 noise of another order of sums can flip a rounding to f16: 1e-4, where f32 pages give 1e-5.
    assert alone == [tokens[1]] and relative(ours, logits[1]) <= 1e-4


def test_quantized_pages_whatever_the_chunks(real):
    """Sums are the same to the last bits wherever chunks end: from layer to layer, codes of pages magnify what is not (2e-3)."""
    prompts, params = [real.ids[:333], real.ids[400:640]], SamplingParams(max_tokens=1)
    alone = [answers(real, [p], params, kv="q4", token_budget=2048)[1][0] for p in prompts]
    for budget in (64, 100, 512):
        _, together, _ = answers(real, prompts, params, kv="q4", token_budget=budget)
        assert max(relative(a, b) for a, b in zip(together, alone)) <= 1e-4, budget


@pytest.mark.slow
def test_200_decode_steps(real):
    prompt = real.ids[:20]
    (tokens,), (ours,), _ = answers(real, [prompt], SamplingParams(max_tokens=200, ignore_eos=True), kv="f32")
    assert len(tokens) == 200 and compare(real, prompt, tokens, ours, EXACT) == 0


def test_a_small_pool_preempts_and_answers_the_same(real):
    """A pool too small for 8 prompts at once gives the texts and logits of a large one."""
    prompts = [real.ids[100 * i:100 * i + 20 + 5 * i] for i in range(8)]
    params = SamplingParams(max_tokens=40, ignore_eos=True)
    page = 30 * 3 * (16 * 128 * 4)                         # bytes of a page: 30 layers, 3 heads, K and V of 64 in f32
    large, wide, _ = answers(real, prompts, params, kv="f32", page_size=16)
    small, narrow, engine = answers(real, prompts, params, kv="f32", page_size=16, pool_bytes=20 * page)
    assert engine.preemptions > 0 and small == large
    assert max(relative(a, b) for a, b in zip(narrow, wide)) <= 1e-5
