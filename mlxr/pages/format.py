"""A page format: an encoding of K and one of V, which make a record; and what it takes in bits."""

from dataclasses import dataclass

import mlx.core as mx

from .encoding import Encoding
from .record import RECORD_BYTES


@dataclass(frozen=True)
class PageFormat:
    """K's part of a record, then V's, then zeros up to a multiple of RECORD_BYTES. name: as a user writes it."""

    k: Encoding
    v: Encoding
    name: str

    def __eq__(self, other):
        return isinstance(other, PageFormat) and (self.k, self.v) == (other.k, other.v)

    def __hash__(self):
        return hash((self.k, self.v))

    @property
    def given(self):
        """Whether V is stored less what K, as it is stored, says of it (Calibrated.values)."""
        return self.v.given_k and self.k.before_rope

    @property
    def by_layer(self):
        """Whether what a layer has in its place is found with a calibration."""
        return self.k.by_layer or self.v.by_layer

    @property
    def needs_calibration(self):
        """Whether it cannot do without a model's calibration."""
        return self.k.before_rope or self.by_layer

    @property
    def headers(self):
        """Files of metal/include, for the kernels."""
        own = [e.header for e in (self.k, self.v) if e.header]
        pair = ["formats/given.h"] if self.given else []
        return tuple(dict.fromkeys(["pages.h", *own, *self.k.shared, *pair, *self.v.shared]))

    def defines(self, page, dk, dv):
        """Macros for the kernels: sizes, where the parts of a record lie, and what each encoding says."""
        k, v, pair = self.k.words(page, dk), self.v.words(page, dv), {"V_GIVEN": 1} if self.given else {}
        return {"DK": dk, "DV": dv, "PAGE": page, "RECORD": self.words(page, dk, dv), "AT_V": k, "AT_END": k + v,
                "K_PAGE": int(self.k.own_query), **self.k.defines(dk), **self.v.defines(dv), **pair}

    def words(self, page, dk, dv):
        """32-bit words of one record, rounded up to RECORD_BYTES."""
        words = self.k.words(page, dk) + self.v.words(page, dv)
        return -(-words * 4 // RECORD_BYTES) * RECORD_BYTES // 4

    def bits_per_element(self, page, dk, dv):
        """Of a record: codes, scales and what it is rounded up by."""
        return self.words(page, dk, dv) * 32 / (page * (dk + dv))

    def read_floats(self, page, dk, on):
        """Floats of threadgroup memory that decoding K of a page takes in attend, on a backend."""
        return self.k.given_floats(page, dk, on) if self.given else self.k.read_floats(dk, on)

    def seal_floats(self, page, dk, dv, simdgroups):
        """Floats of threadgroup memory that encoding takes in the kernel. With a V that is given K as in metal/include/formats/given.h."""
        of_k, of_v = self.k.seal_floats(page, dk, simdgroups), self.v.seal_floats(page, dv, simdgroups)
        if self.given:
            room = max(32 * dk, 32 + 2048) + 32 * dv
            of_v = min(simdgroups, 8192 // room) * room
        return max(of_k, of_v)

    def unfit(self, page, dk, dv):
        """Why it cannot store such pages, or None."""
        for part, d in ((self.k, dk), (self.v, dv)):
            why = part.unfit(page, d)
            if why:
                return f"{part.kind} in {part.label} cannot have {why}"
        if self.given and dv > 128:
            return f"V in {self.v.label} beside a calibrated K cannot have heads of {dv} elements: it takes 128 at most"
        return None

    def encode(self, k, v, at=None):
        """Records uint32 [..., words] of k [..., page, dk] and v [..., page, dv] (any floating dtype). at: see decode."""
        (page, dk), dv = k.shape[-2:], v.shape[-1]
        k, v = k.astype(mx.float32), v.astype(mx.float32)
        of_k = self.k.encode(k, **_at(self.k, at))
        if self.given:
            v = v - self.k.values(of_k, page)
        parts = [of_k, self.v.encode(v)]
        spare = self.words(page, dk, dv) - sum(p.shape[-1] for p in parts)
        return mx.concatenate([*parts, mx.zeros((*k.shape[:-2], spare), mx.uint32)], axis=-1)

    def decode(self, records, page, dk, dv, at=None):
        """(k [..., page, dk], v [..., page, dv]) in float32, from records uint32 [..., words].

        at: which page of its sequence each is, int32 of the records' shape without KV heads and words: [...] of
        [..., kv_heads, words]. A K that is stored before RoPE (Encoding.before_rope) needs it.
        """
        k = self.k.words(page, dk)
        v = records[..., k:k + self.v.words(page, dv)]
        v = self.v.decode(v, page, dv)
        if self.given:
            v = v + self.k.values(records[..., :k], page)
        return self.k.decode(records[..., :k], page, dk, **_at(self.k, at)), v


def _at(encoding, at):
    return {"at": at} if encoding.before_rope else {}


def effective_bits(specs, formats, page_size, context=None, dtype=mx.float16, sink=0):
    """Bits of an element of K and V, over all layers, everything counted: codes, scales, rounding of records; and, where
    a context (tokens) is given, the first `sink` tokens, in whole pages of 16 bits, and (dtype None: not) the tail, in which half
    a page of it lies on average, in dtype.

    specs: what layers store (kv_heads, dk, dv); formats: a PageFormat for each, or one for all.
    """
    if isinstance(formats, PageFormat):
        formats = [formats] * len(specs)
    elements = sum(s.kv_heads * (s.dk + s.dv) for s in specs)
    if not elements:
        return 0.0
    record = sum(s.kv_heads * f.words(page_size, s.dk, s.dv) * 32 for s, f in zip(specs, formats)) / (page_size * elements)
    if not context:
        return record
    tail = min(page_size / 2, context) if dtype else 0
    first = min(-(-sink // page_size) * page_size, context - tail)
    return record + (tail * (8 * dtype.size - record) if tail else 0) / context + first / context * (16 - record)
