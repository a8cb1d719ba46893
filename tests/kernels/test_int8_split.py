"""int8_split: what its digits and factors stand for is x, to a half of their unit; norms, zeros, ragged numbers of rows; the gate."""

import mlx.core as mx
import numpy as np
import pytest
from kernels.gate import Gate, needs_simulator
from kernels.matrices import needs_compiler
from kernels.test_rms_norm import EPS, case

from mlxr.kernels import int8_split, library


def joined(digits, factors, bits):
    """(fp64 [M, K] that they stand for, unit of each element, sum of each block)."""
    digits, factors = np.array(digits), np.array(factors, np.float64)
    high, middle, low = np.split(digits.view(np.int8).astype(np.int64), 3, axis=-1)          # [K / 32, M, 32] each
    assert abs(high).max() <= 127 and abs(low).max() <= 1 << (bits - 1)
    values = ((high * 256 + middle) * (1 << bits) + low) * factors[..., :1]
    flat = lambda a: np.broadcast_to(a, values.shape).swapaxes(0, 1).reshape(values.shape[1], -1)
    return flat(values), flat(factors[..., :1]), factors[..., 1].T


def check(digits, factors, want, normed=True, low=int8_split.LOW):
    values, unit, sums = joined(digits, factors, low)
    most = np.abs(want.reshape(len(want), -1, 32)).max(-1).repeat(32, axis=1)
    # Half a unit and what fp32 rounds of the quotient and of the product with it; of a normed value also what it rounds of the mean of squares.
    assert (np.abs(values - want) <= 0.7 * unit + 1.5e-7 * np.abs(want) + normed * 2e-6 * most).all()
    assert (unit <= most * (1.001 / int8_split.most(low))).all()
    assert np.abs(sums - want.reshape(*sums.shape, 32).sum(-1)).max() <= 1e-4


@needs_compiler
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("rows, width, low", [(1, 32, 7), (5, 576, 8)])
def test_digits_are_x(rows, width, low, normed, dtype):
    x, gain, want = case(rows, width, dtype)
    before = library.used["int8_split", "host"]
    options = (gain, EPS) if normed else ()
    want = want if normed else np.array(x.astype(mx.float32), np.float64)
    check(*int8_split.apply(x, *options, low=low), want, normed, low)
    check(*int8_split.reference(x, *options, low=low), want, normed, low)
    assert library.used["int8_split", "host"] == before + 1, "the twin ran instead"


@needs_compiler
def test_blocks_of_zeros_and_of_one_large_number():
    x = np.zeros((2, 96), np.float32)
    x[0, 40], x[1, 95] = 3e30, -1e-30
    check(*int8_split.apply(mx.array(x)), x.astype(np.float64), normed=False)


@needs_compiler
@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_what_is_no_number_shows_in_the_sum(bad):
    x = np.ones((1, 64), np.float32)
    x[0, 5] = bad
    _, factors = int8_split.apply(mx.array(x))
    assert not np.isfinite(np.array(factors)[0, 0, 1]) and np.isfinite(np.array(factors)[1]).all()


@needs_compiler
def test_no_index_outside():
    x, gain, want = case(3, 96)
    k = int8_split.kernel("float", EPS, on="host", checked=True)
    check(*k([x, gain], int8_split.shapes(3, 96), (3, 1, 1), (3, 96)), want)


def gate(rows=3, width=96):
    x, gain, want = case(rows, width)
    k = int8_split.kernel("float", EPS, on="metal", sgs=2)
    return Gate(k, [x, gain], int8_split.shapes(rows, width), (-(-rows // 2), 1, 1), (rows, width)), want


@needs_simulator
def test_gate():
    run, want = gate()
    run.run()
    assert not run.errors()
    check(*run.outputs, want)
    run.check(list(run.outputs), 1e-6, written={"digits": 1.0, "factors": 1.0})


FAULTS = {
    "a mask dropped at the store": ("two, first(lane, 2)", "two"),
    "digits that do not carry": ("(q - c) >> LOW", "q >> LOW"),
    "rows not bounded": ("if (row < M)", ""),
}


@needs_simulator
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(fault):
    run, want = gate()
    run.run()
    assert not run.report.errors
    run.run(cut=FAULTS[fault])
    if not run.report.errors:
        with pytest.raises(AssertionError):
            check(*run.outputs, want)
