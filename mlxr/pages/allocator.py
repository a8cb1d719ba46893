"""Which pages are free, and how many sequences hold each of the others. Plain ints, no mlx."""

from collections import OrderedDict, deque

from ..errors import OutOfPages


class PageAllocator:
    """Reference-counted page ids 1 .. count. Page 0 is never given out: it stays zero and pads block tables.

    A page that nobody holds is free, and the longest unused one is reused first. Those whose content somebody may want
    again (keep) are reused last, and forget(page) is called when that happens.
    """

    def __init__(self, count):
        self.count = count
        self.forget = lambda page: None
        self._free = deque(range(1, count + 1))
        self._kept = OrderedDict()               # free pages whose content may be wanted, the longest unused first
        self._wanted = set()                     # these, and pages that are still held and will be among them
        self._holders = [0] * (count + 1)

    @property
    def free(self):
        return len(self._free) + len(self._kept)

    @property
    def kept(self):
        """Free pages whose content may be wanted again."""
        return len(self._kept)

    @property
    def used(self):
        return self.count - self.free

    def held(self, page):
        """Whether any sequence holds the page."""
        return self._holders[page] > 0

    def take(self, n):
        """n page ids, each held once. Raises OutOfPages, taking none, when fewer are free."""
        if n > self.free:
            raise OutOfPages(f"{n} pages wanted, {self.free} of {self.count} are free")
        pages = [self._free.popleft() if self._free else self._reuse() for _ in range(n)]
        for page in pages:
            self._holders[page] = 1
        return pages

    def share(self, pages):
        """Hold pages once more, or again after nobody did and they were kept."""
        for page in pages:
            if not self._holders[page]:
                if page not in self._kept:
                    raise ValueError(f"page {page} is free and cannot be shared")
                del self._kept[page]
            self._holders[page] += 1

    def release(self, pages):
        """Let go of pages; those that nobody holds any more become free. The last page given is reused first."""
        for page in reversed(pages):
            if not self._holders[page]:
                raise ValueError(f"page {page} is free already")
            self._holders[page] -= 1
            if not self._holders[page]:
                self._let_go(page)

    def keep(self, page):
        """When nobody holds the page any more, reuse it only after those that nobody wants."""
        if not self._holders[page]:
            raise ValueError(f"page {page} is free and cannot be kept")
        self._wanted.add(page)

    def drop(self, page):
        """Undo keep, without a call of forget."""
        self._wanted.discard(page)
        if page in self._kept:
            del self._kept[page]
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
        free = [*self._free, *self._kept]
        if len(set(free)) != len(free) or any(held[p] for p in free) or self.used != sum(1 for h in held if h):
            raise AssertionError("allocated + free pages are not all pages")

    def _let_go(self, page):
        if page in self._wanted:
            self._kept[page] = None
        else:
            self._free.append(page)

    def _reuse(self):
        page, _ = self._kept.popitem(last=False)
        self._wanted.discard(page)
        self.forget(page)
        return page
