"""A KV cache from scratch, in NumPy: contiguous, then paged, with shared heads, shared pages and 8-bit pages.

A transformer predicts token n+1 from tokens 0..n. In each attention layer, token n sends one *query* to the *keys* of
all tokens up to itself and adds up their *values*. Keys and values of old tokens never change, because no token looks
ahead. So keep them, and each new token costs one projection and one row of attention: that store is the KV cache.

    python examples/kv_cache_from_scratch.py

Letters used in shapes: T new tokens, S stored tokens, H query heads, K KV heads, G = H / K query heads that share a KV
head, D channels of a head, B sequences in a batch. Position-dependent rotation (RoPE) is applied to q and k
before they come here, so it does not appear. All arithmetic is in fp64: the functions serve as an oracle in tests.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
# ---- 1. Attention ----------------------------------------------------------------------------------------------------
def attention(q, k, v, visible, scale=None, sinks=None):
    """softmax(q k' scale) v over the visible keys. Leading axes (...) are batch axes.

    q [..., T, H, D]; k [..., S, K, D]; v [..., S, K, Dv]; visible: bool [..., T, S]; returns [..., T, H, Dv].
    sinks [H]: one extra logit per query head that takes its share of the softmax and adds nothing (as in gpt-oss).
    K = H is multi-head attention, K = 1 multi-query, anything between grouped (GQA). K and V are never repeated:
    the G query heads of a group get an axis of their own. A token that sees nothing gets zeros.
    """
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    *batch, tokens, heads, dim = q.shape
    stored, kv_heads = k.shape[-3:-1]
    scale = dim**-0.5 if scale is None else scale
    q = q.reshape(*batch, tokens, kv_heads, heads // kv_heads, dim)
    scores = np.einsum("...tkgd,...skd->...kgts", q, k) * scale
    scores = np.where(visible[..., None, None, :, :], scores, -np.inf)
    if sinks is not None:
        sinks = np.asarray(sinks, np.float64).reshape(kv_heads, -1, 1, 1)
        scores = np.concatenate([scores, np.broadcast_to(sinks, (*scores.shape[:-1], 1))], axis=-1)
    # exp() of a large score overflows. Subtracting the largest changes nothing in the quotient and keeps exp() <= 1.
    largest = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(np.isfinite(largest), largest, 0.0))
    total = weights.sum(axis=-1, keepdims=True)
    weights = weights[..., :stored] / np.where(total > 0, total, 1.0)
    return np.einsum("...kgts,...skd->...tkgd", weights, v).reshape(*batch, tokens, heads, v.shape[-1])


def causal(positions, stored, window=None):
    """bool [T, S]: which of keys 0..S-1 the tokens at these positions may see. A window keeps the newest `window`."""
    positions, keys = np.asarray(positions)[:, None], np.arange(stored)
    visible = keys <= positions
    return visible if window is None else visible & (keys > positions - window)


# ---- 2. The simplest cache: one long row per sequence ----------------------------------------------------------------
class ContiguousCache:
    """Rows of a fixed capacity, allocated at once. Simple and fast, but every row pays for the longest sequence."""

    def __init__(self, batch, capacity, kv_heads, dim):
        self.k, self.v = np.zeros((2, batch, capacity, kv_heads, dim))  # not np.empty: 0 x NaN is NaN, masked or not
        self.lengths = np.zeros(batch, int)

    def append(self, row, k, v):
        """Store k, v [T, K, D] behind the tokens of one row. Raises MemoryError when the row is full."""
        start, end = self.lengths[row], self.lengths[row] + len(k)
        if end > self.k.shape[1]:
            raise MemoryError(f"row {row} holds {self.k.shape[1]} tokens; {end} do not fit")
        self.k[row, start:end], self.v[row, start:end] = k, v
        self.lengths[row] = end

    def extend(self, row, q, k, v):
        """Prefill: append T tokens to one row and attend from them. q [T, H, D] -> [T, H, D]."""
        self.append(row, k, v)
        end = self.lengths[row]
        return attention(q, self.k[row, :end], self.v[row, :end], causal(np.arange(end - len(q), end), end))

    def decode(self, q, k, v):
        """One new token for every row, whatever its length, in one call. q [B, H, D], k, v [B, K, D] -> [B, H, D]."""
        for row in range(len(q)):
            self.append(row, k[row, None], v[row, None])
        visible = np.arange(self.k.shape[1]) < self.lengths[:, None]  # [B, S]: short rows are padded and masked
        return attention(q[:, None], self.k, self.v, visible[:, None])[:, 0]


# ---- 3. How a page is stored -----------------------------------------------------------------------------------------
class FloatPages:
    """Pages as plain numbers: "f2" is the usual 16-bit cache, "f8" changes nothing."""

    def __init__(self, dtype="f2"):
        self.dtype = dtype

    def layout(self, k_shape, v_shape):
        """The record of one page as a NumPy dtype; k_shape is (page size, K, D), v_shape (page size, K, Dv)."""
        return np.dtype([("k", self.dtype, k_shape), ("v", self.dtype, v_shape)])

    def encode(self, k, v):
        return np.array((k, v), self.layout(k.shape, v.shape))

    def decode(self, record):
        """(k, v) in fp64, of one record or of an array of records."""
        return record["k"].astype(np.float64), record["v"].astype(np.float64)


class Int8Pages:
    """Pages in 8 bits: x is stored as a code 0..255, and read as zero + scale * code (zero and scale in fp16).

    Some channels of the keys are large in every token, so each key channel has a scale of its own; values have no such
    channels, so each token has one. A scale per channel needs the whole page: hence a page is encoded once, when full.
    """

    def layout(self, k_shape, v_shape):
        page, heads, dim = k_shape
        return np.dtype([("k", "u1", k_shape), ("k_zero", "f2", (1, heads, dim)), ("k_scale", "f2", (1, heads, dim)),
                         ("v", "u1", v_shape), ("v_zero", "f2", (page, heads, 1)), ("v_scale", "f2", (page, heads, 1))])

    def encode(self, k, v):
        record = np.zeros((), self.layout(k.shape, v.shape))
        for name, x, axis in (("k", k, 0), ("v", v, 2)):
            zero = x.min(axis, keepdims=True).astype(np.float16).astype(np.float64)
            scale = ((x.max(axis, keepdims=True) - zero) / 255).astype(np.float16).astype(np.float64)
            codes = np.rint((x - zero) / np.where(scale > 0, scale, 1.0))
            record[name], record[name + "_zero"], record[name + "_scale"] = np.clip(codes, 0, 255), zero, scale
        return record

    def decode(self, record):
        return tuple(record[n] * record[n + "_scale"].astype(np.float64) + record[n + "_zero"] for n in ("k", "v"))


# ---- 4. The paged cache ----------------------------------------------------------------------------------------------
@dataclass(eq=False)
class Sequence:
    """One sequence's place in the cache: its sealed pages in order (the block table), and a slot for the tail."""

    slot: int
    length: int = 0
    table: list = field(default_factory=list)


class PagedCache:
    """One layer's cache: a fixed pool of pages that all sequences share, and a full-precision tail for each sequence.

    New tokens go to the tail. A full tail is *sealed*: encoded once into a free page, which never changes again. So
    sequences with a common beginning can hold the same pages, and a reference count says when a page is free.
    """

    def __init__(self, pages, slots, page_size, kv_heads, dim, form=None):
        self.page_size, self.form = page_size, form or FloatPages("f2")
        shape = (page_size, kv_heads, dim)
        self.pool = np.zeros(pages, self.form.layout(shape, shape))  # the only large array, never reallocated
        self.k_tail, self.v_tail = np.zeros((2, slots, *shape))
        self.references = np.zeros(pages, int)
        self.free_pages, self.free_slots = list(range(pages))[::-1], list(range(slots))[::-1]  # taken from the end
        self.sequences = []

    def open(self):
        """A new, empty Sequence. Raises MemoryError when all tail slots are taken."""
        if not self.free_slots:
            raise MemoryError(f"all {len(self.k_tail)} tail slots are in use; close a sequence first")
        self.sequences.append(Sequence(self.free_slots.pop()))
        return self.sequences[-1]

    def fork(self, parent):
        """A second sequence with the same history: pages are shared, only the tail (less than a page) is copied."""
        child = self.open()
        child.length, child.table = parent.length, list(parent.table)
        self.references[child.table] += 1
        self.k_tail[child.slot], self.v_tail[child.slot] = self.k_tail[parent.slot], self.v_tail[parent.slot]
        return child

    def close(self, sequence):
        """Give back the slot, and those pages that no other sequence holds."""
        self.sequences.remove(sequence)
        self.free_slots.append(sequence.slot)
        self.references[sequence.table] -= 1
        self.free_pages += [page for page in sequence.table if self.references[page] == 0]

    def extend(self, sequence, q, k, v, window=None):
        """Append T tokens and attend from them: T > 1 is (chunked) prefill, T = 1 is decode.

        q [T, H, D], k, v [T, K, D] -> [T, H, D]. Raises MemoryError, and changes nothing, when pages are short.
        A token sees all earlier pages as stored and its own page exactly. The walk below goes page by page and seals
        after attending, so it gives the same answer however the tokens were cut into chunks.
        """
        wanted = (sequence.length + len(q)) // self.page_size - len(sequence.table)
        if wanted > len(self.free_pages):
            raise MemoryError(f"{wanted} pages are needed and {len(self.free_pages)} of {len(self.pool)} are free")
        out, done, slot = np.zeros(q.shape), 0, sequence.slot
        while done < len(q):
            start, filled = sequence.length, sequence.length % self.page_size
            count = min(len(q) - done, self.page_size - filled)  # never across the end of a page
            part, filled = slice(done, done + count), filled + count
            self.k_tail[slot, filled - count : filled] = k[part]
            self.v_tail[slot, filled - count : filled] = v[part]
            k_pages, v_pages = self.form.decode(self.pool[sequence.table])  # [pages, page size, K, D], in table order
            keys = np.concatenate([k_pages.reshape(-1, *k.shape[1:]), self.k_tail[slot, :filled]])
            values = np.concatenate([v_pages.reshape(-1, *v.shape[1:]), self.v_tail[slot, :filled]])
            out[part] = attention(q[part], keys, values, causal(np.arange(start, start + count), len(keys), window))
            if filled == self.page_size:
                page = self.free_pages.pop()
                self.pool[page] = self.form.encode(self.k_tail[slot], self.v_tail[slot])
                self.references[page] = 1
                sequence.table.append(page)
            sequence.length, done = start + count, done + count
        return out

    def decode(self, sequences, q, k, v):
        """One new token for each sequence, of any lengths: nothing is padded. q [B, H, D], k, v [B, K, D]."""
        return np.concatenate([self.extend(s, q[b, None], k[b, None], v[b, None]) for b, s in enumerate(sequences)])

    def check(self):
        """(allocated, free) pages. Raises RuntimeError when a page was lost, freed twice, or miscounted."""
        held = Counter(page for sequence in self.sequences for page in sequence.table)
        if any(held[page] != count for page, count in enumerate(self.references)):
            raise RuntimeError("a reference count differs from the number of block tables that hold the page")
        if sorted([*held, *self.free_pages]) != list(range(len(self.pool))):
            raise RuntimeError("allocated and free pages are not all pages, each once")
        return len(held), len(self.free_pages)


# ---- 5. The same meaning without any cache: the oracle ---------------------------------------------------------------
def paged_attention(q, k, v, positions, page_size, stored=lambda k, v: (k, v), window=None, sinks=None, scale=None):
    """What any paged attention must return, computed from one sequence's plain history.

    q [T, H, D], the tokens at `positions` [T], in any order; k [S, K, D], v [S, K, Dv]: the history, with
    S > max(positions); returns fp64 [T, H, Dv]. `stored` takes k and v of one complete page ([page_size, K, D]) to what
    reading that page gives; the default stores exactly.
    A token at position p attends to pages 0 .. p // page_size - 1 as stored, and to its own page, up to p, exactly.
    """
    positions, (q, k, v) = np.asarray(positions), (np.asarray(x, np.float64) for x in (q, k, v))
    if len(positions) and not 0 <= positions.min() <= positions.max() < len(k):
        raise ValueError(f"positions must lie in 0 .. {len(k) - 1}, the history that was given")
    k_read, v_read = k.copy(), v.copy()
    for start in range(0, len(k) - page_size + 1, page_size):
        page = slice(start, start + page_size)
        k_read[page], v_read[page] = stored(k[page], v[page])
    out = np.zeros((*q.shape[:2], v.shape[-1]))
    for first in np.unique(positions // page_size) * page_size:
        rows, end = positions // page_size == first // page_size, first + page_size
        keys, values = (np.concatenate([a[:first], b[first:end]]) for a, b in ((k_read, k), (v_read, v)))
        out[rows] = attention(q[rows], keys, values, causal(positions[rows], len(keys), window), scale, sinks)
    return out


def cache_bytes(tokens, layers, kv_heads, dim, form=FloatPages("f2"), page_size=64):
    """Bytes of the K and V of so many tokens (whole pages) over all layers."""
    shape = (page_size, kv_heads, dim)
    return -(-tokens // page_size) * form.layout(shape, shape).itemsize * layers


# ---- 6. A demonstration ----------------------------------------------------------------------------------------------
def main():
    random = np.random.default_rng(0)
    heads, kv_heads, dim, page_size, n = 8, 2, 64, 16, 100
    x = random.normal(size=(n, 256))  # what a layer gets: one vector per token
    wq, wk, wv = (random.normal(size=(256, h, dim)) / 16 for h in (heads, kv_heads, kv_heads))
    q, k, v = (np.einsum("tw,whd->thd", x, w) for w in (wq, wk, wv))
    k += 4 * random.normal(size=dim)  # real keys have channels that are large in every token
    exact = attention(q, k, v, causal(np.arange(n), n))
    print(f"A layer: {heads} query heads and {kv_heads} KV heads of {dim} channels; {n} tokens, pages of {page_size}")

    print("\nWhy a cache: old keys and values never change")
    cache = ContiguousCache(1, n, kv_heads, dim)
    steps = np.concatenate([cache.decode(q[t, None], k[t, None], v[t, None]) for t in range(n)])
    print(f"  keys and values computed to generate {n} tokens: {n * (n + 1) // 2:,} without a cache, {n} with it")
    print(f"  one token at a time, against all at once: the outputs differ by {np.abs(steps - exact).max():.1g}")

    print("\nPages: the same answer, however a prompt is cut into chunks (what differs is fp64 rounding)")
    for chunk in (1, 30, n):
        paged = PagedCache(20, 4, page_size, kv_heads, dim, FloatPages("f8"))
        one = paged.open()
        out = np.concatenate([paged.extend(one, *(a[t : t + chunk] for a in (q, k, v))) for t in range(0, n, chunk)])
        print(f"  chunks of {chunk:3}, against all at once: the outputs differ by {np.abs(out - exact).max():.1g}")

    print("\nPages: nothing is reserved, and a common beginning is kept once")
    two, three = paged.fork(one), paged.open()
    paged.extend(two, q[:16], k[:16], v[:16])
    paged.extend(three, q[:20], k[:20], v[:20])
    for name, sequence in (("a prompt", one), ("its fork", two), ("another", three)):
        print(f"  {name}, {sequence.length:3} tokens: pages {sequence.table}, {sequence.length % 16} in the tail")
    for step, sequence in (("all open:", None), ("a prompt closed:", one), ("its fork closed:", two)):
        if sequence:
            paged.close(sequence)
        print("  {:17}{} pages allocated + {:2} free = {}".format(step, *paged.check(), len(paged.pool)))

    print("\nSmaller pages: what rounding costs")
    for name, form in (("fp16", FloatPages("f2")), ("int8", Int8Pages())):
        pages = PagedCache(20, 1, page_size, kv_heads, dim, form)
        out, (k_read, v_read) = pages.extend(pages.open(), q, k, v), form.decode(pages.pool[0])
        errors = [np.abs(a - b).max() for a, b in ((k_read, k[:page_size]), (v_read, v[:page_size]), (out, exact))]
        print(f"  {name}, {8 * pages.pool.itemsize / (2 * k_read.size):4.1f} bits an element: "
              "largest error in K {:.4f}, in V {:.4f}, in the output {:.4f}".format(*errors))

    print("\nFewer KV heads: 32 layers, 32 query heads of 128 channels, 8,192 tokens")
    full = cache_bytes(8192, 32, 32, 128)
    for shared, name in ((32, "multi-head: "), (4, "grouped:    "), (1, "multi-query:")):
        sizes = [cache_bytes(8192, 32, shared, 128, form) for form in (FloatPages(), Int8Pages())]
        text = [f"{size / 2**20:5,.0f} MiB ({1 - size / full:5.1%} saved)" for size in sizes]
        print(f"  {shared:2} KV heads, {name} {text[0]} in fp16, {text[1]} in int8")


if __name__ == "__main__":
    main()
