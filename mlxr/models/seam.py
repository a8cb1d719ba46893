"""The seam to mlx-lm's models: caches that hand out handles, and an attention that knows what they stand for.

A model calls `cache.update_and_fetch(k, v)` and then `scaled_dot_product_attention(q, k, v, cache=...)`. Ours gives it
handles in place of K and V; the attention function recognises their type and reads the pages. Three ways to run:

paged:    each token is a batch row of length one ([T, 1]), with its own position: a ragged batch without padding.
serial:   one sequence at a time ([1, n]), for models that want one position or carry a recurrent state.
gathered: one sequence at a time, with the pages gathered into dense K and V, for models that compute on these.
"""

import sys
from dataclasses import dataclass

import mlx.core as mx

from ..errors import UnsupportedModel
from ..kernels.attend import attend, dense
from ..pages.pool import LayerSpec
from .zoo import lm_module


class Handle:
    """Stands for the K or V of one layer and batch while the model passes it to attention."""

    __slots__ = ("layer", "k", "v", "tails", "dtype")

    def __init__(self, layer, k, v, tails):
        self.layer, self.k, self.v, self.tails, self.dtype = layer, k, v, tails, k.dtype

    @property
    def shape(self):
        """As of the dense K: the number of tokens is an array [T] in a ragged batch (afm7 subtracts from it)."""
        rows = 1 if isinstance(self.layer.offset, int) else self.k.shape[0]
        return rows, self.k.shape[1], self.layer.offset, self.k.shape[2]

    def astype(self, dtype):
        """The same handle: attention computes in the type of its queries (stablelm asks for fp32)."""
        return self


class PagedMask:
    """Stands for a causal mask, limited to the last `window` positions if given."""

    def __init__(self, window):
        self.window = window


def install():
    """Put our attention function in front of mlx-lm's, in every model module, now and later. Idempotent."""
    base = lm_module("base")
    stock = base.scaled_dot_product_attention
    if getattr(stock, "mlxr_stock", None):
        return

    def scaled_dot_product_attention(queries, keys, values, cache=None, scale=1.0, mask=None, sinks=None, **kwargs):
        if type(keys) is Handle:
            return _attend(queries, keys, scale, mask, sinks)
        return stock(queries, keys, values, cache=cache, scale=scale, mask=mask, sinks=sinks, **kwargs)

    scaled_dot_product_attention.mlxr_stock = stock
    for name, module in list(sys.modules.items()):        # modules that were imported before us hold the old name
        if name.startswith("mlx_lm.models.") and getattr(module, "scaled_dot_product_attention", None) is stock:
            module.scaled_dot_product_attention = scaled_dot_product_attention
    base.scaled_dot_product_attention = scaled_dot_product_attention


def _attend(queries, handle, scale, mask, sinks):
    """queries [T, heads, 1, dk] (paged) or [1, heads, n, dk] (serial) -> the same shape, with dv."""
    layer = handle.layer
    if mask is not None and type(mask) is not PagedMask and mask != "causal":
        raise UnsupportedModel("this model computes its own attention masks and cannot run on pages; "
                               "its architecture should be listed as gathered")
    window = mask.window if type(mask) is PagedMask else layer.window
    t, heads = queries.shape[0] * queries.shape[2], queries.shape[1]
    q = queries.swapaxes(1, 2).reshape(t, heads, queries.shape[3])
    out = layer.read(q, handle.k, handle.v, handle.tails, scale, window, sinks)
    return out.reshape(queries.shape[0], queries.shape[2], heads, -1).swapaxes(1, 2)


def _stored(keys, values):
    """K and V as pages keep them. A cache of keys without values (minimax_m3_vl's index) keeps the keys twice."""
    return keys, values if values.shape[3] else keys


def _rows(x):
    """[b, heads, n, d] -> [b * n, heads, d]"""
    return x.swapaxes(1, 2).reshape(-1, x.shape[1], x.shape[3])


class PagedLayer:
    """The cache of one attention layer, as mlx-lm's models see it. The runner binds each batch to it."""

    observer = None                  # called as observer(layer, q, k, v, scale, window, sinks, out), by validation

    def __init__(self, pool, window=None):
        self.pool, self.window = pool, window
        self.batch = self.offset = self._handles = None

    def bind(self, batch, serial):
        """The batch that the next forward pass computes. offset: positions [T], or one int when serial."""
        self.batch, self._handles = batch, None
        self.offset = batch.start if serial else batch.positions

    def make_mask(self, N, return_array=False, window_size=None, **_):
        return PagedMask(window_size or self.window)

    def update_and_fetch(self, keys, values):
        k, v = (_rows(x) for x in _stored(keys, values))
        handle = Handle(self, k, v, self.pool.write(self.batch, k, v))
        self.offset = self.offset + keys.shape[2]
        self._handles = handle, handle
        return self._handles

    def attend(self, q, k, v, scale, mask, sinks=None):
        """Take new k, v [T, kv_heads, d] and return the attention output [T, heads, dv] of q [T, heads, dk]."""
        pool = self.pool
        tails = pool.k_tail, pool.v_tail
        pool.seal(self.batch, k, v)
        out = self.read(q, k, v, tails, scale, mask.window if type(mask) is PagedMask else self.window, sinks)
        pool.keep(self.batch, k, v, after=out)
        return out

    def read(self, q, k, v, tails, scale, window, sinks):
        """The attention output of q, over k and v, the tails before them, and the pages."""
        out = attend(q, k, v, *tails, self.pool.records, self.pool.format, self.batch, scale, window, sinks, self.pool.held)
        if self.observer:
            self.observer(self, q, k, v, scale, window, sinks, out)
        return out

    def keys_and_values(self):
        return self._handles

    @property
    def state(self):
        return self._handles or (None, None)

    def size(self):
        return self.offset

    def empty(self):
        return self._handles is None

    def is_trimmable(self):
        return False


class GatheredLayer(PagedLayer):
    """The same for a model that computes on K and V itself: it gets them dense, [1, kv_heads, tokens, d]."""

    start_position = 0
    keys = values = None             # what update_and_fetch gave; some models tie other arrays to these (mx.depends)

    def make_mask(self, N, return_array=False, window_size=None, **_):
        cache = lm_module("cache")
        window = window_size or self.window
        return cache.create_attention_mask(N, self.offset, return_array or window is not None, window)

    def update_and_fetch(self, keys, values):
        k, v = (_rows(x) for x in _stored(keys, values))
        tails = self.pool.write(self.batch, k, v)
        # Chunks stop at page boundaries, so that all complete pages but the last are earlier pages, as stored.
        group = self.batch.groups[0]
        first = self.batch.start // self.batch.page_size
        stored = dense(k, v, *tails, self.pool.records, self.pool.format, self.batch.page_size, group, self.pool.held)
        skip = group.table.shape[1] * self.batch.page_size          # where the plain tokens begin
        cut = first * self.batch.page_size
        self._handles = tuple(mx.concatenate([s[:, :, :cut], s[:, :, skip:]], axis=2).astype(keys.dtype) for s in stored)
        self.keys, self.values = self._handles
        self.offset = self.offset + keys.shape[2]
        return self._handles

    def maybe_trim_front(self):
        """Chunked caches drop old tokens here; pages keep them, and the model's mask hides them."""


class _Probe:
    """A cache that only notes what a layer stores, for one token, in a graph that is never evaluated."""

    offset = 0
    start_position = 0

    def __init__(self):
        self.spec = self.keys = self.values = None

    def make_mask(self, N, return_array=False, window_size=None, **_):
        return mx.ones((1, 1), mx.bool_) if return_array else None

    def update_and_fetch(self, keys, values):
        self.spec = LayerSpec(keys.shape[1], keys.shape[3], _stored(keys, values)[1].shape[3])
        self.keys, self.values = keys, values
        self.offset = keys.shape[2]
        return keys, values

    def keys_and_values(self):
        return self.keys, self.values

    @property
    def state(self):
        return self.keys, self.values

    def maybe_trim_front(self):
        pass

    def size(self):
        return self.offset

    def empty(self):
        return self.spec is None


_PAGED = {"KVCache", "RotatingKVCache", "ChunkedKVCache", "ConcatenateKVCache", "QuantizedKVCache"}


def map_caches(caches, paged):
    """A model's caches with every attention cache replaced by paged(cache); recurrent ones are kept."""
    def one(cache):
        kind = type(cache).__name__
        if kind in _PAGED:
            return paged(cache)
        if kind == "CacheList":
            return type(cache)(*(one(c) for c in cache.caches))
        if kind == "ArraysCache":
            return cache
        raise UnsupportedModel(f"this model keeps a cache of kind {kind!r}, which cannot be paged")
    return [one(c) for c in caches]


def stock_caches(model):
    """The caches that mlx-lm itself would use."""
    if hasattr(model, "make_cache"):
        return model.make_cache()
    return [lm_module("cache").KVCache() for _ in model.layers]


@dataclass
class Shape:
    """What a model stores and gives: a LayerSpec (or None) and a sliding window (or None) for each attention layer, the
    dtype of K, whether other layers keep a recurrent state, and the size of its vocabulary."""

    specs: list
    windows: list
    dtype: mx.Dtype
    recurrent: bool
    vocabulary: int


def probe(model):
    """A model's Shape, found by building the graph of one token, which is never evaluated."""
    probes, windows = [], []

    def paged(cache):
        probes.append(_Probe())
        windows.append(getattr(cache, "max_size", None))
        return probes[-1]

    stock = stock_caches(model)
    logits = model(mx.zeros((1, 1), mx.int32), cache=map_caches(stock, paged))
    dtype = next((p.keys.dtype for p in probes if p.spec), logits.dtype)
    return Shape([p.spec for p in probes], windows, dtype, _count(stock) > len(probes), logits.shape[-1])


def _count(caches):
    return sum(_count(c.caches) if type(c).__name__ == "CacheList" else 1 for c in caches)
