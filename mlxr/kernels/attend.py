"""attend: attention of new tokens over sealed pages, tails and themselves. Kernels, and the plain MLX twin."""

import functools
import math

import mlx.core as mx

from . import host_build, host_call, library, prefill, q_rows
from .fallback import twin
from .library import Kernel
from .merge import merge
from .paged import PagedShape, paged_shape, unsupported
from .seal import gather_plain

MOST_ROWS = 8          # query rows that a SIMD-group takes, where that does not split the heads of a KV head
SHARED_BYTES = 16384   # of threadgroup memory, on a GPU
LEAST_TOKENS = {"host": 256, "metal": 512}   # of a split: fewer are not worth reading q again, and a merge
START_TOKENS = 96      # what starting a unit and merging its part costs, as tokens attended to
STAGE = 2048           # floats of threadgroup memory that attend_staged.h has
GPU_UNITS = 2048       # SIMD-groups that keep a GPU busy


def attend(q, k, v, k_tail, v_tail, records, page_format, batch, scale, window=None, sinks=None, held=None):
    """Attention output [T, heads, dv] of a ragged batch.

    q: [T, heads, dk]; k, v: the same tokens' [T, kv_heads, d]; tails as they were before these tokens; records: the
    pool, with the pages that these tokens complete. A token attends to earlier complete pages as stored and to its own
    page exactly; window: to its last `window` positions only. sinks: [heads] logits of nothing (gpt-oss). held: a HeldLayer,
    where batch.held says that pages are held.
    """
    if library.backend() == "reference":
        return reference(q, k, v, k_tail, v_tail, records, page_format, batch, scale, window, sinks, held)
    shape = paged_shape(page_format, batch.page_size, q, k, v, k_tail, scale, sinks is not None, held)
    why = unsupported(shape)
    parts, order = batch.parts
    runs = [] if why else [(prefill.plan if p.chunks else plan)(shape, p, window) for p in parts]
    if not all(runs) or why:
        twin("attend", why or "its kernel could not be compiled")
        return reference(q, k, v, k_tail, v_tail, records, page_format, batch, scale, window, sinks, held)
    k, v = k.astype(k_tail.dtype), v.astype(v_tail.dtype)
    extra = [] if sinks is None else [_padded(sinks)]
    if page_format.k.before_rope:
        extra.append(page_format.k.need().constants)
    plain = (lambda p: [p.slots, held.numbers]) if held else (lambda p: [])
    outs = [run([records, p.table, p.sequences, q, k_tail, v_tail, k, v, *extra, *plain(p)]) for run, p in zip(runs, parts)]
    out = outs[0] if len(outs) == 1 else mx.concatenate(outs)
    return out if order is None else q_rows.take(out.reshape(out.shape[0], -1), order).reshape(out.shape)


def _padded(sinks):
    sinks = sinks.astype(mx.float32)
    return sinks if sinks.size >= 8 else mx.pad(sinks, (0, 8 - sinks.size))


@functools.lru_cache(None)
def kernel(shape: PagedShape, tokens=1, split=False, on=None, checked=False, sgs=None, int8=None, flags=()):
    """The specialisation for a shape: `tokens` new tokens of a sequence in one SIMD-group. int8: by products of integers
    where the format has them; where it is not given, on CPUs that multiply four bytes at once."""
    on = on or library.backend()
    group, fmt = shape.group, shape.format
    per = fmt.v.of_token
    columns = -(-shape.dv // 32)
    period = 32 * columns if fmt.v.deep else math.lcm(32, shape.dv // per)
    int8 = on == "host" and host_build.has_byte_products() if int8 is None else int8
    of_k, of_v = int8 and fmt.k.bytes, int8 and fmt.v.bytes

    decoding, stage = fmt.read_floats(shape.page, shape.dk, on), STAGE if on == "host" else 0

    def floats(heads):   # of threadgroup memory of a SIMD-group
        rows = tokens * heads
        query = rows * shape.dk * (2 if fmt.k.own_query else 1) + (rows * (3 * shape.dk // 4 + 4) if of_k else 0)
        return max(query + rows * max(32, shape.page) + max(decoding, stage), period * per)

    heads, room = group, SHARED_BYTES + 4 * decoding
    while heads > 1 and (on == "host" and heads > MOST_ROWS or on == "metal" and 4 * floats(heads) > room):
        heads = max(h for h in range(1, heads) if group % h == 0)
    if sgs is None:
        sgs = 1 if on == "host" or not split else max(1, min(4, SHARED_BYTES // (4 * floats(heads))))
    most = columns if fmt.v.deep else per
    at_once = most if on == "metal" else max(j for j in (1, 2, 4) if j <= most and (j == 1 or tokens * heads * j <= 12))
    defines = shape.defines | {"G": group, "GR": heads, "NT": tokens, "SGS": sgs, "SPLIT": int(split), "VJ": at_once,
                               "V_PERIOD": period, "MEMORY": floats(heads), "STAGE": STAGE, "K_INT8": int(of_k), "V_INT8": int(of_v)}
    outputs = [("part", "float"), ("lse", "float")] if split else [("out", shape.q_type)]
    return Kernel("attend", headers=shape.headers, inputs=shape.inputs, outputs=outputs,
                  ints=["kv_heads", "wide", "window", "least", "units"], defines=defines,
                  shared=sgs * floats(heads), on=on, checked=checked, flags=flags)


def tokens_of(shape, most):
    """New tokens of a sequence that one SIMD-group takes, where the longest has `most`."""
    return 1 if most == 1 else max(1, MOST_ROWS // shape.group)


def splits(shape, part, window, blocks, on, threads):
    """(fewest pages of a unit, units of a sequence): how the stored pages of a part's sequences are dealt, `blocks` times over.

    On a CPU units are a power of two, so that not every page makes a launch of another kind (see models/replay.py).
    """
    page = shape.page
    spans = [(w.start + w.count - 1) // page - (max(0, w.start - window + 1) // page if window else 0)
             for w in part.works]
    longest, total, start = max(1, *spans), sum(spans), START_TOKENS / page
    least = -(-LEAST_TOKENS[on] // page)
    if on == "metal":
        per = max(least, -(-total * blocks // GPU_UNITS))
        return least, -(-longest // per)

    def cost(units):   # of the busiest thread, in pages: rounds of tasks of average size
        tasks = sum(max(1, min(units, -(-span // least))) for span in spans) * blocks
        return max(-(-tasks // threads) * (total * blocks / tasks + start), -(-longest // units) + start)

    most = min(threads * 4, max(1, longest // least))
    return least, min((1 << i for i in range(most.bit_length())), key=cost)


def launch(shape, part, window, k_of, on, threads):
    """(kernel, shapes of its outputs, grid, ints) for a part. k_of(split): the kernel."""
    k = k_of(False)
    blocks = shape.kv_heads * (shape.group // k.defines["GR"]) * -(-part.most // k.defines["NT"])
    least, units = splits(shape, part, window, blocks, on, threads)
    split = units > 1
    k = k_of(split)
    rows, heads = part.rows, shape.group * shape.kv_heads
    shapes = [(rows, heads, units, shape.dv), (rows, heads, units)] if split else [(rows, heads, shape.dv)]
    grid = -(-units // k.sgs), blocks, len(part.works)
    return k, shapes, grid, (shape.kv_heads, part.table.shape[1], window or 1 << 30, least, units)


def signature(shape, part, window):
    """What a launch depends on beside the kernel's shape and the arrays' shapes: a tuple."""
    return launch(shape, part, window, *_how(shape, part))[2:]


def _how(shape, part):
    tokens, on = tokens_of(shape, part.most), library.backend()
    return lambda split: kernel(shape, tokens, split), on, host_call.threads()


def plan(shape, part, window):
    """A function from the kernel's inputs to the part's output [rows, heads, dv]; None where the kernel cannot run."""
    key = "attend", shape, window
    if key not in part.launches:
        how = _how(shape, part)
        k, shapes, grid, ints = launch(shape, part, window, *how)
        if library.rehearsing():             # other lengths, and other sequences beside, take the other form
            for split in (False, True):
                library.expect(how[0](split))
        ready = k.ready() and (len(shapes) == 1 or merge(None, None, shape.q_dtype, shape.dv))

        def run(inputs):
            outs = k(inputs, shapes, grid, ints)
            return merge(*outs, shape.q_dtype, shape.dv) if len(outs) > 1 else outs[0]

        part.launches[key] = run if ready else None
    return part.launches[key]


# ---- the twin ------------------------------------------------------------------------------------------------------
def reference(q, k, v, k_tail, v_tail, records, page_format, batch, scale, window=None, sinks=None, held=None):
    """attend in plain MLX operations."""
    outs = [_group(q, k, v, k_tail, v_tail, records, page_format, batch.page_size, g, scale, window, sinks, held)
            for g in batch.groups]
    if len(outs) == 1 and batch.groups[0].whole:
        return outs[0]
    out = mx.zeros((q.shape[0], *outs[0].shape[1:]), outs[0].dtype)
    for group, o in zip(batch.groups, outs):
        out[group.rows.reshape(-1)] = o
    return out


def dense(k, v, k_tail, v_tail, records, page_format, page_size, group, held=None):
    """K [B, kv_heads, W * page_size + M, dk] and V of a group: stored pages decoded, then plain tokens."""
    plain = [gather_plain(group.own, t, x).swapaxes(1, 2) for t, x in ((k_tail, k), (v_tail, v))]
    if not group.table.shape[1]:
        return plain
    stored = page_format.decode(records[group.table], page_size, k.shape[-1], v.shape[-1], mx.arange(group.table.shape[1]))
    if group.firsts is not None:             # decoded pages are what decoding gives here as well
        n = group.firsts.shape[1]
        stored = [mx.concatenate([f, s[:, n:]], axis=1) for f, s in zip(held.get(group.firsts), stored)]
    # [B, W, kv_heads, page, d] -> [B, kv_heads, W * page, d]
    stored = [s.astype(p.dtype).swapaxes(1, 2).reshape(*p.shape[:2], -1, p.shape[-1]) for s, p in zip(stored, plain)]
    return [mx.concatenate([s, p], axis=2) for s, p in zip(stored, plain)]


def _group(q, k, v, k_tail, v_tail, records, page_format, page_size, group, scale, window, sinks, held):
    keys, values = dense(k, v, k_tail, v_tail, records, page_format, page_size, group, held)
    b, n = group.rows.shape
    queries = q if group.whole else q[group.rows.reshape(-1)]
    queries = queries.reshape(b, n, *q.shape[1:]).swapaxes(1, 2)
    out = mx.fast.scaled_dot_product_attention(
        queries, keys.astype(q.dtype), values.astype(q.dtype), scale=scale, mask=group.mask(page_size, window),
        sinks=sinks)
    return out.swapaxes(1, 2).reshape(b * n, *out.shape[1:2], out.shape[-1])
