"""The page pool: every layer's records and tails, allocated once; seals and tail writes go through here."""

import copy
from dataclasses import dataclass

import mlx.core as mx

from ..errors import UnsupportedModel
from ..kernels.recording import write_rows
from ..kernels.seal import gather_plain, seal
from ..memory import per_layer
from .held import Held, HeldLayer, held_dtype


@dataclass(frozen=True)
class LayerSpec:
    """What one attention layer stores for a token: kv_heads heads of dk (K) and dv (V) elements each."""

    kv_heads: int
    dk: int
    dv: int


class LayerPool:
    """One layer's pool uint32 [1 + pages, kv_heads, words] and tails [slots * page_size, kv_heads, dk | dv].

    Page 0 stays zero: block tables are padded with it. held: a HeldLayer, or None.
    """

    def __init__(self, spec, page_format, page_size, pages, dtype, held=None):
        self.spec, self.format, self.page_size, self.dtype = spec, page_format, page_size, dtype
        self.words = page_format.words(page_size, spec.dk, spec.dv)
        self.records = mx.zeros((1 + pages, spec.kv_heads, self.words), mx.uint32)
        self.k_tail = self.v_tail = None
        self.held = held
        self.grow(1)

    def grow(self, slots):
        """Make room for that many tail slots, keeping what the tails hold."""
        for name, dim in (("k_tail", self.spec.dk), ("v_tail", self.spec.dv)):
            tail = getattr(self, name)
            missing = slots * self.page_size - (0 if tail is None else tail.shape[0])
            spare = mx.zeros((missing, self.spec.kv_heads, dim), self.dtype)
            setattr(self, name, spare if tail is None else mx.concatenate([tail, spare]))

    def write(self, batch, k, v):
        """Take a batch's new k [T, kv_heads, dk] and v [T, kv_heads, dv]: seal the pages they complete, keep the rest.

        Returns the tails as they were before, which the batch's attention still reads.
        """
        before = self.k_tail, self.v_tail
        self.seal(batch, k, v)
        self.keep(batch, k, v, after=k)
        return before

    def seal(self, batch, k, v):
        """Seal the pages that a batch's new k and v complete, unless that is done later."""
        if not batch.late:
            self._seal(batch, batch.seal_rows, batch.first_rows, self.k_tail, self.v_tail, k, v)

    def seal_tails(self, batch, after):
        """Seal the pages that a batch completes from the tails alone, once `after` is computed: what wrote them there."""
        k, v = mx.depends([self.k_tail, self.v_tail], [after])
        self._seal(batch, *batch.full_tails, k, v, k, v)

    def sealed_from_tails(self, batch):
        """The records with the pages that a batch completes, none of them held, sealed from the tails; nothing is changed yet."""
        records = copy.copy(self.records)            # an update changes all names of an array
        return seal(records, self.format, self.page_size, batch.seal_pages, batch.full_tails[0], self.k_tail, self.v_tail,
                    self.k_tail, self.v_tail, batch.seal_numbers)

    def _seal(self, batch, rows, first_rows, k_tail, v_tail, k, v):
        # One update of the pool a step, and no other name for it: MLX then reuses its buffer.
        if batch.seal_pages is not None:
            self.records = seal(self.records, self.format, self.page_size, batch.seal_pages, rows, k_tail, v_tail, k, v,
                                batch.seal_numbers)
        if batch.first_slots is not None:
            plain = (gather_plain(first_rows, *x).reshape(-1, self.page_size, *x[0].shape[1:]).swapaxes(1, 2)
                     for x in ((k_tail, k), (v_tail, v)))
            self.held.put(batch.first_slots, *plain, first=True)

    def keep(self, batch, k, v, after):
        """Put what is left of a batch's k and v into the tails. after: the array whose computation reads the old tails."""
        rows, source = batch.in_tails if batch.late else (batch.tail_rows, batch.tail_source)
        if rows is not None:
            self.k_tail = write_rows(self.k_tail, rows, source, k, after)
            self.v_tail = write_rows(self.v_tail, rows, source, v, after)

    @property
    def arrays(self):
        return [self.records, self.k_tail, self.v_tail, *([self.held.numbers] if self.held else [])]

    def decode(self, found):
        """Decode pages of the pool into their slots: found as Held.wanted gives it."""
        pages, numbers, slots = (mx.array(x, mx.int32) for x in zip(*found))
        plain = self.format.decode(self.records[pages], self.page_size, self.spec.dk, self.spec.dv, numbers)
        self.held.put(slots, *plain)


def check_formats(stored, formats, page_size):
    """Raise UnsupportedModel where a format cannot store a layer's heads. Of layers that store something, one format each."""
    for i, (spec, page_format) in enumerate(zip(stored, formats)):
        why = page_format.unfit(page_size, spec.dk, spec.dv)
        if why:
            raise UnsupportedModel(f"layer {i} does not fit page format {page_format.name}: {why}; use --kv f16, or f32, "
                                   "which takes any")


class PagePool:
    """All layers' pools. specs: a LayerSpec for each layer, None for one that stores nothing (it shares another's K and V).

    formats: a PageFormat for each layer that stores something, in order, or one for all. pages: how many each layer has,
    page 0 not counted. dtype: of the tails. held: (first, firsts, decoded) of a Held, where pages are held (pages/held.py).
    Raises UnsupportedModel where a format cannot store a layer's heads.
    """

    def __init__(self, specs, formats, page_size, pages, dtype, held=None):
        stored = [s for s in specs if s]
        formats = per_layer(formats, stored)
        check_formats(stored, formats, page_size)
        self.specs, self.formats, self.page_size, self.pages, self.slots = specs, formats, page_size, pages, 1
        self.held = None
        layers = [None] * len(stored)
        if held:
            first, firsts, decoded = held
            self.held = Held(first, firsts, pages, decoded)
            layers = [HeldLayer(s, f, page_size, firsts + decoded, held_dtype(dtype, decoded)) for s, f in zip(stored, formats)]
        self.layers = [LayerPool(s, f, page_size, pages, dtype, h) for s, f, h in zip(stored, formats, layers)]
        mx.eval(self.arrays)

    @property
    def arrays(self):
        return [a for layer in self.layers for a in layer.arrays]

    @property
    def nbytes(self):
        return sum(a.nbytes for a in self.arrays)

    def prepare(self, works, few):
        """Before a step: decode some pages that works of `few` tokens at most will read, where decoded pages are kept."""
        if not self.held:
            return
        size = self.page_size
        for work in works:
            self.held.forget(work.pages[work.start // size:(work.start + work.count) // size])
        found = self.held.wanted([w.pages[:w.start // size] for w in works if w.count <= few])
        if found:
            mx.synchronize()                 # an update takes over an array's memory when nobody reads it
            for layer in self.layers:
                layer.decode(found)
            mx.eval([layer.held.numbers for layer in self.layers])

    def reserve(self, slots, now=False):
        """Make room for that many tail slots in every layer, with the next step or now."""
        if slots > self.slots:
            for layer in self.layers:
                layer.grow(slots)
            self.slots = slots
        if now:
            mx.eval(self.arrays)
