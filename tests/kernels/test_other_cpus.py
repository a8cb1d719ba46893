"""Paged attention, seal, rope, rms_norm and draw as other CPUs compute them: AVX2, plain C++, and 64-bit ARM under qemu-user."""

import mlx.core as mx
import numpy as np
import pytest

from kernels import test_draw, test_neon, test_rms_norm, test_rope
from kernels.cases import Layer, Story, relative
from kernels.matrices import FORMS, needs_compiler
from mlxr.kernels import attend, draw, fallback, host_call, library, merge, prefill, q_rows, rms_norm, rope, seal

pytestmark = [pytest.mark.slow, needs_compiler]
MODULES = (attend, prefill, merge, seal, rope, rms_norm, q_rows, draw)
NEON = pytest.param("neon", marks=test_neon.pytestmark[1])


@pytest.fixture(params=[*FORMS, NEON])
def cpu(request, monkeypatch, tmp_path):
    """Kernels that are built in this test are another CPU's; the number of their launches grows in .launches."""
    monkeypatch.setenv("MLXR_BACKEND", "host")
    count = [0]
    if request.param == "neon":
        monkeypatch.setattr(library.Kernel, "ready", lambda k: True)
        call = lambda k, *a, **o: emulated(k, tmp_path, *a, **o)
    else:
        inner, program = library.Kernel.__call__, library.Kernel.program
        monkeypatch.setattr(library.Kernel, "program", lambda k: (program(k)[0], [*program(k)[1], *FORMS[request.param]]))
        call = inner

    def counted(k, *a, **o):
        count[0] += 1
        return call(k, *a, **o)

    monkeypatch.setattr(library.Kernel, "__call__", counted)
    for module in MODULES:
        module.kernel.cache_clear()
    yield count
    for module in MODULES:
        module.kernel.cache_clear()


def emulated(k, folder, inputs, shapes, grid, ints=(), shared=None):
    """What Kernel.__call__ gives, from the program of a 64-bit ARM."""
    mx.eval(inputs)
    dtypes = [host_call.ELEMENTS[e][0] for _, e in k.outputs]
    sizes = [int(np.prod(s)) * d.size for s, d in zip(shapes, dtypes)]
    parts = test_neon.run(k, inputs, sizes, grid, ints, folder, 4 * (k.shared if shared is None else shared))
    outs = []
    for data, shape, dtype in zip(parts, shapes, dtypes):
        raw = mx.array(np.frombuffer(data, {4: np.uint32, 2: np.uint16}[dtype.size])).view(dtype)
        outs.append(raw.reshape(shape))
    return outs


@pytest.mark.parametrize("kv, products", [("f16", False), *((kv, p) for kv in ("q8", "q6", "q4", "mixed") for p in (False, True))])
def test_attention_and_seal(cpu, kv, products, monkeypatch):
    """Chunks and decode rows over pages that this CPU sealed; two splits, merged. products: codes are multiplied as integers."""
    monkeypatch.setattr(fallback, "reasons", {})
    monkeypatch.setattr(attend.host_build, "has_byte_products", lambda: products)
    monkeypatch.setattr(attend.host_call, "threads", lambda: 2)
    story = Story(Layer(heads=6, kv_heads=2), kv=kv, page_size=32)
    a, b = story.add(), story.add()
    for counts in ({a: 700, b: 40}, {a: 1, b: 1}, {a: 3, b: 30}):
        batch, q, k, v, tails = story.write(counts)
        out = attend.attend(q, k, v, *tails, story.pool.records, story.format, batch, story.layer.dk ** -0.5)
        records = np.array(story.pool.records)
        decoded = story.format.decode(story.pool.records[mx.array(story.sequences[a].pages)], 32, 64, 64)
        assert np.isfinite(records).all() and all(np.isfinite(np.array(d)).all() for d in decoded)
        # The oracle encodes with the twin: a rotated page's scale may be rounded to its neighbour.
        assert relative(out, story.expect(counts, q)) <= (2e-3 if story.format.k.rotated or story.format.v.rotated else 1e-5)
    assert not fallback.reasons and cpu[0] >= 6


@pytest.mark.parametrize("dim", [80, 128])
def test_other_head_sizes(cpu, dim):
    story = Story(Layer(heads=5, kv_heads=1, dk=dim, dv=dim))
    a = story.add()
    for n in (37, 1, 4):
        batch, q, k, v, tails = story.write({a: n})
        out = attend.attend(q, k, v, *tails, story.pool.records, story.format, batch, dim ** -0.5)
        assert relative(out, story.expect({a: n}, q)) <= 1e-5


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
def test_rope_and_rms_norm(cpu, dtype):
    shape = (4, 2, 80, 64, 48)
    qkv, angles, gains = test_rope.case(shape, dtype=dtype, norms=True)
    outs = rope.apply(qkv, angles, *shape[:4], norms=gains, eps=1e-6)
    for out, want in zip(outs, test_rope.oracle(qkv, angles, shape, False, gains, 1e-6)):
        assert relative(out, want) <= test_rope.TOLERANCE[dtype]
    x, gain, want = test_rms_norm.case(5, 100, dtype)
    assert relative(rms_norm.apply(x, gain, test_rms_norm.EPS), want) <= test_rms_norm.TOLERANCE
    assert cpu[0] == 2


def test_drawing(cpu):
    x, given, inputs = test_draw.launched()
    tokens = np.array(draw.apply(inputs[0], np.array(inputs[1])))
    assert all(test_draw.right(t, row, one) for t, row, one in zip(tokens, x, given))
    assert cpu[0] == 1
