"""Small random models, an engine around one of them, and what stock mlx-lm computes with it."""

import mlxr  # noqa: F401, I001  (before mlx: it decides which BLAS MLX uses)
import mlx.core as mx
import mlx.utils
import numpy as np

from mlxr.config import EngineConfig
from mlxr.engine import Engine
from mlxr.models import zoo
from mlxr.models.modes import PAGED
from mlxr.pace import Unpaced

LLAMA = dict(model_type="llama", hidden_size=64, num_hidden_layers=3, intermediate_size=128, num_attention_heads=4,
             num_key_value_heads=2, rms_norm_eps=1e-5, vocab_size=131, max_position_embeddings=4096)


class NoText:
    """A tokenizer for tests that look at token ids alone."""

    eos_ids = frozenset()

    def encode(self, text, add_special=True):
        return list(text.encode())

    def stream(self, skip_special=False, continues=False):
        return self

    def add(self, token):
        return f" {token}"

    def finish(self):
        return ""

    def token_text(self, token):
        return str(token)


def tiny_model(config=LLAMA, seed=0, scale=1.0):
    """A random fp32 model of that configuration. scale: of its matrices, to make its choices less uniform."""
    mx.random.seed(seed)
    model = zoo.instantiate(config)
    model.update(mlx.utils.tree_map(lambda a: a * scale if a.ndim > 1 else a, model.parameters()))
    mx.eval(model.parameters())
    return model


def tiny_engine(model=None, model_config=LLAMA, mode=PAGED, **config):
    """An engine with f32 pages of 16 tokens, unless said otherwise. What it does depends on no clock."""
    config = EngineConfig(**{"page_size": 16, "kv": "f32", "pool_bytes": 1 << 22, "token_budget": 64, **config})
    return unpaced(Engine(model or tiny_model(model_config), model_config, NoText(), config, mode))


def unpaced(engine):
    """The engine, which reads prompts as fast as its token budget lets it, whatever the time that takes."""
    engine.pace = Unpaced(engine.config.token_budget)
    return engine


def stock_logits(model, tokens):
    """Logits [len(tokens), vocabulary] of stock mlx-lm, computed in one go with its own caches."""
    caches = model.make_cache() if hasattr(model, "make_cache") else [zoo.lm_module("cache").KVCache() for _ in model.layers]
    return model(mx.array([tokens]), cache=caches)[0]


def run(engine, requests):
    """Step until all are done; check the conservation of pages after every step. Returns each one's token ids."""
    while engine.busy:
        engine.step()
        engine.scheduler.check()
    return [r.sequence.generated for r in requests]


def prompts(lengths, vocabulary=131, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocabulary, n).tolist() for n in lengths]


def relative(a, b):
    """Relative L2 distance of a from b."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


class Observer:
    """Collects the logits that an engine samples from: {sequence id: {position of the last token: logits [vocabulary]}}."""

    def __init__(self, engine):
        self.logits = {}
        engine.runner.observer = self

    def __call__(self, works, logits):
        rows = np.array(logits.astype(mx.float32))
        for work, row in zip(works, rows):
            self.logits.setdefault(work.sequence.id, {})[work.start + work.count - 1] = row

    def of(self, request):
        """float32 [n, vocabulary]: the logits of a request's draws, in order."""
        seen = self.logits[request.sequence.id]
        return np.stack([seen[p] for p in sorted(seen)])
