"""Sealed pages between the pool and the disk: saved when no step is under way, restored for prompts that begin with them."""

import time

import mlx.core as mx
import numpy as np

from .pages.prefix_cache import extend_keys

BATCH = 16 << 20     # bytes of pages that are copied at once, so that nobody waits long and little memory is taken


class Persistence:
    """Keeps a PageStore up to date with the prefix cache of a scheduler, over a page pool."""

    def __init__(self, pool, scheduler, make_store):
        """make_store: make_store(bytes of a page) gives the PageStore. Where first pages are held as plain numbers, what is smaller is
        padded with zeros."""
        self.pool, self.scheduler = pool, scheduler
        self.store = make_store(max(sum(a[0].nbytes for a in arrays) for arrays in self._arrays()))
        self._pending = {}                       # key -> page: known to the cache, not copied yet
        self._most = max(1, BATCH // self.store.record)
        cache = scheduler.cache
        cache.on_learn, cache.on_forget = self._learned, self._forgotten

    def _arrays(self):
        """[arrays of all layers] that pages lie in: of the pool; of held pages, where there are such."""
        layers = self.pool.layers
        first = self.pool.held and self.pool.held.first
        return [[x.records for x in layers], *([[x.held.numbers for x in layers]] if first else [])]

    def _place(self, page):
        """(which of _arrays, row) of a page."""
        held = self.pool.held
        return (1, held.slot(page)) if held and page > held.base else (0, page)

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
        for key, page in zip(keys, pages):
            kind, row = self._place(page)
            record = b"".join(_row(array, row) for array in self._arrays()[kind])
            self.store.put(key, record.ljust(self.store.record, b"\0"))
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
        first = self.pool.held.first if self.pool.held else 0
        while gone:
            firsts = max(0, first - len(held))       # of the pages that are missing; they have ids of their own
            room = allocator.free_firsts if firsts else allocator.free
            wanted = gone[:min(self._most, room, firsts or room)]
            if not wanted:
                break
            found, gone = self.store.take(wanted), gone[len(wanted):]
            pages = allocator.take(0, len(found)) if firsts else allocator.take(len(found))
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
        kind, at = self._place(pages[0])[0], 0       # all are of one kind
        ids = mx.array(np.array([self._place(p)[1] for p in pages], np.int32))
        if self.pool.held:
            self.pool.held.forget(pages)
        rows = np.stack([np.frombuffer(r, np.uint8) for r in records])
        arrays = self._arrays()[kind]
        for array in arrays:
            shape, size = array.shape[1:], array[0].nbytes
            own = mx.array(np.ascontiguousarray(rows[:, at:at + size])).view(array.dtype)
            array[ids] = own.reshape(len(pages), *shape)
            at += size
        mx.eval(arrays)

    def close(self, seconds=10.0):
        """Save what is pending, and write it, for that many seconds at most."""
        end = time.monotonic() + seconds
        while self._pending and time.monotonic() < end:
            if not self.save():
                time.sleep(0.01)                 # until some of what waits is written
        self.store.close(max(1.0, end - time.monotonic()))


def _row(array, row):
    """The bytes of one row of an array, through a view that is gone at once: the next update is the array's only owner again."""
    view = np.array(array, copy=False)
    return view[row].tobytes()
