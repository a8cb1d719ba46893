"""From a Plan to a Batch: the only border between plain ints and arrays (the bridge from pager to page arrays)."""

from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

import mlx.core as mx
import numpy as np

# Columns of Part.sequences.
ROW, COUNT, START, SLOT, COMPLETE, OUT = range(6)
FEW = 8   # new tokens of a sequence that decode kernels take, where nothing else is said; more are a chunk of a prompt


@dataclass
class Part:
    """Sequences of a batch that one launch of a kernel takes: those with one new token, with few, or with many.

    sequences int32 [B, 8]: ROW of the first new token, COUNT of new tokens, START (position of the first), tail SLOT,
    COMPLETE pages (those sealed by this step included), OUT (the first token's row of the launch's output), two spare.
    table int32 [B, W]: page ids, W a power of two, 8 or more; what a sequence does not have is page 0, which stays zero.
    rows: new tokens in all. most: of one sequence. chunks: whether these are the sequences with many.
    slots int32 [B, W]: where these pages are held as plain numbers (pages/held.py), or 0; None where no pages are.
    """

    works: list
    sequences: mx.array
    table: mx.array
    rows: int
    most: int
    chunks: bool
    slots: mx.array | None = None
    launches: dict = field(default_factory=dict)   # what a kernel worked out for this part, by the kernel's key


@dataclass
class Batch:
    """One step's arrays: B sequences, T new tokens, S of them sampled from, P pages completed, U tail rows written.

    All int32. tokens, positions [T]; a sequence's tokens are consecutive. sampled [S]: rows of tokens, or None.
    seal_pages [P]: page ids, or None. seal_rows [P * page_size]: their tokens, as rows of the tails (below
    slots * page_size) or, from there on, of the new tokens. seal_numbers [P, but 8 or more]: which page of its sequence each is.
    first_slots, first_rows: the same of pages that are held in place of records (held: a Held, or None): their slots.
    tail_rows [U], tail_source [U]: rows of the tails that are written, and the new tokens they get; or None.
    slots: tail slots there are. start: position of the first token where the batch is one sequence, else None. few: new
    tokens of a sequence that decode kernels take. settle: called, where it is there, before a graph is built in place of a replay.
    late: whether pages are sealed after all else, from the tails.
    """

    page_size: int
    slots: int
    works: list
    tokens: mx.array
    positions: mx.array
    sampled: mx.array | None
    seal_pages: mx.array | None
    seal_rows: mx.array | None
    seal_numbers: mx.array | None
    tail_rows: mx.array | None
    tail_source: mx.array | None
    start: int | None = None
    held: object = None
    first_slots: mx.array | None = None
    first_rows: mx.array | None = None
    few: int = FEW
    settle: object = None
    late: bool = False
    shared: dict = field(default_factory=dict)     # what all layers use and the first of them computed

    @cached_property
    def starts(self):
        """Row of the first new token of each sequence."""
        return [0, *accumulate(w.count for w in self.works)][:-1]

    @cached_property
    def embeds(self):
        """Whether hidden states are wanted of rows that are sampled from."""
        return any(w.sample and w.sequence.embed for w in self.works)

    @property
    def completes(self):
        """Whether a page is complete now."""
        return self.seal_pages is not None or self.first_slots is not None

    @cached_property
    def all_sampled(self):
        """Whether every row is sampled from."""
        return self.sampled is not None and self.sampled.size == self.tokens.size

    @cached_property
    def in_pages(self):
        """Whether no sequence's new tokens lie in more than one page, so that all fit into its tail."""
        return all(w.start % self.page_size + w.count <= self.page_size for w in self.works)

    @cached_property
    def host_positions(self):
        """positions as a NumPy array, int32 [T]."""
        return np.concatenate([np.arange(w.start, w.start + w.count, dtype=np.int32) for w in self.works])

    @cached_property
    def in_tails(self):
        """(tail_rows, tail_source) where each new token goes to its tail, also one that completes a page."""
        if not self.completes:
            return self.tail_rows, self.tail_source
        rows = [w.slot * self.page_size + i % self.page_size for w in self.works for i in range(w.start, w.start + w.count)]
        return _ints(rows), _ints(range(len(rows)))

    @cached_property
    def full_tails(self):
        """seal_rows of pages that lie whole in their tails, where all is `in_pages`; and first_rows."""
        size, rows = self.page_size, ([], [])
        for w in self.works:
            if (w.start + w.count) % size == 0:
                rows[self.held is not None and w.start // size < self.held.first].extend(range(w.slot * size, (w.slot + 1) * size))
        return _ints(rows[0]), _ints(rows[1])

    @cached_property
    def parts(self):
        """([Part, ...], order): sequences with one new token (where others may have more than FEW: a CPU computes as much for
        the shortest of a part as for the longest), then those with few, then those with many. order: rows of the parts'
        concatenated outputs that make the batch's, or None where these are the batch's as they are."""
        one = 1 if self.few > FEW else 0
        kind_of = [(w.count > one) + (w.count > self.few) for w in self.works]
        kinds = [[i for i, k in enumerate(kind_of) if k == kind] for kind in range(3)]
        parts = [_part([self.works[i] for i in kind], [self.starts[i] for i in kind], self) for kind in kinds if kind]
        rows = [self.starts[i] + t for kind in kinds for i in kind for t in range(self.works[i].count)]
        order = None if rows == list(range(len(rows))) else _ints(np.argsort(rows))
        return parts, order

    @cached_property
    def longest(self):
        """(new tokens, tokens in all) of the sequences that have the most."""
        return max(w.count for w in self.works), max(w.start + w.count for w in self.works)

    @cached_property
    def groups(self):
        """The same as dense arrays, for the plain MLX twins: sequences with equal numbers of new tokens together."""
        by_count, row = {}, 0
        for work in self.works:
            by_count.setdefault(work.count, []).append((row, work))
            row += work.count
        return [make_group(members, self.page_size, self.slots, len(by_count) == 1, self.held) for members in by_count.values()]


def _sequences(works, starts, page_size):
    rows, out = np.zeros((len(works), 8), np.int32), 0
    for i, (w, row) in enumerate(zip(works, starts)):
        rows[i, :6] = row, w.count, w.start, w.slot, (w.start + w.count) // page_size, out
        out += w.count
    return mx.array(rows)


def _table(works, place=None):
    """int32 [B, W] of the works' pages; of what place(page) gives for each."""
    wide = max(8, *(len(w.pages) for w in works))
    table = np.zeros((len(works), 1 << (wide - 1).bit_length()), np.int32)
    for i, w in enumerate(works):
        table[i, :len(w.pages)] = [place(p) for p in w.pages] if place else w.pages
    return mx.array(table)


def _part(works, starts, batch):
    counts, held = [w.count for w in works], batch.held
    return Part(works, _sequences(works, starts, batch.page_size), _table(works, held and held.record), sum(counts), max(counts),
                max(counts) > batch.few, held and _table(works, held.slot))


def tail_slots(needed, most=None):
    """Tail slots to keep for slot numbers below `needed`: a power of two, or `most` where that is less."""
    slots = 1 << (max(needed, 1) - 1).bit_length()
    return slots if most is None else min(slots, max(needed, most))


def _plain_rows(work, row, page_size, slots):
    """Where the plain K and V of the pages that a work touches lie, numbered as Batch.seal_rows."""
    old, new = work.slot * page_size, slots * page_size + row
    return [*range(old, old + work.start % page_size), *range(new, new + work.count)]


def build_batch(works, page_size, slots, previous=None, held=None, few=FEW):
    """The Batch of some works (of one plan). slots: tail slots there are now; previous: the last step's tokens [S]; held: a
    Held, where there are held pages; few: as of Batch."""
    host, source, positions, sampled = [], [], [], []
    seal_pages, seal_rows, seal_numbers, tail_rows, tail_source, first_slots, first_rows = [], [], [], [], [], [], []
    for work in works:
        row, end = len(positions), work.start + work.count
        tokens = work.sequence.tokens[work.start:end]
        host += tokens + [0] * (work.count - len(tokens))
        source += [-1] * (work.count - 1) + [work.source]
        positions += range(work.start, end)
        if work.sample or work.every:
            sampled += range(row if work.every else row + work.count - 1, row + work.count)
        first, complete = work.start // page_size, end // page_size
        if complete > first:
            rows = _plain_rows(work, row, page_size, slots)[:(complete - first) * page_size]
            apart = max(first, min(complete, held.first)) if held else first       # pages before this one are held
            first_slots += [held.slot(page) for page in work.pages[first:apart]]
            first_rows += rows[:(apart - first) * page_size]
            seal_pages += work.pages[apart:complete]
            seal_numbers += range(apart, complete)
            seal_rows += rows[(apart - first) * page_size:]
        left = end % page_size if complete > first else work.count       # new tokens that stay in the tail
        tail = work.slot * page_size + end % page_size
        tail_rows += range(tail - left, tail)
        tail_source += range(row + work.count - left, row + work.count)
    tokens = _tokens(host, source, previous)
    if seal_numbers:
        seal_numbers += [0] * (8 - len(seal_numbers))        # what a Metal kernel reads has 8 elements or more
    return Batch(page_size, slots, works, tokens, _ints(positions), _ints(sampled), _ints(seal_pages), _ints(seal_rows),
                 _ints(seal_numbers), _ints(tail_rows), _ints(tail_source), works[0].start if len(works) == 1 else None,
                 held, _ints(first_slots), _ints(first_rows), few)


def _tokens(host, source, previous):
    """int32 [T]: the host's tokens, but previous[source] where source is not negative."""
    late = [] if previous is None else [s for s in source if s >= 0]
    if not late:
        return mx.array(np.array(host, np.int32))
    if late == list(range(previous.size)) and len(late) == len(source):
        return previous
    source = mx.array(np.array(source, np.int32))
    if len(late) == source.size:
        return previous[source]
    return mx.where(source >= 0, previous[mx.maximum(source, 0)], mx.array(np.array(host, np.int32)))


def _ints(values):
    return mx.array(np.array(values, np.int32)) if len(values) else None


@dataclass
class Group:
    """Sequences of a batch that have the same number of new tokens, so that they make dense arrays.

    B sequences of n tokens, W pages at most, M plain tokens at most. All int32.
    rows  [B, n]: rows of the batch's tokens.        query [B, n]: their positions.
    table [B, W]: complete pages, padded with page 0. pages [B]: how many are complete. firsts [B, F]: slots of the first F
    of them, which are held in place of records; None where none are.
    own   [B, M]: where the plain K and V of the pages touched now lie, numbered as Batch.seal_rows.
    key   [B, M]: their positions, -1 for padding.   whole: the group is the whole batch, in order.
    """

    rows: mx.array
    query: mx.array
    table: mx.array
    pages: mx.array
    own: mx.array
    key: mx.array
    whole: bool
    firsts: mx.array | None = None
    masks: dict = field(default_factory=dict)

    def mask(self, page_size, window):
        """bool [B, 1, n, W * page_size + M]: which stored, then which plain tokens each new token attends to."""
        if window not in self.masks:
            query = self.query[:, :, None]
            stored = mx.arange(self.table.shape[1] * page_size)[None, None]
            key = self.key[:, None]
            page = query // page_size
            # Earlier complete pages as stored; the token's own page exactly.
            see_stored = (stored // page_size < page) & (stored // page_size < self.pages[:, None, None])
            see_own = (key >= 0) & (key // page_size == page) & (key <= query)
            if window is not None:
                see_stored &= stored > query - window
                see_own &= key > query - window
            self.masks[window] = mx.concatenate([see_stored, see_own], axis=-1)[:, None]
        return self.masks[window]


def make_group(members, page_size, slots, whole, held=None):
    """The Group of [(row, work)] that all have the same count."""
    plain = [_plain_rows(work, row, page_size, slots) for row, work in members]
    complete = [(w.start + w.count) // page_size for _, w in members]
    wide, long = max(complete), max(map(len, plain))
    table, own, key = (np.zeros((len(members), n), np.int32) for n in (wide, long, long))
    key[:] = -1
    for i, (_, work) in enumerate(members):
        table[i, :complete[i]] = work.pages[:complete[i]]
        own[i, :len(plain[i])] = plain[i]
        first = work.start // page_size * page_size
        key[i, :len(plain[i])] = range(first, first + len(plain[i]))
    steps = np.arange(members[0][1].count, dtype=np.int32)
    rows = np.array([r for r, _ in members], np.int32)[:, None] + steps
    query = np.array([w.start for _, w in members], np.int32)[:, None] + steps
    firsts = None
    if held and min(held.first, wide):
        firsts = mx.array(np.where(table > held.base, table - held.base, 0)[:, :held.first])
        table = np.where(table > held.base, 0, table)
    return Group(mx.array(rows), mx.array(query), mx.array(table), _ints(complete), mx.array(own), mx.array(key), whole, firsts)
