"""Fused blocks against mlx-lm's own, for each class that is fused: prompts in chunks, ragged batches, norms and biases."""

import mlx.core as mx
import numpy as np
import pytest
from helpers.tiny import Observer, prompts, relative, run, stock_logits, tiny_engine, tiny_model
from kernels.matrices import needs_compiler
from mlx.nn import Module
from mlx.utils import tree_flatten, tree_map

from mlxr.kernels import library
from mlxr.models import stored
from mlxr.models.fusion import BLOCKS
from mlxr.models.zoo import instantiate
from mlxr.sequence import SamplingParams

BASE = dict(hidden_size=64, num_hidden_layers=3, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2,
            rms_norm_eps=1e-5, vocab_size=131, max_position_embeddings=4096, rope_theta=10000.0, head_dim=16,
            tie_word_embeddings=True)
CONFIGS = {
    "llama": {}, "llama interleaved": {"rope_traditional": True}, "llama biases": {"attention_bias": True},
    "llama windows": {"sliding_window": 20, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "llama llama3": {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                      "original_max_position_embeddings": 32}},
    "llama linear": {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "qwen2": {}, "qwen3": {},
}


def on_kernels(model):
    """The same model with its linear layers on our kernels."""
    layers = tree_map(lambda m: stored.adopt(m, mx.float32) or m, model.leaf_modules(), is_leaf=Module.is_module)
    model.update_modules(layers)
    return model


@needs_compiler
@pytest.mark.parametrize("mode", ["paged", "serial"])
@pytest.mark.parametrize("name", CONFIGS)
def test_as_stock(name, mode):
    config = {**BASE, "model_type": name.split()[0], **CONFIGS[name]}
    stock = tiny_model(config, scale=3.0)
    model = instantiate(config)
    noise = np.random.default_rng(1)
    weights = [(k, w if w.ndim > 1 else w + mx.array(noise.standard_normal(w.shape), mx.float32) * 0.1) for k, w in tree_flatten(stock.parameters())]
    stock.load_weights(weights)
    model.load_weights(weights)
    before = library.used["rope", "host"]
    engine = tiny_engine(on_kernels(model), config, mode=mode, token_budget=33)
    assert engine.fused == 3
    seen = Observer(engine)
    made = [engine.add(p, SamplingParams(max_tokens=12)) for p in prompts([1, 20, 50, 90])]
    for request, tokens in zip(made, run(engine, made)):
        prompt = request.sequence.tokens[:request.sequence.num_prompt]
        wanted = np.array(stock_logits(stock, prompt + tokens[:-1]))[len(prompt) - 1:]
        assert relative(seen.of(request), wanted) <= 2e-5
    assert library.used["rope", "host"] > before


def test_every_fused_class_is_tested():
    assert {name.split()[0] for name in CONFIGS} == set(BLOCKS)


def test_others_are_left_alone():
    """A block on plain layers, or of a class that is not listed, stays mlx-lm's."""
    engine = tiny_engine()
    assert engine.fused == 0
