"""Blocks of stored weights: quantized by gguf-py where it can, by ggml where llama-cpp-python is there, or random ones."""

import ctypes
import functools
from pathlib import Path

import gguf
import numpy as np
import pytest

WRITTEN = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4")  # by gguf-py


def quantized(block, weights):
    """uint8 [rows, row_bytes] of float32 [rows, columns], for the types in WRITTEN."""
    return gguf.quantize(weights, gguf.GGMLQuantizationType[block.name]).view(np.uint8)


def random_blocks(block, rows, columns, seed=0):
    """uint8 [rows, row_bytes] of a type that gguf-py does not write: random codes, scales whose weights are about 1."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (rows, columns // block.block_size, block.type_size), np.uint8)
    for at in block.scales_at:
        raw[..., at:at + 2] = rng.normal(0, 0.02, raw.shape[:2]).astype(np.float16)[..., None].view(np.uint8)
    if block.name == "Q8_K":
        raw[..., :4] = rng.normal(0, 0.02, raw.shape[:2]).astype(np.float32)[..., None].view(np.uint8)
    return raw.reshape(rows, -1)


@functools.lru_cache(None)
def ggml():
    """libggml-base of llama-cpp-python, as a ctypes library; skips the test where it is not installed."""
    peer = pytest.importorskip("llama_cpp", reason="ggml is the judge here: install mlxr[bench]")
    folder = Path(peer.__file__).parent / "lib"
    found = sorted(folder.glob("libggml-base.*"))
    if not found:
        pytest.skip(f"{folder} has no libggml-base")
    return ctypes.CDLL(str(found[0]))


def ggml_quantized(block, weights):
    """The same as `quantized`, by ggml's own functions, which write every type; all columns matter alike."""
    weights = np.ascontiguousarray(weights, np.float32)
    rows, columns = weights.shape
    out, importance = np.zeros((rows, block.row_bytes(columns)), np.uint8), np.ones(columns, np.float32)
    quantize = ggml().ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    quantize.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    assert quantize(int(block.number), weights.ctypes.data, out.ctypes.data, 0, rows, columns, importance.ctypes.data) == out.nbytes
    return out


def ggml_dequantized(block, blocks):
    """float32 of uint8 [rows, row_bytes], by ggml's reference function."""
    count = blocks.size // block.type_size * block.block_size
    out, blocks = np.empty(count, np.float32), np.ascontiguousarray(blocks)
    name = block.name.lower() if "_K" not in block.name else block.name.lower()[:-1] + "K"
    run = getattr(ggml(), f"dequantize_row_{name}")
    run.restype, run.argtypes = None, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    run(blocks.ctypes.data, out.ctypes.data, count)
    return out.reshape(blocks.shape[0], -1)
