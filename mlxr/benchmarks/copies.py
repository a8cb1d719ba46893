"""Long contexts for a benchmark: some pages are computed, the others are copies of them, in memory of their own."""

import mlx.core as mx
import numpy as np

from ..pages.prefix_cache import extend_keys

AT_ONCE = 256      # pages that are copied at once


def fill(engine, computed, contexts):
    """Let the prefix cache find all complete pages of contexts (lists of token ids), as copies of those of `computed`, in turn.

    computed: token ids of a prompt that was computed before. To read such a copy takes what a computed page takes: other
    memory, the same kind of content. To be called while the engine is idle.
    """
    cache, allocator, size = engine.scheduler.cache, engine.scheduler.allocator, engine.config.page_size
    keys = _keys(computed, size)
    there = next((i for i, key in enumerate(keys) if not cache.knows(key)), len(keys))
    if not there:
        return
    held = sources = cache.pages(keys[:there])
    allocator.share(held)                            # not to be given away for their copies
    for tokens in contexts:
        wanted = [(i, key) for i, key in enumerate(_keys(tokens, size)) if not cache.knows(key)]
        pages = allocator.take(len(wanted))
        _copy(engine.pool, [sources[i % there] for i, _ in wanted], pages)
        for (_, key), page in zip(wanted, pages):
            cache.know(key, page)
        held = held + pages
    allocator.release(held)


def _keys(tokens, size):
    keys = []
    extend_keys(keys, tokens, size)
    return keys


def _copy(pool, sources, pages):
    mx.synchronize()                                 # an update reuses the pool's buffer when nobody reads it
    for layer in pool.layers:
        for at in range(0, len(pages), AT_ONCE):
            view = np.array(layer.records, copy=False)
            records = mx.array(view[sources[at:at + AT_ONCE]])
            del view
            layer.records[mx.array(np.array(pages[at:at + AT_ONCE], np.int32))] = records
            mx.eval(layer.records)
