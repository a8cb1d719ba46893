"""prefill: chunks of prompts against the oracle over decoded pages; its Metal text is run in test_paged_gate.py."""

import mlx.core as mx
import pytest

from kernels.cases import TOLERANCE, Layer, Story, backend, relative  # noqa: F401  (backend is a fixture)
from kernels.matrices import needs_compiler
from mlxr.kernels import library, prefill
from mlxr.kernels.attend import attend
from mlxr.kernels.paged import paged_shape


def chunk(story, counts, window=None):
    """(output, what the oracle gives) of one batch of chunks."""
    batch, q, k, v, tails = story.write(counts)
    scale = story.layer.dk ** -0.5
    out = attend(q, k, v, *tails, story.pool.records, story.format, batch, scale, window)
    return out, story.expect(counts, q, window, scale=scale)


@pytest.mark.parametrize("kv, dtype", [("f16", mx.float32), ("q8", mx.float32), ("f16", mx.float16), ("bf16", mx.bfloat16)], ids=str)
def test_chunks_that_begin_and_end_anywhere(backend, kv, dtype):
    story = Story(Layer(), kv=kv, dtype=dtype)
    a, b = story.add(), story.add()
    before, alone = library.used["prefill", "host"], library.used["attend", "host"]
    for counts in ({a: 9}, {a: 10, b: 64}, {b: 17, a: 47}, {a: 16}, {b: 31}):
        out, want = chunk(story, counts)
        # The twin rounds in between: what pages hold and the weights of V, to the model's type.
        assert relative(out, want) <= TOLERANCE[dtype] * (2 if backend == "reference" else 1)
    launches = library.used["prefill", "host"] - before
    assert (launches, library.used["attend", "host"] - alone) == ((5, 0) if backend == "host" else (0, 0))


@pytest.mark.parametrize("tokens", [9, 15, 16, 17, 23, 24, 25, 100, 333])
def test_every_length_of_a_first_chunk(backend, tokens):
    story = Story(Layer())
    out, want = chunk(story, {story.add(): tokens})
    assert relative(out, want) <= 1e-5


@pytest.mark.parametrize("window", [1, 3, 16, 50])
def test_windows(backend, window):
    story = Story(Layer(heads=4, kv_heads=1))
    a = story.add()
    for n in (30, 41):
        out, want = chunk(story, {a: n}, window)
        assert relative(out, want) <= 1e-5


@needs_compiler
@pytest.mark.parametrize("options", [dict(rows=8), dict(rows=16, packed=True), dict(rows=4, sgs=2), dict(room=64 * 32)], ids=str)
def test_every_way_to_launch_it(options):
    """Tiles of other sizes, packed queries, and K and V in slices: all in a build that checks every index."""
    story = Story(Layer(heads=6, kv_heads=2))
    a = story.add()
    story.write({a: 40})
    batch, q, k, v, tails = story.write({a: 29})
    shape = paged_shape(story.format, story.page_size, q, k, v, tails[0], story.layer.dk ** -0.5, False)
    built = prefill.kernel(shape, "host", checked=True, **options)
    (part,), _ = batch.parts
    shapes, grid, ints = prefill.launch(built, shape, part, None)
    packed = prefill.pack(q, shape, built.sgs * built.defines["M"]) if built.defines["Q_PACKED"] else q
    (out,) = built([story.pool.records, part.table, part.sequences, packed, *tails, k, v], shapes, grid, (*ints, q.shape[0]))
    assert relative(out, story.expect({a: 29}, q)) <= 1e-5
