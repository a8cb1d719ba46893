"""The prefix cache: which pages, and which tail, already hold the K and V of a prompt's beginning. Plain ints, no mlx.

A sealed page never changes and depends on the tokens up to its end alone, so any sequence that begins with these tokens
may read it. Its key is a hash of the key before it and its own tokens; the first key is a hash of the salt. Pages that
nobody holds stay known until the allocator gives them to someone else, the longest unused first: they are free memory.
The tail of an ended sequence stays known until its slot is taken.
"""

import hashlib
from array import array
from collections import OrderedDict
from dataclasses import dataclass, field

REMEMBERED = 1 << 16      # keys of lost pages that are remembered, to tell why a prompt was not found


@dataclass(frozen=True)
class Match:
    """What is there of a prompt: its first pages, and `tail` more tokens in tail slot `slot` (-1: none)."""

    pages: list = field(default_factory=list)
    slot: int = -1
    tail: int = 0
    lost: bool = False     # the next page was known once, and was given to someone else

    def note(self, tokens, page_size):
        """Why no more of a prompt of that many tokens was found; empty where almost all of it was."""
        found = len(self.pages) * page_size + self.tail
        if found >= tokens - page_size:
            return ""
        if self.lost:
            return f"after {found} tokens: the pages that followed were given to other requests since"
        return f"after {found} tokens: no earlier request goes on like this" if found else "no earlier request begins like this"


def extend_keys(keys, tokens, page_size, salt=""):
    """Append to keys (bytes, one a page) those of the complete pages of tokens that it lacks."""
    before = keys[-1] if keys else hashlib.blake2b(salt.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    for start in range(len(keys) * page_size, len(tokens) - page_size + 1, page_size):
        own = array("i", tokens[start:start + page_size]).tobytes()
        before = hashlib.blake2b(before + own, digest_size=16).digest()
        keys.append(before)


class PrefixCache:
    """Keys of the pages of one allocator, and of the tails that its sequences left behind."""

    def __init__(self, allocator, page_size):
        self.allocator, self.page_size = allocator, page_size
        allocator.forget = self._forget
        self._page, self._key = {}, {}           # key -> page, and back
        self._tails = {}                         # slot -> (what stands before it, its tokens)
        self._lost = OrderedDict()
        self.on_learn = lambda key, page: None   # called when a page can be found from now on,
        self.on_forget = lambda key: None        # and when it cannot any more
        self.evicted = 0                         # pages that were known and given to someone else

    @property
    def known(self):
        """Pages that can be found."""
        return len(self._page)

    def knows(self, key):
        """Whether a page can be found. Any thread may ask."""
        return key in self._page

    def pages(self, keys):
        """The pages of keys that are known."""
        return [self._page[key] for key in keys]

    def know(self, key, page):
        """Find a page, which somebody holds, by its key from now on. Returns whether it was not found before."""
        if key in self._page or page in self._key:
            return False
        self._page[key], self._key[page] = page, key
        self._lost.pop(key, None)
        self.allocator.keep(page)
        return True

    def find(self, sequence, slots):
        """The Match of a sequence's tokens, short of the last one, whose logits are wanted. slots: those that are free."""
        size, tokens = self.page_size, sequence.tokens
        extend_keys(sequence.keys, tokens, size, sequence.salt)
        pages = []
        for key in sequence.keys[:(len(tokens) - 1) // size]:
            if key not in self._page:
                return Match(pages, *self._tail(sequence, len(pages), slots), lost=key in self._lost)
            pages.append(self._page[key])
        return Match(pages, *self._tail(sequence, len(pages), slots))

    def learn(self, sequence, computed):
        """Know the pages that a sequence holds of its first `computed` tokens, those it was given included."""
        whole = min(computed, len(sequence.tokens)) // self.page_size
        if whole > sequence.learned:
            extend_keys(sequence.keys, sequence.tokens, self.page_size, sequence.salt)
            for key, page in zip(sequence.keys[sequence.learned:whole], sequence.pages[sequence.learned:whole]):
                if self.know(key, page):
                    self.on_learn(key, page)
            sequence.learned = whole

    def learn_tail(self, sequence, computed):
        """Know what an ended sequence leaves in its tail slot."""
        known = min(computed, len(sequence.tokens))
        whole = known // self.page_size
        if known % self.page_size:
            self._tails[sequence.slot] = self._place(sequence, whole), sequence.tokens[whole * self.page_size:known]

    def forget_tail(self, slot):
        """The slot is somebody's now."""
        self._tails.pop(slot, None)

    def clear(self):
        """Forget everything. Pages that nobody holds are plain free pages again."""
        for page in list(self._key):
            self.allocator.drop(page)
            key = self._key.pop(page)
            del self._page[key]
            self.on_forget(key)
        self._tails.clear()

    def _place(self, sequence, whole):
        """What stands before a tail: the salt, and the key of its `whole` pages."""
        return sequence.salt, sequence.keys[whole - 1] if whole else b""

    def _tail(self, sequence, whole, slots):
        """(slot, tokens) of the free slot whose tail goes on longest as the sequence does after `whole` pages."""
        place, best = self._place(sequence, whole), (-1, 0)
        wanted = sequence.tokens[whole * self.page_size:][:-1]
        for slot in slots:
            there, tokens = self._tails.get(slot, (None, ()))
            if there == place:
                same = next((i for i, (a, b) in enumerate(zip(tokens, wanted)) if a != b), min(len(tokens), len(wanted)))
                best = max(best, (slot, same), key=lambda x: x[1])
        return best

    def _forget(self, page):
        key = self._key.pop(page)
        del self._page[key]
        self.on_forget(key)
        self.evicted += 1
        self._lost[key] = None
        if len(self._lost) > REMEMBERED:
            self._lost.popitem(last=False)
