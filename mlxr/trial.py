"""A trial before a GPU serves: one prompt and one token through our kernels and through their twins.

No machine that builds this project has a Metal GPU. So each user's does this once at start: where a kernel cannot be
compiled, fails, or gives other numbers than plain MLX operations do, the engine says so and runs on these.
"""

import mlx.core as mx
import numpy as np

from .kernels import library
from .scheduler import Work
from .sequence import SamplingParams, Sequence

TOLERANCE = {mx.float32: 1e-3, mx.float16: 2e-2, mx.bfloat16: 5e-2}     # relative L2 of logits, through all layers


def trial(engine):
    """Whether our kernels serve this engine; if not, library.refuse was called. The pool's free pages are used."""
    held = engine.pool.held
    pages = engine.scheduler.allocator.take(0, 1) if held and held.first else engine.scheduler.allocator.take(1)
    try:
        with library.aside():
            wanted = _logits(engine, pages)
        try:
            got = _logits(engine, pages)
        except Exception as e:      # whatever a compiler or a driver has to say
            return _refuse(f"a kernel failed on this GPU ({type(e).__name__}: {str(e).splitlines()[0][:200]})")
    finally:
        engine.scheduler.allocator.release(pages)
    distance = np.linalg.norm(got - wanted) / max(np.linalg.norm(wanted), 1e-30)
    if not distance <= TOLERANCE[engine.dtype]:
        return _refuse(f"our kernels' results are {distance:.1e} from plain MLX operations on this GPU; please report it")
    return True


def _refuse(why):
    library.refuse(why)
    return False


def _logits(engine, pages):
    """float32 [2, vocabulary]: after a prompt of a page and some tokens, and after one token more."""
    size = engine.config.page_size
    sequence = Sequence([1 + i % (engine.vocabulary - 1) for i in range(size + 6)], SamplingParams(), size + 8)
    rows = []
    for start, count in ((0, size - 3), (size - 3, 8), (size + 5, 1)):      # chunks stop at pages where K and V are gathered
        for at, n in _aligned(start, count, size if engine.scheduler.align else None):
            work = Work(sequence, at, n, True, -1, 0, pages[:(at + n) // size])
            logits = engine.runner.logits([work])
            mx.eval(logits, engine.pool.arrays)
        rows.append(np.array(logits.astype(mx.float32))[0])
    engine.runner.forget(sequence)
    return np.stack(rows[1:])


def _aligned(start, count, size):
    while count:
        n = min(count, size - start % size) if size else count
        yield start, n
        start, count = start + n, count - n
