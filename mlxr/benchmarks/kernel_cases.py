"""One kernel at one shape, ready to be measured: its launches, MLX's own operation on the same numbers, and the twin."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..batch import build_batch
from ..calibration import made_up
from ..kernels import (attend, draw, int8_split, library, low_rank, merge, q_gemm, q_gemm_int8, q_gemv, q_matmul, q_rows, read_bound, rms_norm,
                       rope, seal)
from ..kernels.host_call import ELEMENT_OF
from ..kernels.paged import PagedShape
from ..pages.formats import page_format
from ..scheduler import Work
from ..sequence import SamplingParams, Sequence
from .kernel_weights import make_weights

COLD = 96 << 20      # bytes that a measurement goes through before it comes back: more than caches hold
MOST_COPIES = 256
CHECKED_ROWS = 4096  # of weights, at either end, that the twin is computed for
PAGE = 64


@dataclass
class Case:
    """What is measured.

    ours, theirs: copy number -> [lazy arrays], one launch on that copy of the data; theirs: MLX's operation, named by
    `mlx`. nbytes: read and written by a launch at least; flops: of it. check: () -> [(result, what the twin gives)].
    probe: (launch like theirs on a part of the work, how many times that the whole is), where theirs may take long.
    """

    ours: object
    theirs: object
    mlx: str
    nbytes: int
    flops: float
    check: object
    copies: int = 1
    probe: tuple | None = None


def copies_of(nbytes, most=None):
    """Copies of the data that keep a measurement out of the caches, `most` at most."""
    return max(1, min(most or MOST_COPIES, -(-COLD // max(1, nbytes))))


def dtype():
    """Of activations: what MLX computes fast here."""
    return mx.float16 if library.backend() == "metal" else mx.float32


def _random(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return mx.array(rng.standard_normal(shape, np.float32)).astype(dtype())


def matrix(how, kind, rows, n, k, most=None):
    """q_gemv or q_gemm (`how`): `rows` activations times [n, k] stored weights."""
    one = make_weights(kind, n, k)
    copies = copies_of(one.nbytes, most)
    all_weights = [one] + [one.copy() for _ in range(copies - 1)]
    x = _random(rows, k)
    mx.eval(x)

    def check():
        got = how.apply(x, one.arrays, one.kind)
        cut = min(n, CHECKED_ROWS)
        return [(got[:, :cut], how.reference(x, one.rows(slice(0, cut)), one.kind)),
                (got[:, n - cut:], how.reference(x, one.rows(slice(n - cut, n)), one.kind))]

    few = min(rows, 4)
    return Case(lambda i: [how.apply(x, all_weights[i].arrays, one.kind)], lambda i: [one.mlx_product(x)], one.mlx,
                one.nbytes + x.nbytes + rows * n * x.itemsize, 2.0 * rows * n * k, check, copies,
                (lambda: [one.mlx_product(x[:few])], rows / few))


def corrected(rows, n, k, rank, most=None):
    """`rows` activations times [n, k] 3-bit weights with a correction of low rank in 4 bits: two launches."""
    one, left, right = make_weights("affine3_64_half", n, k), make_weights("affine4_64_half", n, rank), make_weights("affine4_64_half", rank, k)
    low = low_rank.Correction(left.arrays, left.kind, right.arrays, right.kind, rank)
    nbytes, x = one.nbytes + left.nbytes + right.nbytes, _random(rows, k)
    copies = copies_of(nbytes, most)
    weights = [one] + [one.copy() for _ in range(copies - 1)]
    mx.eval(x)

    def twin():
        t = q_gemv.reference(x, right.arrays, right.kind)
        return q_gemv.reference(x, one.arrays, one.kind, low=low, t=t)

    return Case(lambda i: [q_matmul.apply(x, weights[i].arrays, one.kind, low=low)],
                lambda i: [one.mlx_product(x) + left.mlx_product(right.mlx_product(x))], f"3 {one.mlx}",
                nbytes + x.nbytes + rows * n * x.itemsize, 2.0 * rows * (n * k + rank * (n + k)),
                lambda: [(q_matmul.apply(x, one.arrays, one.kind, low=low), twin())], copies)


def embedding(kind, count, n, k, most=None):
    """q_rows: `count` rows of [n, k] stored weights."""
    one = make_weights(kind, n, k)
    row = one.nbytes // n * count + count * k * 4
    copies = copies_of(row, most)
    ids = [mx.array(np.random.default_rng(i).integers(0, n, count), mx.int32) for i in range(copies)]
    mx.eval(ids)
    return Case(lambda i: [q_rows.apply(ids[i], one.arrays, one.kind, k, dtype())], lambda i: [one.mlx_rows(ids[i])], one.mlx_lookup,
                row, 0.0, lambda: [(q_rows.apply(ids[0], one.arrays, one.kind, k, dtype()),
                                    q_rows.reference(ids[0], one.arrays, one.kind, k, dtype()))], copies)


def attention(model, fmt, context, batch, new=1, most=None):
    """attend (new up to 8) or prefill: `batch` sequences of `context` tokens, the last `new` of them new."""
    kv, d, heads = model.kv_heads, model.dim, model.heads
    fmt = made_up(page_format(fmt), kv, d, d, PAGE, context // PAGE + 1)
    pages = context // PAGE
    record = kv * fmt.words(PAGE, d, d) * 4
    nbytes = batch * pages * record + 2 * batch * new * heads * d * dtype().size
    copies = copies_of(nbytes, most)
    records = _records(fmt, kv, d, 1 + pages * batch * copies)
    tails = [_random(batch * PAGE, kv, d, seed=s) for s in (1, 2)]
    q, k, v = (_random(batch * new, n, d, seed=s) for n, s in ((heads, 3), (kv, 4), (kv, 5)))
    mx.eval(records, tails, q, k, v)
    batches = [build_batch(_works(context, new, batch, pages, 1 + i * batch * pages), PAGE, batch) for i in range(copies)]
    scale = d ** -0.5

    def run(i, how=attend.attend):
        return how(q, k, v, *tails, records, fmt, batches[i], scale)

    dense = [[_random(batch, kv, context, d, seed=s) for s in (6 + 2 * i, 7 + 2 * i)] for i in range(min(copies, 4))]
    queries = _random(batch, heads, new, d, seed=5)
    mx.eval(dense, queries)
    mask = "causal" if new > 1 else None
    flops = 4.0 * heads * d * batch * sum(context - new + 1 + t for t in range(new))
    return Case(lambda i: [run(i)],
                lambda i: [mx.fast.scaled_dot_product_attention(queries, *dense[i % len(dense)], scale=scale, mask=mask)],
                f"mx.fast.scaled_dot_product_attention {_name(queries)}", nbytes, flops,
                lambda: [(run(0), run(0, attend.reference))], copies)


def _works(context, new, batch, pages, first):
    works = []
    for i in range(batch):
        sequence = Sequence([0] * context, SamplingParams(), 1 << 30)
        held = list(range(first + i * pages, first + (i + 1) * pages))
        works.append(Work(sequence, context - new, new, True, -1, i, held))
    return works


def _records(fmt, kv_heads, d, pages):
    """A pool of that many pages, page 0 zero, of a few random ones over and over."""
    few = fmt.encode(*(_random(16, kv_heads, PAGE, d, seed=s).astype(mx.float32) for s in (8, 9)), mx.arange(16) % 2)
    times = -(-pages // 16)
    pool = mx.concatenate([mx.zeros_like(few[:1])] + [few] * times)[:pages]
    return mx.contiguous(pool)


def merging(model, rows, units):
    """merge: `units` parts of `rows` tokens."""
    part, lse = _random(rows, model.heads, units, model.dim).astype(mx.float32), _random(rows, model.heads, units).astype(mx.float32)
    mx.eval(part, lse)
    out = rows * model.heads * model.dim * dtype().size
    return Case(lambda i: [merge.merge(part, lse, dtype(), model.dim)], lambda i: [merge.reference(part, lse).astype(dtype())],
                "twin", part.nbytes + lse.nbytes + out, 0.0,
                lambda: [(merge.merge(part, lse, dtype(), model.dim), merge.reference(part, lse).astype(dtype()))], 16)


def sealing(model, fmt, pages, most=None):
    """seal: that many pages at once, of new tokens."""
    kv, d = model.kv_heads, model.dim
    fmt, at = made_up(page_format(fmt), kv, d, d, PAGE, pages), mx.arange(max(pages, 8), dtype=mx.int32)
    tails = [_random(PAGE, kv, d, seed=s) for s in (1, 2)]
    plain = 2 * pages * PAGE * kv * d * dtype().size
    copies = copies_of(plain, most)
    new = [[_random(pages * PAGE, kv, d, seed=3 + 2 * i + j) for j in (0, 1)] for i in range(min(copies, 16))]
    rows = mx.arange(PAGE, PAGE + pages * PAGE).astype(mx.int32)
    mx.eval(tails, new, rows)
    k = seal.kernel(PagedShape(fmt, PAGE, kv, 1, d, d, "float", ELEMENT_OF[dtype()]))
    shape, more = (pages, kv, fmt.words(PAGE, d, d)), seal.more_inputs(fmt, at)

    def ours(i):
        return k([rows, *tails, *new[i % len(new)], *more], [shape], (pages, kv, 1), (kv, PAGE))

    def twin(i):
        return [seal.reference(fmt, PAGE, rows, *tails, *new[i % len(new)], at)]

    def check():
        return list(zip(*(fmt.decode(records[0], PAGE, d, d, at[:pages]) for records in (ours(0), twin(0)))))

    return Case(ours, twin, "twin", plain + 4 * shape[0] * shape[1] * shape[2], 0.0, check, copies)


def rotation(model, tokens):
    """rope: that many tokens' fused q, k and v."""
    heads, kv, d = model.heads, model.kv_heads, model.dim
    wide = (heads + 2 * kv) * d
    copies = copies_of(2 * tokens * wide * dtype().size)
    qkv = [_random(tokens, wide, seed=i) for i in range(min(copies, 16))]
    angles = rope.table(np.arange(tokens), (1e4 ** (-np.arange(0, d, 2) / d)).astype(np.float32))
    mx.eval(qkv, angles)

    def theirs(i):
        q, k, v = mx.split(qkv[i % len(qkv)].reshape(1, tokens, heads + 2 * kv, d).swapaxes(1, 2), [heads, heads + kv], axis=1)
        return [mx.fast.rope(a, d, traditional=False, base=1e4, scale=1.0, offset=0) for a in (q, k)] + [mx.contiguous(v)]

    def ours(i):
        return list(rope.apply(qkv[i % len(qkv)], angles, heads, kv, d, d))

    return Case(ours, theirs, "mx.fast.rope", 2 * qkv[0].nbytes + angles.nbytes, 0.0,
                lambda: list(zip(ours(0), rope.reference(qkv[0], angles, heads, kv, d, d))), copies)


def norming(model, rows):
    """rms_norm: that many rows as wide as the model. MLX's own operation is what Metal uses."""
    width, eps = model.hidden, 1e-5
    copies = copies_of(rows * width * (dtype().size + 4))
    x, gain = [_random(rows, width, seed=i) for i in range(min(copies, 16))], _random(width, seed=99)
    mx.eval(x, gain)
    k = rms_norm.kernel(ELEMENT_OF[dtype()], eps)

    def ours(i):
        return k([x[i % len(x)], gain], [(rows, width)], (-(-rows // k.sgs), 1, 1), (rows, width))

    return Case(ours, lambda i: [mx.fast.rms_norm(x[i % len(x)], gain, eps)], "mx.fast.rms_norm", rows * width * (dtype().size + 4), 0.0,
                lambda: [(ours(0)[0], rms_norm.reference(x[0], gain, eps))], copies)


def drawing(model, rows):
    """draw: that many rows of logits, by top-k 40 and top-p 0.95. MLX's operations, which sort, are those of the twin."""
    width = model.vocabulary
    x = [_random(rows, width, seed=i).astype(mx.float32) for i in range(4)]
    given = draw.settings([0.8] * rows, [40] * rows, [0.95] * rows, [0.05] * rows, np.linspace(0, 0.9, rows), width)
    table = mx.array(given)
    mx.eval(x, table)
    k = draw.kernel()

    def ours(i):
        return k([x[i % 4], table], [(rows,), (rows, width)], (-(-rows // k.sgs), 1, 1), (rows, width))[:1]

    return Case(ours, lambda i: [draw.reference(x[i % 4], given)], "sort, cumsum", rows * width * 4, 0.0,
                lambda: [(ours(0)[0], draw.reference(x[0], given))], 4)


def splitting(model, rows):
    """int8_split: that many rows as wide as the model."""
    width = model.hidden
    x = [_random(rows, width, seed=i) for i in range(4)]
    mx.eval(x)
    k = int8_split.kernel(ELEMENT_OF[dtype()])

    def ours(i):
        return k([x[i % 4]], int8_split.shapes(rows, width), (-(-rows // k.sgs), 1, 1), (rows, width))

    def twin(i):
        return list(int8_split.reference(x[i % 4]))

    def check():
        (digits, factors), theirs = ours(0), twin(0)
        return [(int8_split.values(digits, factors), int8_split.values(*theirs)), (factors, theirs[1])]

    return Case(ours, twin, "twin", x[0].nbytes + rows * width * 13 // 4, 0.0, check, 4)


def reading(nbytes):
    """read_bound itself."""
    words = mx.arange(nbytes // 4).astype(mx.uint32)
    mx.eval(words)
    units, own = read_bound.launch(read_bound.kernel(), words.size)
    return Case(lambda i: [read_bound.apply(words)], lambda i: [words.sum()], "mx.sum", nbytes, 0.0,
                lambda: [(read_bound.apply(words), read_bound.reference(words, units, own))])


def gemv(kind, rows, n, k, most=None):
    return matrix(q_gemv, kind, rows, n, k, most)


def gemm(kind, rows, n, k, most=None):
    return matrix(q_gemm, kind, rows, n, k, most)


def gemm_int8(kind, rows, n, k, most=None):
    return matrix(q_gemm_int8, kind, rows, n, k, most)


def _name(array):
    return str(array.dtype).removeprefix("mlx.core.")
