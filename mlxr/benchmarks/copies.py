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
    cache, allocator, pool, size = engine.scheduler.cache, engine.scheduler.allocator, engine.pool, engine.config.page_size
    keys, first = _keys(computed, size), pool.held.first if pool.held else 0       # first: pages that are no records (--kv-sink)
    there = next((i for i, key in enumerate(keys) if not cache.knows(key)), len(keys))
    if there <= first:
        return
    held = sources = cache.pages(keys[:there])
    allocator.share(held)                            # not to be given away for their copies
    for tokens in contexts:
        wanted = [(i, key) for i, key in enumerate(_keys(tokens, size)) if not cache.knows(key)]
        begin = sum(i < first for i, _ in wanted)
        pages = allocator.take(len(wanted) - begin, begin)
        taken = [sources[i if i < first else first + (i - first) % (there - first)] for i, _ in wanted]
        mx.synchronize()                             # an update reuses the pool's buffer when nobody reads it
        for layer in pool.layers:
            layer.records = _copied(layer, "records", taken[begin:], pages[begin:])
            if begin:
                layer.held.numbers = _copied(layer.held, "numbers", *([pool.held.slot(p) for p in some[:begin]] for some in (taken, pages)))
        if pool.held:
            pool.held.forget(pages[begin:])          # what was decoded of these pages before
        for (_, key), page in zip(wanted, pages):
            cache.know(key, page)
        held = held + pages
    allocator.release(held)


def _keys(tokens, size):
    keys = []
    extend_keys(keys, tokens, size)
    return keys


def _copied(owner, name, sources, targets):
    """The owner's array of that name, with rows `sources` copied to rows `targets`; the owner lets go of it meanwhile."""
    array = getattr(owner, name)
    setattr(owner, name, None)
    for at in range(0, len(targets), AT_ONCE):
        view = np.array(array, copy=False)
        rows = mx.array(view[sources[at:at + AT_ONCE]])
        del view
        array[mx.array(np.array(targets[at:at + AT_ONCE], np.int32))] = rows
        mx.eval(array)
    return array
