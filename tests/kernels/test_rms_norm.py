"""rms_norm against its definition in fp64: dtypes, ragged widths, one row and many; and the gate."""

import mlx.core as mx
import numpy as np
import pytest
from kernels.gate import Gate, needs_simulator, relative
from kernels.matrices import needs_compiler

from mlxr.kernels import library, rms_norm

EPS = 1e-5
# All arithmetic is in fp32, and so is y: the inputs of 16 bits are taken as they are.
TOLERANCE = 1e-6


def case(rows, width, dtype=mx.float32):
    rng = np.random.default_rng(rows)
    x = mx.array(rng.standard_normal((rows, width)).astype(np.float32)).astype(dtype)
    gain = mx.array(rng.standard_normal(width).astype(np.float32) + 1).astype(dtype)
    a, g = (np.array(v.astype(mx.float32), np.float64) for v in (x, gain))
    return x, gain, a / np.sqrt((a ** 2).mean(-1, keepdims=True) + EPS) * g


@needs_compiler
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
@pytest.mark.parametrize("rows, width", [(1, 576), (5, 64), (7, 100), (40, 2048)])
def test_against_the_definition(rows, width, dtype):
    x, gain, want = case(rows, width, dtype)
    before = library.used["rms_norm", "host"]
    ours, twin = rms_norm.apply(x, gain, EPS), rms_norm.reference(x, gain, EPS)
    assert library.used["rms_norm", "host"] == before + 1, "the twin ran instead"
    assert ours.dtype == twin.dtype == mx.float32
    assert relative(ours, want) <= TOLERANCE
    assert relative(twin, want) <= 1e-5          # MLX adds the squares of a row one after another


@needs_compiler
def test_no_index_outside():
    x, gain, want = case(5, 100)
    k = rms_norm.kernel("float", EPS, on="host", checked=True)
    assert relative(k([x, gain], [(5, 100)], (5, 1, 1), (5, 100))[0], want) <= TOLERANCE


@needs_compiler
def test_other_types_of_gains_take_mlxs_operation():
    x, gain, _ = case(3, 64, mx.float16)
    y = rms_norm.apply(x, gain.astype(mx.float32), EPS)
    assert relative(y, rms_norm.reference(x, gain, EPS)) == 0


def gate(rows=5, width=100):
    x, gain, want = case(rows, width)
    k = rms_norm.kernel("float", EPS, on="metal", sgs=2)
    return Gate(k, [x, gain], [(rows, width)], (-(-rows // 2), 1, 1), (rows, width)), want


@needs_simulator
def test_gate():
    run, want = gate()
    run.check([want], TOLERANCE, written={"y": 1.0})


FAULTS = {
    "a mask dropped at the store": ("a * scale * gain, first(lane, K - k)", "a * scale * gain"),
    "rows not bounded": ("if (row < M)", ""),
    "no sum over the lanes": ("simd_sum(squares)", "squares"),
}


@needs_simulator
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(fault):
    run, want = gate()
    assert not run.run().report.errors and relative(run.outputs[0], want) <= TOLERANCE
    run.run(cut=FAULTS[fault])
    assert run.report.errors or relative(run.outputs[0], want) > 1e-3
