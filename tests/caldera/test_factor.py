"""The mathematics of W ~ Q + L R on small matrices: codes as MLX reads them, errors passed on, the best of each rank."""

import mlxr  # noqa: F401  (first: it decides which BLAS MLX uses)
import mlx.core as mx
import numpy as np
import pytest

from mlxr.caldera import factor
from mlxr.caldera.affine import Hessian, quantize
from mlxr.caldera.compress import pack, windows_of
from mlxr.errors import ConfigError

rng = np.random.default_rng(0)


def inputs(n, strong=12, count=400):
    """X^T X of inputs [count, n] that mostly lie in a few directions, as activations do."""
    x = rng.standard_normal((count, strong)) @ rng.standard_normal((strong, n)) + 0.3 * rng.standard_normal((count, n))
    return (x.T @ x).astype(np.float32)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_codes_are_what_mlx_reads(bits):
    w = rng.standard_normal((24, 128)).astype(np.float32)
    codes, scales, offsets, decoded = quantize(w, Hessian(inputs(128)), bits, 64)
    packed = mx.array(pack(codes, bits))
    read = mx.dequantize(packed, mx.array(scales).astype(mx.float32), mx.array(offsets).astype(mx.float32), group_size=64, bits=bits)
    assert packed.shape == (24, 128 * bits // 32) and np.allclose(np.array(read), decoded, atol=1e-6)


def test_errors_passed_on_cost_less_than_rounding():
    w, h = rng.standard_normal((48, 256)).astype(np.float32), Hessian(inputs(256))
    plain = mx.quantize(mx.array(w), bits=3, group_size=64)
    plain = np.array(mx.dequantize(*plain, bits=3, group_size=64))
    assert h.loss(w - quantize(w, h, 3, 64)[3]) < 0.5 * h.loss(w - plain)


def test_the_hessians_factor():
    h = Hessian(inputs(64))
    assert np.allclose(h.upper.T @ h.upper @ h.h, np.eye(64), atol=1e-2) and np.allclose(h.upper, np.triu(h.upper))


@pytest.mark.parametrize("shape", [(80, 128), (200, 64)])
def test_leading_directions_are_those_of_the_singular_values(shape):
    error, h = rng.standard_normal(shape).astype(np.float32), Hessian(inputs(shape[1]))
    basis = factor.leading(error, h.h, 16)[:, :16]
    kept = h.loss(basis @ (basis.T @ error))
    best = (np.linalg.svd(error @ np.linalg.cholesky(h.h.astype(np.float64)), compute_uv=False)[:16] ** 2).sum()
    assert 0.98 * best <= kept <= 1.0001 * best
    assert np.allclose(basis.T @ basis, np.eye(16), atol=1e-4)


def test_a_matrix_of_low_rank_is_found():
    w = (rng.standard_normal((96, 8)) @ rng.standard_normal((8, 128))).astype(np.float32)
    left, right, _ = factor.factors(w, Hessian(inputs(128)), 32, 16, 64)
    assert np.linalg.norm(w - left.decoded @ right.decoded) < 2e-3 * np.linalg.norm(w)


@pytest.mark.parametrize("factor_bits", [4, 8, 16])
def test_a_correction_lowers_the_error_and_more_rank_lowers_it_more(factor_bits):
    w, h = rng.standard_normal((160, 256)).astype(np.float32), Hessian(inputs(256, 40))
    found = [factor.decompose(w, h, 2, rank, factor_bits, 64, 32) for rank in (32, 64)]
    assert found[0].plain == found[1].plain
    assert found[1].loss < 0.85 * found[0].loss < 0.85 * 0.85 * found[0].plain
    for parts in found:
        whole = parts.q.decoded + parts.left.decoded @ parts.right.decoded
        assert np.isclose(h.loss(w - whole) / h.loss(w), parts.loss, rtol=1e-3)


def test_inputs_that_never_come():
    """Columns that no token reached, and a matrix of zeros."""
    h = inputs(128)
    h[:64], h[:, :64] = 0, 0
    for w in (rng.standard_normal((32, 128)), np.zeros((32, 128))):
        parts = factor.decompose(w.astype(np.float32), Hessian(h), 3, 32, 4, 64, 32)
        assert np.isfinite(parts.q.decoded).all() and np.isfinite(parts.loss) and parts.loss < 0.05
    assert np.isfinite(quantize(np.ones((8, 64), np.float32), Hessian(np.zeros((64, 64))), 3, 64)[3]).all()


def test_windows_of_a_text():
    assert windows_of(list(range(600)), 8192) == [list(range(512))]
    starts = [w[0] for w in windows_of(list(range(5120)), 2048)]
    assert len(starts) == 4 and starts[0] == 0 and starts[-1] == 5120 - 512
    with pytest.raises(ConfigError, match="has 100 tokens; 512 is the least"):
        windows_of(list(range(100)), 512)
