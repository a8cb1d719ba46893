"""Weights as GGUF blocks: gguf-py's quantizer, and ggml's own, out of llama-cpp-python, for the types it lacks."""

import ctypes
import functools
import os
from pathlib import Path

import gguf
import numpy as np
import pytest


def quantize(w, kind):
    """float32 [..., columns] -> what GGUFWriter.add_tensor takes: uint8 [..., row bytes], or floats."""
    number = gguf.GGMLQuantizationType[kind]
    try:
        return gguf.quantize(np.ascontiguousarray(w, np.float32), number)
    except NotImplementedError:
        return by_ggml(w, number)


@functools.lru_cache
def ggml_library():
    """libggml-base of llama-cpp-python, as a ctypes library."""
    if "PYTEST_CURRENT_TEST" in os.environ:
        pytest.importorskip("llama_cpp", reason="ggml writes this type: install mlxr[bench]")
    import llama_cpp

    library = ctypes.CDLL(str(next((Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.*"))))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64,
                                            ctypes.c_int64, ctypes.c_void_p]
    return library


def by_ggml(w, number):
    """The same by ggml's C code, with all weights equally important."""
    block, size = gguf.GGML_QUANT_SIZES[number]
    w = np.ascontiguousarray(w, np.float32)
    rows, columns = w.size // w.shape[-1], w.shape[-1]
    out = np.empty((rows, columns // block * size), np.uint8)
    important = np.ones(columns, np.float32)
    used = ggml_library().ggml_quantize_chunk(int(number), w.ctypes.data, out.ctypes.data, 0, rows, columns, important.ctypes.data)
    assert used == out.nbytes, f"ggml wrote {used} bytes of {number.name}, not {out.nbytes}"
    return out.reshape(*w.shape[:-1], -1)
