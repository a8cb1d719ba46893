"""Copies of a context for a benchmark: one sequence's pages are computed, others get the same records in pages of their own."""

import mlx.core as mx
import numpy as np

from ..pages.prefix_cache import extend_keys

AT_ONCE = 256      # pages that are copied at once


def copy_prefix(engine, tokens, other):
    """Let the prefix cache find copies of the complete pages of `tokens` (its prompt was computed before) under `other`.

    tokens, other: equally long lists of token ids. Attention over them takes what it takes over computed pages: other
    memory, the same kind of content. Pages that the cache lost are left out. To be called between steps of an idle engine.
    """
    scheduler, size = engine.scheduler, engine.config.page_size
    keys, wanted = [], []
    extend_keys(keys, tokens, size)
    extend_keys(wanted, other, size)
    there = next((i for i, key in enumerate(keys) if not scheduler.cache.knows(key)), len(keys))
    pages = scheduler.cache.pages(keys[:there])
    scheduler.allocator.share(pages)                 # not to be given away for their copies
    copies = scheduler.allocator.take(there)
    mx.synchronize()                                 # an update reuses the pool's buffer when nobody reads it
    for layer in engine.pool.layers:
        for at in range(0, there, AT_ONCE):
            view = np.array(layer.records, copy=False)
            records = mx.array(view[pages[at:at + AT_ONCE]])
            del view
            layer.records[mx.array(np.array(copies[at:at + AT_ONCE], np.int32))] = records
            mx.eval(layer.records)
    for key, page in zip(wanted, copies):
        scheduler.cache.know(key, page)
    scheduler.allocator.release(pages + copies)
