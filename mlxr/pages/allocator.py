"""Which pages are free, and how many sequences hold each of the others. Plain ints, no mlx."""

from collections import OrderedDict, deque

from ..errors import OutOfPages


class PageAllocator:
    """Reference-counted page ids 1 .. count. Page 0 is never given out: it stays zero and pads block tables.

    firsts: so many more ids, from count + 1 on, are for the pages at the beginnings of sequences alone (pages/held.py).

    A page that nobody holds is free, and the longest unused one is reused first. Those whose content somebody may want
    again (keep) are reused last, and forget(page) is called when that happens.
    """

    def __init__(self, count, firsts=0):
        self.count, self.firsts = count, firsts
        self.forget = lambda page: None
        self._free = deque(range(1, count + 1)), deque(range(count + 1, count + firsts + 1))      # others, firsts
        self._kept = OrderedDict(), OrderedDict()  # free pages whose content may be wanted, the longest unused first
        self._wanted = set()                       # these, and pages that are still held and will be among them
        self._holders = [0] * (count + firsts + 1)

    @property
    def free(self):
        """Pages that take may give, those for beginnings not counted."""
        return len(self._free[0]) + len(self._kept[0])

    @property
    def free_firsts(self):
        """Those for beginnings."""
        return len(self._free[1]) + len(self._kept[1])

    @property
    def kept(self):
        """Free pages whose content may be wanted again."""
        return len(self._kept[0]) + len(self._kept[1])

    @property
    def used(self):
        return self.count - self.free

    def held(self, page):
        """Whether any sequence holds the page."""
        return self._holders[page] > 0

    def take(self, n, firsts=0):
        """Page ids, each held once: `firsts` of those for beginnings, then n. Raises OutOfPages, taking none, when fewer are
        free."""
        if n > self.free or firsts > self.free_firsts:
            raise OutOfPages(f"{n} pages wanted, {self.free} of {self.count} are free" + (
                f"; {firsts} for first tokens wanted, {self.free_firsts} of {self.firsts} are free" if firsts else ""))
        pages = [self._free[i].popleft() if self._free[i] else self._reuse(i) for i in [1] * firsts + [0] * n]
        for page in pages:
            self._holders[page] = 1
        return pages

    def share(self, pages):
        """Hold pages once more, or again after nobody did and they were kept."""
        for page in pages:
            if not self._holders[page]:
                if page not in self._kept[page > self.count]:
                    raise ValueError(f"page {page} is free and cannot be shared")
                del self._kept[page > self.count][page]
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
        kind = page > self.count
        if page in self._kept[kind]:
            del self._kept[kind][page]
            self._free[kind].append(page)

    def check(self, tables):
        """Raise AssertionError unless the block tables given hold exactly the pages that are not free."""
        held = [0] * (self.count + self.firsts + 1)
        for table in tables:
            for page in table:
                held[page] += 1
        if held != self._holders:
            wrong = [p for p in range(len(held)) if held[p] != self._holders[p]]
            raise AssertionError(f"pages {wrong[:8]} are counted {[self._holders[p] for p in wrong[:8]]} times, "
                                 f"but held {[held[p] for p in wrong[:8]]} times")
        free = [p for pages in (*self._free, *self._kept) for p in pages]
        used = sum(1 for h in held if h)
        if len(set(free)) != len(free) or any(held[p] for p in free) or self.count + self.firsts - len(free) != used:
            raise AssertionError("allocated + free pages are not all pages")

    def _let_go(self, page):
        if page in self._wanted:
            self._kept[page > self.count][page] = None
        else:
            self._free[page > self.count].append(page)

    def _reuse(self, kind):
        page, _ = self._kept[kind].popitem(last=False)
        self._wanted.discard(page)
        self.forget(page)
        return page
