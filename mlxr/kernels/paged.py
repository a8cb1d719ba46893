"""What the paged kernels (attend, prefill, seal) are specialised by, and what they do not take."""

import functools
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from .host_call import ELEMENT_OF

FLOATS = ("float", "half", "bfloat16_t")


@dataclass(frozen=True)
class PagedShape:
    """One layer's attention: its page format and page size, head counts and sizes, element types, scale, sinks; the type of held
    pages (pages/held.py), where there are any."""

    format: Any
    page: int
    kv_heads: int
    group: int      # query heads of a KV head
    dk: int
    dv: int
    q_type: str     # of q and the output
    kv_type: str    # of tails, k and v
    scale: float = 1.0
    sinks: bool = False
    held: str = ""

    @functools.cached_property
    def defines(self):
        held = {"HELD": 1, "HTYPE": self.held} if self.held else {}
        return {**held, **self.format.defines(self.page, self.dk, self.dv), "QTYPE": self.q_type, "KVTYPE": self.kv_type, "SCALE": f"{self.scale!r}f", "SINKS": int(self.sinks)}

    @functools.cached_property
    def inputs(self):
        return [("records", "uint"), ("table", "int"), ("sequences", "int"), ("q", self.q_type),
                *((n, self.kv_type) for n in ("k_tail", "v_tail", "k", "v")),
                *([("sinks", "float")] if self.sinks else []), *([("tables", "float")] if self.format.k.before_rope else []),
                *([("slots", "int"), ("held", self.held)] if self.held else [])]

    @property
    def headers(self):
        return (*self.format.headers, "held.h") if self.held else self.format.headers

    @property
    def q_dtype(self):
        return {"float": mx.float32, "half": mx.float16, "bfloat16_t": mx.bfloat16}[self.q_type]


@functools.lru_cache(None)
def _shape(*fields):
    return PagedShape(*fields)


def paged_shape(page_format, page, q, k, v, tail, scale, sinks, held=None):
    """The PagedShape of arrays q [T, heads, dk], k [T, kv_heads, dk], v [T, kv_heads, dv] and the tails' type; held: a HeldLayer."""
    return _shape(page_format, page, k.shape[1], q.shape[1] // k.shape[1], k.shape[2], v.shape[2],
                  ELEMENT_OF.get(q.dtype), ELEMENT_OF.get(tail.dtype), float(scale), sinks, ELEMENT_OF[held.dtype] if held else "")


@functools.lru_cache(None)
def unsupported(shape):
    """Why the kernels do not take a shape, or None."""
    fmt = shape.format
    if shape.q_type not in FLOATS or shape.kv_type not in FLOATS:
        return "q, k and v must be float32, float16 or bfloat16"
    if shape.dk % 8 or shape.dv % fmt.v.of_token:
        return f"heads of {shape.dk} and {shape.dv} elements do not fill whole words"
    if not (fmt.k.on_kernels and fmt.v.on_kernels):
        return f"page format {fmt.name} has no code for kernels"
    units = shape.dv // fmt.v.of_token
    if not fmt.v.deep and units & -units < 32 // min(32, shape.page):
        return f"{shape.page} tokens of {units} groups each do not fill lines"
    if shape.dk > 576 or shape.dv > 512:
        return f"heads of {shape.dk} and {shape.dv} elements are too long"
    return None
