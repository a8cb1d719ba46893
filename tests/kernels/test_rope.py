"""rope against mx.fast.rope and its own oracle: layouts, partial rotation, norms, dtypes; and the gate."""

import mlx.core as mx
import numpy as np
import pytest
from kernels.gate import Gate, needs_simulator, relative
from kernels.matrices import needs_compiler

from mlxr.kernels import library, rope

TOLERANCE = {mx.float32: 1e-6, mx.float16: 1e-3, mx.bfloat16: 4e-3}
SHAPES = [(9, 3, 64, 64, 64), (4, 4, 80, 80, 32), (6, 2, 96, 96, 96), (8, 1, 128, 128, 64), (5, 5, 192, 128, 192), (2, 2, 256, 256, 256)]

# Each shape, each option and each dtype by default; all combinations in the slow suite.
_ALL = [(s, i, n, d) for s in SHAPES for i, n in ((False, False), (True, False), (False, True)) for d in TOLERANCE]
_FEW = {(SHAPES[0], False, False, mx.float16), (SHAPES[1], False, True, mx.float32), (SHAPES[2], True, False, mx.bfloat16),
        (SHAPES[3], False, True, mx.float32), (SHAPES[4], False, False, mx.float32), (SHAPES[5], True, False, mx.float32)}
CASES = [c if c in _FEW else pytest.param(*c, marks=pytest.mark.slow) for c in _ALL]


def case(shape, tokens=5, dtype=mx.float32, norms=False):
    heads, kv_heads, dim, v_dim, dims = shape
    rng = np.random.default_rng(0)
    qkv = mx.array(rng.standard_normal((tokens, (heads + kv_heads) * dim + kv_heads * v_dim)).astype(np.float32)).astype(dtype)
    inverse = mx.array(10000.0 ** (-np.arange(0, dims, 2) / dims), mx.float32)
    angles = rope.table(np.array([0, 1, 7, 500, 4095][:tokens]), np.array(inverse))
    gains = tuple(mx.array(rng.standard_normal(dim).astype(np.float32) + 1) for _ in range(2)) if norms else None
    return qkv, angles, gains


def oracle(qkv, angles, shape, interleaved, norms, eps):
    """fp64, straight from the definition."""
    heads, kv_heads, dim, v_dim, dims = shape
    x, t = np.array(qkv.astype(mx.float32), np.float64), qkv.shape[0]
    cosine, sine = np.split(np.array(angles, np.float64), 2, axis=-1)
    outs, at = [], 0
    for n, gain in ((heads, 0), (kv_heads, 1)):
        part = x[:, at:at + n * dim].reshape(t, n, dim)
        at += n * dim
        if norms:
            part = part / np.sqrt((part ** 2).mean(-1, keepdims=True) + eps) * np.array(norms[gain], np.float64)
        out = part.copy()
        for i in range(dims // 2):
            a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + dims // 2)
            c, s = cosine[:, i, None], sine[:, i, None]
            out[..., a], out[..., b] = part[..., a] * c - part[..., b] * s, part[..., a] * s + part[..., b] * c
        outs.append(out)
    return [*outs, x[:, at:].reshape(t, kv_heads, v_dim)]


@needs_compiler
@pytest.mark.parametrize("way", ["apply", "reference"])
@pytest.mark.parametrize("shape, interleaved, norms, dtype", CASES, ids=str)
def test_against_the_definition(shape, interleaved, norms, dtype, way):
    qkv, angles, gains = case(shape, dtype=dtype, norms=norms)
    before = library.used["rope", "host"]
    outs = getattr(rope, way)(qkv, angles, *shape[:4], interleaved=interleaved, norms=gains, eps=1e-6)
    assert library.used["rope", "host"] == before + (way == "apply"), "the twin ran instead"
    for out, want in zip(outs, oracle(qkv, angles, shape, interleaved, gains, 1e-6)):
        assert out.dtype == dtype and out.shape == want.shape
        assert relative(out.astype(mx.float32), want) <= TOLERANCE[dtype]


@needs_compiler
@pytest.mark.parametrize("interleaved", [False, True])
def test_as_mx_fast_rope(interleaved):
    """The same angles as MLX's own operation, up to the rounding of its frequencies."""
    shape = (4, 2, 64, 64, 64)
    qkv, angles, _ = case(shape)
    q, k, _ = rope.apply(qkv, angles, *shape[:4], interleaved=interleaved)
    x = qkv[:, :4 * 64].reshape(5, 4, 1, 64)
    theirs = mx.fast.rope(x, 64, traditional=interleaved, base=10000.0, scale=1.0, offset=mx.array([0, 1, 7, 500, 4095]))
    assert relative(q, theirs[:, :, 0]) <= 2e-4


def gate(interleaved=False, norms=True):
    shape = (3, 2, 80, 64, 48)
    qkv, angles, gains = case(shape, tokens=3, norms=norms)
    k = rope.kernel(*shape, interleaved, 1e-6 if norms else None, on="metal", sgs=2)
    shapes = [(3, 3, 80), (3, 2, 80), (3, 2, 64)]
    return Gate(k, [qkv, angles, *(gains or ())], shapes, (3, 1, 1), (3,)), oracle(qkv, angles, shape, interleaved, gains, 1e-6)


@needs_simulator
@pytest.mark.parametrize("interleaved, norms", [(False, True), (True, False)])
def test_gate(interleaved, norms):
    run, want = gate(interleaved, norms)
    run.check(want, 1e-6, traffic=None if norms else {"qkv": 1.0}, written={"q": 1.0, "k": 1.0, "v": 1.0})


FAULTS = {
    "a mask dropped at the store": ("a * sine + b * cosine, first(lane, left))", "a * sine + b * cosine)"),
    "the wrong sign": ("a * cosine - b * sine", "a * cosine + b * sine"),
    "the wrong sign, interleaved": ("select(-other, other,", "select(other, -other,"),
    "an index off by one": ("st(y, lane + (PAIRS + c)", "st(y, lane + (PAIRS + c + 1)"),
}


@needs_simulator
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(fault):
    run, want = gate("interleaved" in fault)
    assert not run.run().report.errors and max(map(relative, run.outputs, want)) < 1e-5
    run.run(cut=FAULTS[fault])
    assert run.report.errors or max(map(relative, run.outputs, want)) > 1e-3
