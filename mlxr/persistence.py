"""Sealed pages between the pool and the disk: saved when no step is under way, restored for prompts that begin with them."""

import time

import mlx.core as mx
import numpy as np

from .pages.prefix_cache import extend_keys

BATCH = 16 << 20     # bytes of pages that are copied at once, so that nobody waits long and little memory is taken


class Persistence:
    """Keeps a PageStore up to date with the prefix cache of a scheduler, over a page pool."""

    def __init__(self, store, pool, scheduler):
        self.store, self.pool, self.scheduler = store, pool, scheduler
        self._pending = {}                       # key -> page: known to the cache, not copied yet
        self._most = max(1, BATCH // store.record)
        cache = scheduler.cache
        cache.on_learn, cache.on_forget = self._learned, self._forgotten

    def _learned(self, key, page):
        if key not in self.store:
            self._pending[key] = page

    def _forgotten(self, key):
        self._pending.pop(key, None)

    def save(self):
        """Copy some pages out of the pool, to be written. Waits for the step that is under way. Returns whether there were any."""
        keys = list(self._pending)[:min(self._most, self.store.room)]
        if not keys:
            return False
        mx.synchronize()
        pages = [self._pending.pop(key) for key in keys]
        parts = []
        for layer in self.pool.layers:           # a view of the pool for a moment: the next update is its only owner again
            view = np.array(layer.records, copy=False)
            parts.append(view[pages].reshape(len(pages), -1))
            del view
        for key, record in zip(keys, np.concatenate(parts, axis=1)):
            self.store.put(key, record.tobytes())
        return True

    def missing(self, tokens, salt):
        """Keys of a prompt's pages from the first that the pool does not have; those that are on disk are worth reading."""
        keys, known = [], self.scheduler.cache.knows
        extend_keys(keys, tokens, self.pool.page_size, salt)
        keys = keys[:(len(tokens) - 1) // self.pool.page_size]
        first = next((i for i, key in enumerate(keys) if not known(key)), len(keys))
        return keys[:first], keys[first:]

    def prefetch(self, tokens, salt):
        """Read what restore will want. For another thread than the engine's."""
        self.store.fetch(self.missing(tokens, salt)[1])

    def restore(self, tokens, salt):
        """Put the pages of a prompt's beginning that are on disk into free pages of the pool, known to the cache."""
        there, gone = self.missing(tokens, salt)
        if not gone or gone[0] not in self.store:
            return
        allocator, cache = self.scheduler.allocator, self.scheduler.cache
        held = cache.pages(there)
        allocator.share(held)                    # not to be given away for the rest of the same prompt
        while gone and allocator.free:
            wanted = gone[:min(self._most, allocator.free)]
            found, gone = self.store.take(wanted), gone[len(wanted):]
            pages = allocator.take(len(found))
            held += pages
            if pages:
                self._fill(pages, [record for _, record in found])
            for (key, _), page in zip(found, pages):
                cache.know(key, page)
            if len(found) < len(wanted):
                break
        allocator.release(held)

    def _fill(self, pages, records):
        mx.synchronize()                         # an update reuses the pool's buffer when nobody reads it
        rows = np.stack([np.frombuffer(r, np.uint32) for r in records])
        at, ids = 0, mx.array(np.array(pages, np.int32))
        for layer in self.pool.layers:
            shape = layer.records.shape[1:]
            words = shape[0] * shape[1]
            layer.records[ids] = mx.array(np.ascontiguousarray(rows[:, at:at + words]).reshape(len(pages), *shape))
            at += words
        mx.eval([layer.records for layer in self.pool.layers])

    def close(self, seconds=10.0):
        """Save what is pending, and write it, for that many seconds at most."""
        end = time.monotonic() + seconds
        while self._pending and time.monotonic() < end:
            if not self.save():
                time.sleep(0.01)                 # until some of what waits is written
        self.store.close(max(1.0, end - time.monotonic()))
