"""Quantized linear and embedding layers: MLX's results, whichever way a number of rows takes."""

import mlxr  # noqa: F401  (first: it decides which BLAS MLX uses)
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlxr.models.linear import MANY_ROWS, QuantEmbedding, QuantLinear, adopt, quantized_product, sliced_matmul

IDS = mx.array([[1, 5, 9, 2, 7, 3]])


def close(a, b, tolerance=1e-5):
    return a.shape == b.shape and float(np.abs(a - b).max()) <= tolerance * float(np.abs(b).max())


@pytest.mark.parametrize("mode, bits, group", [("affine", 4, 32), ("affine", 8, 64), ("mxfp4", 4, 32)])
@pytest.mark.parametrize("rows", [1, MANY_ROWS - 1, MANY_ROWS, 40])
@pytest.mark.parametrize("bias", [True, False])
def test_a_quantized_linear(mode, bits, group, rows, bias):
    mx.random.seed(rows)
    plain = nn.Linear(128, 200, bias=bias)
    stock = plain.to_quantized(group, bits, mode=mode)
    ours = QuantLinear(stock.weight, stock.scales, stock.biases, stock.get("bias"),
                       group_size=group, bits=bits, mode=mode)
    for shape in ((rows, 128), (1, rows, 128), (rows, 1, 128)):
        x = mx.random.normal(shape)
        assert ours(x).shape == (*shape[:-1], 200)
        assert close(np.array(ours(x)), np.array(stock(x)), 1e-5)
    assert isinstance(ours, nn.QuantizedLinear) and str(ours) == str(stock).replace("QuantizedLinear", "QuantLinear")
    assert {k for k, _ in tree_flatten(ours.parameters())} == {k for k, _ in tree_flatten(stock.parameters())}


def test_a_quantized_embedding():
    stock = nn.Embedding(50, 64).to_quantized(32, 4)
    ours = QuantEmbedding(stock.weight, stock.scales, stock.biases, group_size=32, bits=4)
    assert mx.array_equal(ours(IDS), stock(IDS)) and (ours.num_embeddings, ours.dims) == (50, 64)
    for rows in (1, 10):
        x = mx.random.normal((1, rows, 64))
        assert close(np.array(ours.as_linear(x)), np.array(stock.as_linear(x)), 1e-5)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_sliced_matmul_keeps_the_dtype_and_sums_in_fp32(dtype):
    w = mx.random.normal((5000, 512))
    q = [a if a.dtype == mx.uint32 else a.astype(dtype) for a in mx.quantize(w, 32, 8)]
    x = mx.random.normal((5, 512)).astype(dtype)
    got = sliced_matmul(x, *q, 32, 8, "affine")
    wanted = np.array(x.astype(mx.float32)) @ np.array(mx.dequantize(*q, group_size=32, bits=8).astype(mx.float32)).T
    assert got.dtype == dtype and got.shape == (5, 5000)
    assert close(np.array(got.astype(mx.float32)), wanted, 1e-3 if dtype == mx.float16 else 1e-2)


def test_a_dequantized_weight_is_never_whole():
    layer = QuantLinear(*mx.quantize(mx.random.normal((65536, 512)), 32, 4), group_size=32, bits=4)
    mx.eval(layer.parameters())
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    y = layer(mx.random.normal((MANY_ROWS, 512)))
    mx.eval(y)
    dense = 65536 * 512 * 4
    assert mx.get_peak_memory() - before < 0.75 * dense
    assert mx.get_active_memory() - before < y.nbytes + 2**17


def test_adopting_shares_the_arrays_and_leaves_others_alone():
    stock = nn.Linear(64, 8).to_quantized(32, 4)
    ours = adopt(stock)
    assert type(ours) is QuantLinear and ours.weight is stock.weight and ours.bias is stock.bias
    assert type(adopt(nn.Embedding(8, 64).to_quantized(32, 8))) is QuantEmbedding
    for other in (nn.Linear(4, 4), nn.RMSNorm(4), ours):
        assert adopt(other) is other


def test_many_rows_on_a_cpu_take_the_sliced_way(monkeypatch):
    layer, taken = adopt(nn.Linear(64, 8).to_quantized(32, 4)), []
    monkeypatch.setattr("mlxr.models.linear.sliced_matmul",
                        lambda x, *a: taken.append(x.shape) or mx.zeros((*x.shape[:-1], 8)))
    for rows in (1, MANY_ROWS - 1, MANY_ROWS, 9):
        quantized_product(layer, mx.zeros((1, rows, 64)))
    assert taken == [(1, MANY_ROWS, 64), (1, 9, 64)]
    monkeypatch.setattr("mlxr.models.linear.on_cpu", lambda: False)
    quantized_product(layer, mx.zeros((1, 9, 64)))
    assert len(taken) == 2
