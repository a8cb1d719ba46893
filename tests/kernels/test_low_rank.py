"""Corrections of low rank inside q_gemv and q_gemm, against fp64 arithmetic on decoded weights; on Metal in the simulator."""

import mlx.core as mx
import numpy as np
import pytest
from kernels.gate import Gate, needs_simulator, relative
from kernels.matrices import activations, matrix, name, needs_compiler
from kernels.test_q_gemv import EPS, fused, oracle

from mlxr.benchmarks import kernel_cases
from mlxr.kernels import library, low_rank, q_gemm, q_gemv, q_matmul
from mlxr.kernels.stored import affine, stored

Q, R = affine(3, 64), affine(4, 64)
LEFTS = [(affine(4, 64), 64), (affine(4, 32, mx.bfloat16), 32), (affine(8, 32), 96), (stored("F16"), 32)]
REST = [pytest.param(k, r, marks=pytest.mark.slow) for k, r in LEFTS[1:]]


def parts(kind, rank, n, k, of=Q):
    """(arrays of Q, the Correction, fp64 [n, k] that they stand for)."""
    (w, q), (left, dl), (right, dr) = matrix(of, n, k), matrix(kind, n, rank, 3), matrix(R, rank, k, 4)
    low = low_rank.Correction(tuple(left), kind, tuple(right), R, rank)
    return w, low, q + dl.astype(np.float64) @ dr.astype(np.float64)


@needs_compiler
@pytest.mark.parametrize("rows", [1, pytest.param(3, marks=pytest.mark.slow), pytest.param(7, marks=pytest.mark.slow), 40])
@pytest.mark.parametrize("kind, rank", [LEFTS[0], *REST], ids=lambda v: name(v) if not isinstance(v, int) else str(v))
@pytest.mark.parametrize("what", [("norm", "swiglu"), *(pytest.param(w, marks=pytest.mark.slow) for w in (("norm",), ("bias", "residual")))],
                         ids="_".join)
def test_it_is_added_in_the_same_launch(kind, rank, rows, what):
    n, k = 45, 320
    w, low, whole = parts(kind, rank, 2 * n if "swiglu" in what else n, k)
    x, options = activations(rows, k), fused(n, k, rows, what)
    cast = {o: mx.array(v) if isinstance(v, np.ndarray) else v for o, v in options.items()}
    before = library.used.copy()
    y = q_matmul.apply(mx.array(x), w, Q, low=low, eps=EPS if "norm" in what else None, **cast)
    assert relative(y, oracle(x, whole, **options)) < 1e-5
    used = library.used - before
    assert {count for (kernel, _), count in used.items() if kernel in ("q_gemv", "q_gemm")} == {2}     # R x, and the rest
    with library.aside():
        assert relative(q_matmul.apply(mx.array(x), w, Q, low=low, eps=EPS, **cast), oracle(x, whole, **options)) < 1e-5


@needs_compiler
@pytest.mark.parametrize("bits", [8, *(pytest.param(b, marks=pytest.mark.slow) for b in (2, 4, 5, 6))])
def test_other_codes_beside_it(bits):
    """The digits of x have as many bits as Q's codes leave room for, and so have those of R x."""
    n, k, of = 45, 320, affine(bits, 64)
    for kind, rank in LEFTS[0], LEFTS[2]:
        w, low, whole = parts(kind, rank, n, k, of)
        x = activations(1, k)
        assert relative(q_matmul.apply(mx.array(x), w, of, low=low), oracle(x, whole)) < 1e-5


@needs_compiler
@pytest.mark.parametrize("kind, rank", LEFTS[:1] + REST, ids=lambda v: name(v) if not isinstance(v, int) else str(v))
def test_no_index_outside(kind, rank):
    """A checked build on exact buffers; and both ways of reading rows."""
    n, k = 33, 128
    w, low, whole = parts(kind, rank, n, k)
    x = mx.array(activations(1, k))
    t = mx.array(activations(1, k)) @ mx.array(matrix(R, rank, k, 4)[1]).T
    for stream in (True, False):
        kernel = q_gemv.kernel(Q, 1, low=low.key, width=k, on="host", checked=True, stream=stream)
        groups, ints, shared = q_gemv.launch(kernel, n, k)
        (y,) = kernel([*w, x, *low.inputs(t)], [(1, n)], (groups, 1, 1), ints, shared)
        assert relative(y, oracle(np.array(x), whole)) < 1e-5


@needs_simulator
@pytest.mark.parametrize("kind, rank", LEFTS[:1] + REST, ids=lambda v: name(v) if not isinstance(v, int) else str(v))
@pytest.mark.parametrize("rows", [1, 16])
def test_gate(kind, rank, rows):
    n, k = 40, 128
    w, low, whole = parts(kind, rank, 2 * n, k)
    x, t = activations(rows, k), activations(rows, k) @ matrix(R, rank, k, 4)[1].T
    if rows == 1:
        made = q_gemv.kernel(Q, rows, swiglu=True, low=low.key, on="metal")
        groups, ints, _ = q_gemv.launch(made, n, k)
        grid = (groups, 1, 1)
    else:
        made = q_gemm.kernel(Q, swiglu=True, low=low.key, on="metal", tiles=(8, 64, 2))
        (grid, padded), ints = q_gemm.launch(made, rows, n), (rows, n, k)
        assert padded == rows
    gate = Gate(made, [*w, mx.array(x), *low.inputs(mx.array(t))], [(rows, n)], grid, ints)
    gate.check([oracle(x, whole, swiglu=True)], 1e-5, written={"y": 1.0})


@needs_simulator
@pytest.mark.parametrize("bits, rows", [(4, 1), pytest.param(8, 2, marks=pytest.mark.slow)])
def test_gate_in_integers(bits, rows):
    """What CPUs that multiply bytes compute, as the simulator runs it: a whole block of 32 rows, and a part of one."""
    n, k, rank = 40, 192, 64
    w, low, whole = parts(affine(bits, 32), rank, n, k)
    x, t = activations(rows, k), activations(rows, k) @ matrix(R, rank, k, 4)[1].T
    how = dict(low=low.key, width=k, on="metal", stream=True, products=True, rows=32, sgs=1)
    groups, ints, shared = q_gemv.launch(q_gemv.kernel(Q, rows, **how), n, k)
    made = q_gemv.kernel(Q, rows, shared=shared, **how)
    gate = Gate(made, [*w, mx.array(x), *low.inputs(mx.array(t))], [(rows, n)], (groups, 1, 1), ints)
    gate.check([oracle(x, whole)], 1e-5, written={"y": 1.0}, threadgroup_bytes=32768)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 16])
def test_the_benchmarks_case(rows):
    case = kernel_cases.corrected(rows, 256, 512, 128, 2)
    for got, wanted in [*case.check(), (case.theirs(0)[0], case.check()[0][1])]:
        assert relative(got, wanted) < 1e-5


def test_what_kernels_read():
    assert low_rank.fits(affine(4, 32), 64) and low_rank.fits(stored("F16"), 32)
    assert not low_rank.fits(affine(4, 32), 48) and not low_rank.fits(affine(3, 32), 64) and not low_rank.fits(stored("BF16"), 64)
