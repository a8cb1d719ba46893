"""The contestant mlx-lm: its model classes, MLX's own layers and its own caches, stepped as its generate loop does."""

import time
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

from ..models import seam
from ..models.build import load_model
from ..models.linear import QuantEmbedding, QuantLinear
from ..weights.checkpoint import open_checkpoint
from .children import serve
from .machine import check_cache
from .prompts import prompts

CHUNK = 2048     # tokens of a prompt computed at once: mlx-lm's default
STOCK = {QuantLinear: nn.QuantizedLinear, QuantEmbedding: nn.QuantizedEmbedding}


def stock_model(path, dtype):
    """mlx-lm's model of a checkpoint, with MLX's own layers alone. To be called with MLXR_BACKEND=reference.

    mlx-lm itself cannot read GGUF blocks; they come in MLX's affine format, the same numbers.
    """
    model = load_model(open_checkpoint(Path(path)), dtype)
    for module in model.modules():
        if type(module) in STOCK:
            module.__class__ = STOCK[type(module)]   # ours add a faster way for many rows, and nothing else
    return model


class MlxLm:
    """mlx-lm on the same weights, in the same dtype of activations."""

    def __init__(self, model, dtype, vocabulary):
        self.vocabulary, self.dtype = vocabulary, dtype
        self.model = stock_model(model, dtype)

    def info(self):
        return {"dtype": self.dtype, "cache": self.dtype}

    def size(self, pp, tg, depth, batch, kv_elements):
        """What the next measurements are of. Raises ConfigError where its cache would not fit; K and V of a token are kv_elements."""
        check_cache(kv_elements * getattr(mx, self.dtype).size * batch * (depth + max(pp, tg)))
        self.pp, self.tg, self.depth, self.batch = pp, tg, depth, batch

    def warm(self):
        mx.eval(self._next(self._feed(self._caches(), mx.array(prompts(-1, self.batch, 4, self.vocabulary)))))

    def prefill(self, seed):
        """The context is filled as for decode; None where it cannot be."""
        caches, tokens = self._caches(), mx.array(prompts(seed, self.batch, self.pp, self.vocabulary))
        if self.depth and not self._fill(caches, self.depth):
            return None
        start = time.perf_counter()
        mx.eval(self._next(self._feed(caches, tokens)))
        return {"tokens": self.batch * self.pp, "seconds": time.perf_counter() - start}

    def decode(self, seed):
        """The cache is filled with random numbers, where it is a plain one: what is in it does not matter to the time."""
        caches, depth = self._caches(), max(1, self.depth)
        tokens = mx.array(prompts(seed, self.batch, depth, self.vocabulary))
        if not self._fill(caches, depth - 1):
            self._feed(caches, tokens[:, :-1])
        y = self._next(self._feed(caches, tokens[:, -1:]))
        mx.async_eval(y)
        following = self._next(self._feed(caches, y[:, None]))
        mx.async_eval(following)
        y.tolist()
        start = time.perf_counter()
        for _ in range(self.tg):             # as generate_step: the next step is launched before this one's token is read
            y, following = following, self._next(self._feed(caches, following[:, None]))
            mx.async_eval(following)
            y.tolist()
        return {"tokens": self.batch * self.tg, "seconds": time.perf_counter() - start}

    def _caches(self):
        return seam.stock_caches(self.model)

    def _feed(self, caches, tokens):
        """Logits [batch, vocabulary] of the last of tokens [batch, n]."""
        while tokens.shape[1] > CHUNK:
            self.model(tokens[:, :CHUNK], cache=caches)
            mx.eval([c.state for c in caches])
            tokens = tokens[:, CHUNK:]
        return self.model(tokens, cache=caches)[:, -1] if tokens.shape[1] else None

    def _next(self, logits):
        return mx.argmax(logits, axis=-1)

    def _fill(self, caches, tokens):
        """Whether all caches could be filled with that many tokens' random K and V."""
        if any(type(c).__name__ != "KVCache" for c in caches):
            return False
        specs = seam.probe(self.model).specs
        if len(specs) != len(caches) or not all(specs):
            return False
        if tokens:
            for cache, s in zip(caches, specs):
                cache.update_and_fetch(*(mx.random.normal((self.batch, s.kv_heads, tokens, d)).astype(getattr(mx, self.dtype))
                                         for d in (s.dk, s.dv)))
                mx.eval(cache.state)
        return True


if __name__ == "__main__":
    serve(MlxLm)
