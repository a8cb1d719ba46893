"""Blocks of stored weights for tests that need no ggml: quantized by gguf-py where it can, random elsewhere; and ggml's decoding."""

import ctypes

import gguf
import numpy as np
import pytest

from .ggml_blocks import ggml_library

WRITTEN = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4")  # by gguf-py


def quantized(block, weights):
    """uint8 [rows, row_bytes] of float32 [rows, columns], for the types in WRITTEN."""
    return gguf.quantize(weights, gguf.GGMLQuantizationType[block.name]).view(np.uint8)


def random_blocks(block, rows, columns, seed=0):
    """uint8 [rows, row_bytes] of a type that gguf-py does not write: random codes, scales that make weights of about 1."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (rows, columns // block.block_size, block.type_size), np.uint8)
    scales = [rng.normal(0, 1, raw.shape[:2]) for _ in block.scales_at]
    whole = rng.normal(0, 0.01, raw.shape[:2]).astype(np.float32)
    if block.name == "MXFP4":
        raw[..., 0] = rng.integers(118, 124, raw.shape[:2])
    if block.name == "Q8_K":
        raw[..., :4] = whole[..., None].view(np.uint8)
    for size in (0.01, None) if scales else ():  # for weights of any size, then for these divided by it
        size = size or 0.01 / max(1e-3, float(np.std(block.dequantize(raw.reshape(rows, -1)))))
        for at, d in zip(block.scales_at, scales):
            raw[..., at:at + 2] = (d * size).astype(np.float16)[..., None].view(np.uint8)
    return raw.reshape(rows, -1)


def ggml_dequantized(block, blocks):
    """float32 of uint8 [rows, row_bytes], by ggml's reference function."""
    count = blocks.size // block.type_size * block.block_size
    out, blocks = np.empty(count, np.float32), np.ascontiguousarray(blocks)
    name = block.name.lower() if "_K" not in block.name else block.name.lower()[:-1] + "K"
    pytest.importorskip("llama_cpp", reason="ggml is the judge here: install mlxr[bench]")
    run = getattr(ggml_library(), f"dequantize_row_{name}")
    run.restype, run.argtypes = None, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    run(blocks.ctypes.data, out.ctypes.data, count)
    return out.reshape(blocks.shape[0], -1)
