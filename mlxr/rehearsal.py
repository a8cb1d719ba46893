"""Which kernels an engine will call: its model's graph is built for every kind of step, and never computed."""

import mlx.core as mx

from .kernels import draw, library, q_gemm, q_matmul
from .models.modes import GATHERED, PAGED
from .scheduler import Work
from .sequence import SamplingParams, Sequence

FEW = 4          # tokens at the end of a prompt, which the kernels of decoding take
LONG = 64        # pages of a context that several threadgroups share


def kernels_of(runner, max_batch, context):
    """Kernels that steps of up to max_batch sequences call, most needed first; none where MLX computes all.

    Every kernel that is called while a graph is built counts, whoever calls it: layers, attention, seals.
    """
    if library.backend() == "reference":
        return []
    with library.rehearsal() as called:
        for works in _steps(runner.mode, runner.pool, max_batch, context):
            runner.rehearse(works)
        draw.most_likely(mx.zeros((1, 8)))
    return list(called)


def _steps(mode, pool, max_batch, context):
    """The works of a step of every kind."""
    page, first = pool.page_size, pool.held.first if pool.held else 0            # those are not sealed
    far = min(LONG * page, max(context - 2 * page, 0)) // page * page
    # A prompt, which completes pages.
    yield [_work(0, first * page, page, page) if mode == GATHERED else _work(0, 0, (first + 2) * page + 3, page)]
    yield [_work(0, page, 1, page)]
    yield [_work(0, far, 1, page)]
    if mode != GATHERED:
        yield [_work(0, 0, FEW, page)]
        yield [_work(0, far, FEW, page)]
    if mode == PAGED:
        for sequences in _row_counts(max_batch)[1:]:
            yield [_work(i, far, 1, page) for i in range(sequences)]
        for tokens in _row_counts(max(q_gemm.FEW)):       # with a prompt's beside those, as the pace says
            if tokens > max_batch:
                yield [_work(0, far, tokens, page)]


def _work(slot, start, count, page):
    return Work(Sequence([0], SamplingParams(), 0), start, count, True, -1, slot, [1] * ((start + count) // page))


def _row_counts(most):
    """The first number of rows, up to `most`, of each kernel that a linear layer picks by it."""
    on, first = library.backend(), {}
    for rows in range(1, most + 1):
        first.setdefault(rows if rows <= q_matmul.GEMV_ROWS[on] else q_gemm.tiles_of(rows, on), rows)
    return list(first.values())
