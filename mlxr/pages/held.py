"""Held pages: plain numbers beside the pool, of sequences' first pages (sinks) and of pages that were decoded.

A sequence's first tokens (`--kv-sink`), in whole pages, are kept as fp16 in place of a record: their page ids lie above
those of the pool. With `--kv-dequant-cache` the pages that decode steps read are decoded into what is left, a few a step;
where there is no room, the longest unused goes. A slot holds K [dk][page], then V in groups as the format's codes lie,
[page * dv / per / 32][per][32]; both are rotated where the format's are, so that kernels read them beside records.
"""

import math
from collections import OrderedDict

import mlx.core as mx

from .encoding import rotate

AT_ONCE = 8      # pages that are decoded in a step, at most: nobody waits long for it


def held_dtype(dtype, decoded):
    """Of the numbers: fp16; with decoded pages fp32, where activations are, so that no logit changes by more than sums do."""
    return mx.float32 if decoded and dtype == mx.float32 else mx.float16


class HeldLayer:
    """One layer's held pages: numbers [1 + slots, kv_heads, page * (dk + dv)]. Slot 0 is nobody's, and stays zero."""

    def __init__(self, spec, page_format, page_size, slots, dtype):
        self.spec, self.format, self.page_size, self.dtype = spec, page_format, page_size, dtype
        self.numbers = mx.zeros((1 + slots, spec.kv_heads, page_size * (spec.dk + spec.dv)), dtype)

    def put(self, slots, k, v, first=False):
        """Into slots int32 [P]: k [P, kv_heads, page, dk] and v [P, kv_heads, page, dv]. first: of sequences' first pages,
        which are fp16 whatever the numbers are."""
        k, v = self._turned(k.astype(mx.float32), v.astype(mx.float32))
        lead, (line, per) = k.shape[:2], self._lines()
        v = v.reshape(*lead, -1, line, per).swapaxes(-1, -2)
        numbers = mx.concatenate([k.swapaxes(-1, -2).reshape(*lead, -1), v.reshape(*lead, -1)], axis=-1)
        self.numbers[slots] = (numbers.astype(mx.float16) if first else numbers).astype(self.dtype)

    def get(self, slots):
        """(k, v) float32 of slots [...]: [..., kv_heads, page, dk] and [..., kv_heads, page, dv]."""
        numbers, (line, per) = self.numbers[slots].astype(mx.float32), self._lines()
        lead, page, dk = numbers.shape[:-1], self.page_size, self.spec.dk
        k = numbers[..., :page * dk].reshape(*lead, dk, page).swapaxes(-1, -2)
        v = numbers[..., page * dk:].reshape(*lead, -1, per, line).swapaxes(-1, -2).reshape(*lead, page, -1)
        return self._turned(k, v)

    def _turned(self, k, v):
        """K and V under the format's rotations, which undo themselves."""
        return tuple(rotate(x) if e.rotated else x for x, e in ((k, self.format.k), (v, self.format.v)))

    def _lines(self):
        """(groups of V in a line, numbers of a group)."""
        per = self.format.v.of_token
        return math.gcd(32, self.page_size * self.spec.dv // per), per


class Held:
    """Which pages are held, and in which slots. Plain ints.

    first: pages at a sequence's beginning that are held in place of records; their ids are base + 1 to base + firsts, their
    slots 1 to firsts. decoded: slots after these, for pages of the pool.
    """

    def __init__(self, first, firsts, base, decoded):
        self.first, self.firsts, self.base, self.decoded = first, firsts, base, decoded
        self._slots = OrderedDict()                      # page -> slot of a decoded page, the longest unused first
        self._free = list(range(firsts + decoded, firsts, -1))

    def slot(self, page):
        """Of a page, or 0."""
        return page - self.base if page > self.base else self._slots.get(page, 0)

    def record(self, page):
        """Of the pool, for a page; 0, which stays zero, for one that has none."""
        return 0 if page > self.base else page

    def forget(self, pages):
        """Pages of the pool that are written anew."""
        for page in pages:
            if page in self._slots:
                self._free.append(self._slots.pop(page))

    def wanted(self, tables):
        """[(page, its number in its sequence, slot)] that are to be decoded now, AT_ONCE at most. tables: lists of the pages
        that each sequence reads."""
        found = []
        if not self.decoded:
            return found
        using = set()
        for table in tables:
            for page in table:
                using.add(page)
                if page in self._slots:
                    self._slots.move_to_end(page)
        for table in tables:
            for number, page in enumerate(table):
                if len(found) == AT_ONCE:
                    return found
                if page <= self.base and page not in self._slots:
                    slot = self._take(using)
                    if slot is None:
                        return found
                    self._slots[page] = slot
                    found.append((page, number, slot))
        return found

    def _take(self, using):
        """A slot that is free, or the longest unused one of those that nobody uses now; None where there is none."""
        if self._free:
            return self._free.pop()
        oldest = next(iter(self._slots))                 # those in use are the newest
        return None if oldest in using else self._slots.pop(oldest)
