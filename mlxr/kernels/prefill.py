"""prefill: attention of chunks of prompts, many new tokens a sequence, over sealed pages, tails and themselves."""

import functools
import math

import mlx.core as mx

from ..pages.encoding import rotate
from . import library
from .library import Kernel
from .paged import PagedShape

SHARED_FLOATS = 5120             # of threadgroup memory, on a GPU: 20 KB
MOST_FLOATS = 8192               # with what decoding K takes, where it takes any
ROWS = {"host": 24, "metal": 8}  # query rows of a SIMD-group
SIMDGROUPS = 4                   # of a threadgroup, on a GPU


def _parts(dk, wide, room, per):
    """(ONE, KC, VT, floats): how K and V of 32 tokens lie in `room` floats, see metal/prefill.metal. wide: floats of a
    row of V; per: of K's groups."""
    if dk * 32 + 32 * wide <= room:
        return 1, dk, 32, dk * 32 + 32 * wide
    step = max(8, per)
    channels = max((c for c in range(step, dk + 1, step) if dk % c == 0 and c * 32 <= room), default=step)
    tokens = max(t for t in (8, 16, 32) if t * wide <= room)
    return 0, channels, tokens, max(channels * 32, tokens * wide)


@functools.lru_cache(None)
def kernel(shape: PagedShape, on=None, checked=False, rows=None, sgs=None, packed=None, room=None, flags=()):
    """The specialisation for a shape. rows: M; packed: Q_PACKED; room: floats for K and V."""
    on = on or library.backend()
    rows, packed = rows or ROWS[on], on == "metal" if packed is None else packed
    sgs = sgs or (1 if on == "host" else SIMDGROUPS)
    copies = 2 if shape.format.k.rotated else 1                      # of q: as it is, and rotated
    fixed = sgs * rows * 32 + (0 if packed else sgs * rows * shape.dk * copies)
    one, channels, tokens, floats = _parts(shape.dk, 32 * (-(-shape.dv // 32) - (-shape.dk // 32 if shape.format.given else 0)),
                                           room or (1 << 20 if on == "host" else SHARED_FLOATS - fixed),
                                           shape.format.k.per)
    defines = shape.defines | {"G": shape.group, "M": rows, "SGS": sgs, "Q_PACKED": int(packed), "ONE": one,
                               "KC": channels, "VT": tokens, "OTYPE": shape.q_type}
    scratch = shape.format.k.read_floats(shape.dk, on)                # of each SIMD-group that decodes K
    if scratch:
        teams = max(1, min(sgs, shape.dk // shape.format.k.block_of(shape.dk), (MOST_FLOATS - fixed - floats) // scratch))
        defines["K_TEAMS"], floats = teams, floats + teams * scratch
    if packed:
        defines["QTYPE"] = "float"
    inputs = [(n, "float" if n == "q" and packed else t) for n, t in shape.inputs]
    return Kernel("prefill", headers=shape.headers, inputs=inputs, outputs=[("out", shape.q_type)],
                  ints=["kv_heads", "wide", "window", "tiles", "tokens"], defines=defines, shared=fixed + floats, on=on,
                  checked=checked, flags=flags)


def pack(q, shape, spare):
    """q [T, heads, dk] as float32 [kv_heads * T * group + spare, dk], in units of base-2 scores.

    Where the page format rotates K: these rows, the same ones rotated, then the spare ones.
    """
    t = q.shape[0]
    q = q.reshape(t, shape.kv_heads, shape.group, shape.dk).swapaxes(0, 1).reshape(-1, shape.dk)
    q = q.astype(mx.float32) * (shape.scale * math.log2(math.e))
    if shape.format.k.rotated:
        q = mx.concatenate([q, rotate(q)])
    return mx.pad(q, [(0, spare), (0, 0)])


def launch(k, shape, part, window):
    """(shapes of the outputs, grid, ints but the last) of a launch."""
    tiles = -(-part.most * shape.group // (k.sgs * k.defines["M"]))
    ints = shape.kv_heads, part.table.shape[1], window or 1 << 30, tiles
    return [(part.rows, shape.kv_heads * shape.group, shape.dv)], (tiles, shape.kv_heads, len(part.works)), ints


def plan(shape, part, window):
    """A function from the kernel's inputs to the part's output [rows, heads, dv]; None where the kernel cannot run."""
    key = "prefill", shape, window
    if key not in part.launches:
        k = kernel(shape)
        shapes, grid, ints = launch(k, shape, part, window)
        spare = k.sgs * k.defines["M"] if k.defines["Q_PACKED"] else 0

        def run(inputs):
            tokens = inputs[3].shape[0]
            if spare:
                inputs = [*inputs[:3], pack(inputs[3], shape, spare), *inputs[4:]]
            return k(inputs, shapes, grid, (*ints, tokens))[0]

        part.launches[key] = run if k.ready() else None
    return part.launches[key]
