"""GGUF block types against gguf-py and ggml, bit for bit, and their exact affine forms."""

import contextlib
from pathlib import Path

import gguf
import mlxr  # noqa: F401  (first: it decides which BLAS MLX uses)
import mlx.core as mx
import numpy as np
import pytest
from helpers.blocks import WRITTEN, ggml_dequantized, quantized, random_blocks
from helpers.ggml_blocks import by_ggml

import mlxr.weights.quants as quants
from mlxr.errors import WeightsError
from mlxr.weights.quants import BY_NUMBER, REGISTRY

ALL = list(REGISTRY.values())
AFFINE = [t for t in ALL if t.affine_bits]
ids = {"ids": lambda t: t.name}


def blocks_of(block, kind, rows=7, blocks=12):
    """uint8 [rows, blocks * type_size]: random bytes, real weights, or the extremes of every byte and scale."""
    rng = np.random.default_rng(3)
    if kind == "bytes":
        return rng.integers(0, 256, (rows, blocks * block.type_size * (1 if block.block_size > 1 else 32)), np.uint8)
    if kind == "weights" and block.name not in WRITTEN:
        return random_blocks(block, rows, blocks * block.block_size, seed=3)
    if kind == "weights":
        w = rng.standard_normal((rows, blocks * max(32, block.block_size))).astype(np.float32) * rng.choice([1e-4, 1, 300], (rows, 1))
        return quantized(block, w.astype(np.float32))
    scales = np.array([0, 0x8000, 1, 0x8001, 0x3ff, 0x400, 0x3c00, 0xbc00, 0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7e00,
                       0xfe01], np.uint16)
    out = []
    for fill in (0x00, 0xFF, 0x7F, 0x80, 0x0F, 0xF0):
        for a in scales:
            for b in scales[::3]:
                one = np.full(block.type_size * (1 if block.block_size > 1 else 4), fill, np.uint8)
                for at, bits in zip(block.scales_at or range(0, min(4, len(one)), 2), (a, b)):
                    one[at:at + 2] = np.array([bits], np.uint16).view(np.uint8)[:len(one) - at]
                out.append(one)
    return np.stack(out)


def same_bits(a, b):
    """Equal in every bit, save that any NaN equals any other."""
    nan = np.isnan(a) & np.isnan(b)
    return a.shape == b.shape and bool(((a.view(np.uint32) == b.view(np.uint32)) | nan).all())


@pytest.mark.parametrize("kind", ["bytes", "weights", "extremes"])
@pytest.mark.parametrize("block", [t for t in ALL if t.name != "Q8_K"], **ids)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_dequantize_equals_gguf_py(block, kind):
    stored = blocks_of(block, kind)
    theirs = gguf.dequantize(stored.view({"F32": np.float32, "F16": np.float16}.get(block.name, np.uint8)),
                             gguf.GGMLQuantizationType[block.name])
    ours = block.dequantize(stored)
    assert ours.dtype == np.float32
    assert same_bits(ours, np.ascontiguousarray(theirs, np.float32))


@pytest.mark.parametrize("kind", ["bytes", "weights"])
@pytest.mark.parametrize("block", [t for t in ALL if t.block_size > 1], **ids)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_dequantize_equals_ggml(block, kind):
    """The C functions that gguf-py follows; Q8_K is theirs alone."""
    stored = blocks_of(block, kind)
    assert same_bits(block.dequantize(stored), ggml_dequantized(block, stored))


@pytest.mark.parametrize("block", [t for t in ALL if t.name != "Q8_K"], **ids)
def test_quantize_where_gguf_py_can(block):
    w = np.random.default_rng(1).standard_normal((3, 512)).astype(np.float32)
    if block.name in WRITTEN:
        assert np.array_equal(block.quantize(w), quantized(block, w))
        with pytest.raises(WeightsError, match="rows of 100 do not fit") if block.block_size > 1 else contextlib.nullcontext():
            block.quantize(w[:, :100])
    else:
        with pytest.raises(WeightsError, match=f"reads {block.name} but does not write it"):
            block.quantize(w)
        pytest.importorskip("llama_cpp", reason="ggml writes these: install mlxr[bench]")
        near = block.dequantize(by_ggml(w, block.number))
        assert np.linalg.norm(near - w) < 0.5 * np.linalg.norm(w)


@pytest.mark.parametrize("block", [t for t in ALL if t.block_size > 1], **ids)
def test_scales_that_are_not_finite_are_found(block):
    stored = random_blocks(block, 2, 512)
    if block.name == "MXFP4":
        stored.reshape(2, -1, 17)[..., 0] = 120
    assert block.finite(stored)
    parts = stored.reshape(2, -1, block.type_size)
    if block.name == "MXFP4":
        parts[1, 1, 0] = 253
    elif block.name == "Q8_K":
        parts[1, 1, :4] = np.array([np.inf], np.float32).view(np.uint8)
    else:
        parts[1, 1, block.scales_at[-1]:block.scales_at[-1] + 2] = np.array([np.nan], np.float16).view(np.uint8)
    assert not block.finite(stored)


@pytest.mark.parametrize("kind", ["bytes", "weights", "extremes"])
@pytest.mark.parametrize("block", AFFINE, **ids)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_affine_form_is_exact(block, kind):
    stored = blocks_of(block, kind)
    wanted = block.dequantize(stored)
    codes, scales, biases = block.to_affine(stored)
    assert codes.dtype == np.uint32 and codes.shape == (len(stored), wanted.shape[1] * block.affine_bits // 32)
    assert scales.dtype == biases.dtype == np.float32
    assert scales.shape == biases.shape == (len(stored), wanted.shape[1] // 32)
    got = np.array(mx.dequantize(*map(mx.array, (codes, scales, biases)), group_size=32, bits=block.affine_bits))
    finite = np.isfinite(np.repeat(scales + biases, 32, axis=1))
    assert finite.any()
    assert (got[finite] == wanted[finite]).all()


@pytest.mark.parametrize("block", ALL, **ids)
def test_sizes_and_numbers_are_ggmls(block):
    number = gguf.GGMLQuantizationType[block.name]
    assert block.number == number and BY_NUMBER[number] is block
    assert (block.block_size, block.type_size) == gguf.GGML_QUANT_SIZES[number]
    assert block.row_bytes(block.block_size * 5) == 5 * block.type_size


def test_every_file_registers_one_type():
    files = {p.stem for p in Path(quants.__file__).parent.glob("*.py")} - {"__init__", "block", "grids"}
    assert {name.lower() for name in REGISTRY} == files
    assert {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K", "MXFP4", "IQ2_XXS", "IQ3_S"} <= REGISTRY.keys()


@pytest.mark.parametrize("block", ALL, **ids)
def test_half_a_block_is_an_error(block):
    with pytest.raises(WeightsError, match=block.name):
        block.dequantize(np.zeros((2, block.type_size + 1), np.uint8))
    with pytest.raises(WeightsError, match=block.name):
        block.dequantize(np.zeros((2, block.type_size), np.int8))


@pytest.mark.parametrize("block", [t for t in ALL if not t.affine_bits], **ids)
def test_plain_floats_have_no_affine_form(block):
    with pytest.raises(WeightsError, match="no exact affine form"):
        block.to_affine(np.zeros((1, block.type_size), np.uint8))
