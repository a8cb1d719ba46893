"""seal: encode full tails into page records and put them into the pool. The kernel, and the plain MLX twin."""

import functools

import mlx.core as mx

from . import library
from .fallback import twin
from .host_call import ELEMENT_OF
from .library import Kernel
from .paged import PagedShape, unsupported
from .recording import in_place, write_rows

SIMDGROUPS = 4   # of a threadgroup, on a GPU


def gather_plain(rows, tail, new):
    """Plain K or V rows [..., kv_heads, d] by number: tail rows first, then the batch's new tokens."""
    return mx.concatenate([tail, new.astype(tail.dtype)])[rows]


def seal(records, page_format, page_size, pages, rows, k_tail, v_tail, k, v, at=None):
    """The pool with pages encoded into it, in one update.

    records: uint32 [pages, kv_heads, words]. pages: int32 [P]. rows: int32 [P * page_size], numbered as gather_plain.
    tails: [slots * page_size, kv_heads, d]. k, v: [T, kv_heads, d]. at: int32 [P, but 8 or more], which page of its sequence each is.
    """
    kernel = _ready(page_format, page_size, k.shape[1], k.shape[2], v.shape[2], k_tail.dtype, library.backend())
    if kernel is None:
        records[pages] = reference(page_format, page_size, rows, k_tail, v_tail, k, v, at)
    else:
        kv_heads, tails = k.shape[1], k_tail.shape[0]
        made = kernel([rows, k_tail, v_tail, k.astype(k_tail.dtype), v.astype(v_tail.dtype),
                       *more_inputs(page_format, at)],
                      [(pages.size, kv_heads, records.shape[2])], (pages.size, kv_heads, 1), (kv_heads, tails))[0]
        if in_place():       # MLX would copy the pool wherever a reader of it, in this step or the last, has not run yet
            return write_rows(records, pages, counted(pages.size), made, made, always=True)
        records[pages] = made
    return records


@functools.lru_cache(None)
def counted(n):
    """int32 [n]: 0, 1, ... Computed, so that it is a constant of recordings."""
    numbers = mx.arange(n, dtype=mx.int32)
    mx.eval(numbers)
    return numbers


def more_inputs(page_format, at):
    """What the kernel takes beside K and V: where K is stored before RoPE, its tables and the pages' numbers int32 [P, 8 or more]."""
    return [page_format.k.need().constants, at] if page_format.k.before_rope else []


@functools.lru_cache(None)
def kernel(shape: PagedShape, on=None, checked=False, flags=()):
    """The specialisation for a shape; its query side does not matter."""
    on, fmt = on or library.backend(), shape.format
    sgs = 1 if on == "host" else SIMDGROUPS
    inputs = [("rows", "int"), *((n, shape.kv_type) for n in ("k_tail", "v_tail", "k", "v"))]
    if fmt.k.before_rope:
        inputs += [("tables", "float"), ("numbers", "int")]
    defines = {n: v for n, v in shape.defines.items() if n not in ("QTYPE", "SCALE", "SINKS")}
    return Kernel("seal", headers=(fmt.headers[0], "formats/source.h", *fmt.headers[1:]), inputs=inputs, outputs=[("out", "uint")],
                  ints=["kv_heads", "tails"],
                  defines=defines | {"SGS": sgs, "SEALING": 1}, on=on, checked=checked, flags=flags,
                  shared=fmt.seal_floats(shape.page, shape.dk, shape.dv, sgs))


def _ready(page_format, page_size, kv_heads, dk, dv, dtype, on):
    """The kernel, or None where the twin must run."""
    if on == "reference":
        return None
    shape = PagedShape(page_format, page_size, kv_heads, 1, dk, dv, "float", ELEMENT_OF.get(dtype))
    why = unsupported(shape)
    found = None if why else kernel(shape)
    if why or not found.ready():
        twin("seal", why or "its kernel could not be compiled")
        return None
    return found


def reference(page_format, page_size, rows, k_tail, v_tail, k, v, at=None):
    """Records uint32 [P, kv_heads, words] in plain MLX operations."""
    plain = []
    for tail, new in ((k_tail, k), (v_tail, v)):
        x = gather_plain(rows, tail, new)
        plain.append(x.reshape(-1, page_size, *x.shape[1:]).swapaxes(1, 2))      # [P, kv_heads, page, d]
    return page_format.encode(*plain, None if at is None else at[:plain[0].shape[0]])
