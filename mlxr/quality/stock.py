"""mlx-lm's own quantized KV cache under the same measure: its cache and attention, on the same loaded weights.

It rounds K and V of each token in groups of 64 elements when they are written (mlx_lm.models.cache.QuantizedKVCache).
`snapshot` is how mlx_lm.generate runs a prompt of up to 2,048 tokens: computed with a plain cache, which is then
quantized. `in-forward` is a longer prompt's way: computed on the quantized cache.
"""

from functools import cached_property

import mlx.core as mx
import numpy as np

from ..errors import UnsupportedModel
from ..models import seam
from .teacher import GREEDY, SCORED

GROUP = 64
CHUNK = 512
FORMATS = {"mlx-lm 8-bit": 8, "mlx-lm 4-bit": 4}


def bits_of(bits):
    """Bits an element takes, a 16-bit scale and offset for each group included."""
    return bits + 2 * 16 / GROUP


class StockCache:
    """One window on a model with mlx-lm's caches. model: any mlx-lm Model; a window's tokens and context as in Feed."""

    def __init__(self, model, window, context):
        self.model, self.window, self.context = model, window, context

    @cached_property
    def plain(self):
        """The caches after the context, unquantized."""
        return self._feed(seam.stock_caches(self.model))

    def snapshot(self, bits):
        """Quantized copies of the plain caches after the context."""
        return _to_quantized(self.plain, bits)

    def in_forward(self, bits):
        """The caches after the context, with every chunk computed on the quantized cache."""
        caches = self._feed([Dequantized(c) for c in _to_quantized(seam.stock_caches(self.model), bits)])
        return [c.stock for c in caches]

    def score(self, caches):
        """Logits [SCORED, vocabulary]; the caches are as before afterwards."""
        tokens = self.window[self.context:self.context + SCORED]
        logits = self.model(mx.array([tokens]), cache=caches)[0]
        mx.eval(logits)
        for cache in caches:
            cache.trim(SCORED)
        return logits

    def greedy(self, caches, n=GREEDY, path=None):
        """int [n]: the tokens that follow the context, the most likely one each time; path: as for Feed.greedy, [n].
        The last token of the context is computed once more, to know the first."""
        for cache in caches:
            cache.trim(1)
        token, out = self.window[self.context - 1], []
        for step in range(n):
            out.append(int(mx.argmax(self.model(mx.array([[token]]), cache=caches)[0, -1]).item()))
            token = out[-1] if path is None else int(path[step])
        for cache in caches:
            cache.trim(n)
        return np.array(out)

    def _feed(self, caches):
        for at in range(0, self.context, CHUNK):
            self.model(mx.array([self.window[at:min(at + CHUNK, self.context)]]), cache=caches)
            mx.eval([x for c in caches for x in (c.keys, c.values)])
        return caches


def _to_quantized(caches, bits):
    """Quantized copies of plain caches. Raises UnsupportedModel where mlx-lm has none for a model's caches."""
    if any(type(c).__name__ != "KVCache" for c in caches):
        kinds = sorted({type(c).__name__ for c in caches} - {"KVCache"})
        raise UnsupportedModel(f"mlx-lm has no quantized form of this model's caches ({', '.join(kinds)})")
    return [c.to_quantized(group_size=GROUP, bits=bits) for c in caches]


class Dequantized:
    """mlx-lm's quantized cache as one that gives its numbers dequantized: what its quantized attention computes with, but
    several times faster over long prompts on a CPU. stock: the cache."""

    def __init__(self, stock):
        self.stock = stock

    def update_and_fetch(self, keys, values):
        packed = self.stock.update_and_fetch(keys, values)
        return tuple(mx.dequantize(*p, group_size=self.stock.group_size, bits=self.stock.bits).astype(x.dtype)
                     for p, x in zip(packed, (keys, values)))

    def __getattr__(self, name):
        if name in ("bits", "group_size"):       # what mlx-lm tells a quantized cache by
            raise AttributeError(name)
        return getattr(self.stock, name)


def supported(engine):
    """Raises UnsupportedModel where mlx-lm cannot quantize this model's cache."""
    caches = seam.stock_caches(engine.model)
    _to_quantized(caches, 8)
    odd = next((d for s in engine.specs if s for d in (s.dk, s.dv) if d % GROUP), None)
    if odd:
        raise UnsupportedModel(f"mlx-lm quantizes groups of {GROUP} elements, and heads have {odd}")

