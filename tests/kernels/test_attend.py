"""attend and prefill against the oracle over decoded pages: ragged batches, windows, sinks, head sizes, GQA ratios."""

from itertools import product

import mlx.core as mx
import numpy as np
import pytest

from kernels.cases import TOLERANCE, Layer, Story, backend, launches, relative  # noqa: F401  (backend is a fixture)
from mlxr.kernels import attend as module
from mlxr.kernels import fallback, host_build, library
from mlxr.kernels.attend import attend

FORMATS = ["f32", "f16", "bf16", "q8"]
ALSO = [("f16", mx.float16), ("bf16", mx.bfloat16)]
# Head sizes and ratios that together cover each; the other pairs are slow (a kernel or two to compile for each).
PAIRS = [(64, 1), (64, 16), (80, 5), (96, 7), (128, 6), (128, 8), (256, 2)]


def compare(story, counts, window=None, sinks=None, tolerance=None):
    batch, q, k, v, tails = story.write(counts)
    scale, before = story.layer.dk ** -0.5, launches()
    out = attend(q, k, v, *tails, story.pool.records, story.format, batch, scale, window,
                 None if sinks is None else mx.array(sinks, story.dtype))
    error = relative(out, story.expect(counts, q, window, sinks, scale))
    assert out.dtype == story.dtype and error <= (tolerance or TOLERANCE[story.dtype]), error
    assert launches() - before == (len(batch.parts[0]) if library.backend() == "host" else 0)


@pytest.mark.parametrize("kv, dtype",
                         [(kv, t) if t == mx.float32 or (kv, t) in ALSO else pytest.param(kv, t, marks=pytest.mark.slow)
                                       for kv in FORMATS for t in TOLERANCE], ids=str)
def test_ragged_batches(backend, kv, dtype):
    """Prefill, chunks that start and end anywhere, decoding rows, and both together."""
    story = Story(Layer(), kv=kv, dtype=dtype)
    a, b, c = story.add(), story.add(), story.add()
    for counts in ({a: 1}, {a: 1, b: 15}, {a: 20, b: 1, c: 16}, {a: 1, b: 1, c: 1}, {a: 33, c: 64}, {a: 1, b: 1, c: 1},
                   {b: 2, a: 2}, {a: 8, b: 3, c: 5}):
        # The twin rounds what 8-bit pages hold to the model's type before it attends.
        compare(story, counts, tolerance=TOLERANCE[dtype] * (2 if kv == "q8" and backend == "reference" else 1))


@pytest.mark.parametrize("products", [True, False])
@pytest.mark.parametrize("kv", ["q8", "q4", *(pytest.param(n, marks=pytest.mark.slow) for n in ("a4", "q6", "k:q8,v:f16", "k:f16,v:q4"))])
def test_products_of_integers_and_of_floats(kv, products, monkeypatch):
    """Codes are multiplied in either way, whatever this CPU has. NaN stays NaN."""
    if host_build.compiler() is None:
        pytest.skip("no C++ compiler")
    monkeypatch.setenv("MLXR_BACKEND", "host")
    monkeypatch.setattr(module.host_build, "has_byte_products", lambda: products)
    module.kernel.cache_clear()
    try:
        story = Story(Layer(heads=6, kv_heads=1), kv=kv, page_size=32)
        a, b = story.add(), story.add()
        for counts in ({a: 300, b: 70}, {a: 1, b: 1}, {a: 1}):
            # The oracle encodes with the twin: a rotated page's scale may be rounded to its neighbour.
            compare(story, counts, tolerance=2e-4 if "q4" in kv else 1e-5)
        batch, q, k, v, tails = story.write({b: 1})
        for name, part in (("k", slice(0, story.format.k.words(32, 64))), ("v", slice(story.format.k.words(32, 64), None))):
            if f"{name}:f16" in kv:
                continue                                                    # a CPU reads those as large numbers: formats/f16.h
            bad = np.array(story.pool.records)
            bad[story.sequences[b].pages[0], 0, part] = 0x7E007E00          # of whatever is there: fp16 NaN for the scales
            out = attend(q, k, v, *tails, mx.array(bad), story.format, batch, 0.125)
            assert np.isnan(np.array(out)).any(axis=(1, 2)).all()
    finally:
        module.kernel.cache_clear()


@pytest.mark.parametrize("window", [1, 5, 16, 17, 40, 1000])
def test_sliding_window(backend, window):
    story = Story(Layer())
    a, b = story.add(), story.add()
    for counts in ({a: 50}, {a: 1, b: 30}, {a: 1, b: 1}, {a: 25, b: 1}, {a: 7, b: 4}, {a: 1, b: 1}):
        compare(story, counts, window)


def test_sinks_take_their_share(backend):
    story = Story(Layer(heads=8, kv_heads=2))
    a, b = story.add(), story.add()
    sinks = np.linspace(-1, 3, 8)
    for counts in ({a: 40, b: 3}, {a: 1, b: 1}, {a: 4, b: 30}):
        compare(story, counts, sinks=sinks)
        compare(story, counts, window=20, sinks=sinks)


@pytest.mark.parametrize("dim, ratio", [p if p in PAIRS else pytest.param(*p, marks=pytest.mark.slow)
                                        for p in product((64, 80, 96, 128, 256), (1, 2, 3, 4, 5, 6, 7, 8, 16))])
def test_head_sizes_and_gqa(backend, dim, ratio):
    story = Story(Layer(heads=2 * ratio, kv_heads=2, dk=dim, dv=dim))
    a = story.add()
    for n in (37, 1):
        compare(story, {a: n})


@pytest.mark.parametrize("dk, dv", [(192, 128), (64, 96), (40, 24)])
def test_different_k_and_v_head_sizes(backend, dk, dv):
    story = Story(Layer(heads=4, kv_heads=4, dk=dk, dv=dv), page_size=32)
    a, b = story.add(), story.add()
    compare(story, {a: 70, b: 31})
    compare(story, {a: 1, b: 1})


@pytest.mark.parametrize("kv, page_size", [("f16", 32), ("f16", 64), ("q8", 64),
                                           *(pytest.param(kv, 128, marks=pytest.mark.slow) for kv in ("f16", "q8"))])
def test_page_sizes(backend, kv, page_size):
    story = Story(Layer(), kv=kv, page_size=page_size)
    a = story.add()
    for n in (page_size - 1, 1, 1, 2 * page_size + 3, 1):
        compare(story, {a: n})


@pytest.mark.parametrize("kv, dim", [("q8", 80), *(pytest.param(*p, marks=pytest.mark.slow) for p in (("q8", 96), ("f32", 80), ("bf16", 80)))])
def test_words_that_do_not_fill_lines(backend, kv, dim):
    """A token's V takes a part of a line, or one line and a part."""
    story = Story(Layer(heads=6, kv_heads=2, dk=dim, dv=dim), kv=kv, page_size=32)
    a = story.add()
    for n in (100, 1, 2):
        compare(story, {a: n})


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("window", [None, 700])
def test_splits(backend, monkeypatch, threads, window):
    """Long and short sequences together, their pages dealt to several units; merged where more than one has some."""
    monkeypatch.setattr(module.host_call, "threads", lambda: threads)
    story = Story(Layer(heads=6, kv_heads=1), page_size=64, pages=64)
    a, b, c = story.add(), story.add(), story.add()
    story.write({a: 2011, b: 3, c: 700})
    before = library.used["merge", "host"]
    compare(story, {a: 1, b: 1, c: 1}, window)
    compare(story, {a: 2, b: 1, c: 3}, window, np.linspace(-1, 2, 6))
    merges = library.used["merge", "host"] - before
    assert (merges == 0 if threads == 1 or backend == "reference" else merges > 0 or window)


@pytest.mark.slow
@pytest.mark.parametrize("kv", ["f16", "q8"])
@pytest.mark.parametrize("context", [4095, 9001, 32767])
def test_long_contexts(backend, kv, context):
    story = Story(Layer(heads=6, kv_heads=2), kv=kv, page_size=64, pages=600)
    a, b = story.add(), story.add()
    story.write({a: context - 300, b: 17})
    compare(story, {a: 300})
    compare(story, {a: 1, b: 1})


def test_large_scores_stay_finite(backend):
    """Scores of some hundreds: the largest wins, nothing overflows."""
    story = Story(Layer(heads=2, kv_heads=1), page_size=32)
    a = story.add()
    random = story._random
    story._random = lambda *shape: random(*shape) * 40
    for n in (100, 1, 3, 30):
        compare(story, {a: n}, tolerance=1e-4)


def test_nothing_of_other_sequences_is_read(backend):
    """Infinities in every page and tail row that is not the sequence's own leave its output alone."""
    story = Story(Layer(), slots=4, pages=12)
    a = story.add()
    story.write({a: 40})
    own = story.sequences[a].pages
    poison = mx.full(story.pool.records.shape[1:], 0x7C007C00, mx.uint32)        # fp16 infinities
    for page in range(1, 13):
        if page not in own and page not in story.free[-2:]:
            story.pool.records[page] = poison
    story.pool.k_tail[16:] = float("inf")
    story.pool.v_tail[16:] = float("inf")
    compare(story, {a: 1})
    compare(story, {a: 17})


@pytest.mark.parametrize("backend", ["host"], indirect=True)
def test_what_kernels_do_not_take_runs_on_the_twin(backend, monkeypatch):
    """Heads of 20 elements: the answer is right, and why the twin ran is known."""
    monkeypatch.setattr(fallback, "reasons", {})
    monkeypatch.setenv("MLXR_BACKEND", "host")
    story = Story(Layer(heads=2, kv_heads=1, dk=20, dv=20))
    a = story.add()
    before = dict(library.used)
    batch, q, k, v, tails = story.write({a: 21})
    out = attend(q, k, v, *tails, story.pool.records, story.format, batch, 0.2)
    assert relative(out, story.expect({a: 21}, q, scale=0.2)) <= 1e-5
    assert set(fallback.reasons) == {"attend", "seal"}
    assert "heads of 20 and 20 elements" in str(fallback.reasons["attend"])
    library.used.clear()
    library.used.update(before)


@pytest.mark.parametrize("kv, dim", [
    pytest.param(kv, dim, marks=[pytest.mark.slow] * (dim != usual))
    for kv, usual in (("q8", 48), ("q6", 48), ("q4", 16), ("a4", 48), ("k8v4", 16), ("mixed", 16)) for dim in (16, 48)])
def test_short_heads(backend, kv, dim):
    """Where lanes behind a token's last channel are another token's."""
    story = Story(Layer(4, 2, dim, dim), kv=kv)
    a, b = story.add(), story.add()
    for counts in ({a: 70, b: 64}, {a: 1, b: 1}, {b: 6}):
        compare(story, counts, tolerance=2e-5)
