"""Which pages are free, and how many sequences hold each of the others. Plain ints, no mlx."""

from collections import deque

from ..errors import OutOfPages


class PageAllocator:
    """Reference-counted page ids 1 .. count. Page 0 is never given out: it stays zero and pads block tables.

    A page that nobody holds goes to the end of the free list, so that the longest unused one is reused first.
    """

    def __init__(self, count):
        self.count = count
        self._free = deque(range(1, count + 1))
        self._holders = [0] * (count + 1)

    @property
    def free(self):
        return len(self._free)

    @property
    def used(self):
        return self.count - len(self._free)

    def take(self, n):
        """n page ids, each held once. Raises OutOfPages, taking none, when fewer are free."""
        if n > len(self._free):
            raise OutOfPages(f"{n} pages wanted, {len(self._free)} of {self.count} are free")
        pages = [self._free.popleft() for _ in range(n)]
        for page in pages:
            self._holders[page] = 1
        return pages

    def share(self, pages):
        """Hold pages once more."""
        for page in pages:
            if not self._holders[page]:
                raise ValueError(f"page {page} is free and cannot be shared")
            self._holders[page] += 1

    def release(self, pages):
        """Let go of pages; those that nobody holds any more become free."""
        for page in pages:
            if not self._holders[page]:
                raise ValueError(f"page {page} is free already")
            self._holders[page] -= 1
            if not self._holders[page]:
                self._free.append(page)

    def check(self, tables):
        """Raise AssertionError unless the block tables given hold exactly the pages that are not free."""
        held = [0] * (self.count + 1)
        for table in tables:
            for page in table:
                held[page] += 1
        if held != self._holders:
            wrong = [p for p in range(self.count + 1) if held[p] != self._holders[p]]
            raise AssertionError(f"pages {wrong[:8]} are counted {[self._holders[p] for p in wrong[:8]]} times, "
                                 f"but held {[held[p] for p in wrong[:8]]} times")
        if len(set(self._free)) != len(self._free) or self.used != sum(1 for h in held if h):
            raise AssertionError("allocated + free pages are not all pages")
