"""Matrices of stored weights for the tests: every type that kernels read, with what its data decodes to."""

import functools

import mlx.core as mx
import numpy as np
import pytest
from helpers.blocks import WRITTEN, quantized, random_blocks

from mlxr.kernels import host_build
from mlxr.kernels.stored import AFFINE_BITS, AFFINE_GROUPS, TYPES, affine, arrays, stored
from mlxr.weights.quants import REGISTRY

def name(kind):
    return kind if isinstance(kind, str) else kind.name


needs_compiler = pytest.mark.skipif(host_build.compiler() is None, reason="no C++ compiler")
GGUF = tuple(TYPES)
_SCALES = {"float": mx.float32, "half": mx.float16, "bfloat16_t": mx.bfloat16}
ONE_GROUP = tuple(
    affine(bits, group, scales)
    for (bits, group), scales in zip(
        [(2, 32), (3, 64), (4, 32), (5, 128), (6, 64), (8, 32)],
        [mx.float16, mx.float16, mx.float16, mx.bfloat16, mx.float32, mx.float16],
    )
)
ALL_AFFINE = tuple(
    affine(bits, group, scales) for bits in AFFINE_BITS for group in AFFINE_GROUPS for scales in _SCALES.values()
)
KINDS = GGUF + ONE_GROUP
# Compiling takes seconds a kernel: the types that few files have are tried by one kernel each, but for the slow run.
RARE = {"Q5_0", "Q5_1", "Q8_K", "Q2_K", "Q3_K", "IQ4_NL", "TQ1_0", "TQ2_0", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"}
SLOW_IF_RARE = [pytest.param(k, marks=pytest.mark.slow) if name(k) in RARE else k for k in KINDS]
X86 = any("-march" in f for f in host_build.kernel_flags())
FORMS = {**({"avx2": ("-march=haswell",)} if X86 else {}), "portable": ("-DLANES_PORTABLE", "-DLANES_NO_AVX512")}


def plain(a):
    """An mlx array as fp32 NumPy."""
    return np.array(a.astype(mx.float32))


@functools.lru_cache(64)
def matrix(kind, n, k, seed=0):
    """(arrays as kernels take them, fp32 [n, k] that they decode to)."""
    kind = stored(kind)
    w = np.random.default_rng(seed).standard_normal((n, k)).astype(np.float32)
    if kind.header == "quants/plain.h":
        array = mx.array(w).astype({"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}[kind.name])
        return arrays(array, kind), plain(array)
    if kind.header == "quants/affine.h":
        how = dict(kind.defines)
        codes, scales, offsets = mx.quantize(mx.array(w), group_size=how["GROUP"], bits=how["BITS"])
        scales, offsets = (a.astype(_SCALES[how["STYPE"]]) for a in (scales, offsets))
        bits = np.unpackbits(np.array(codes).view(np.uint8).reshape(n, -1), axis=1, bitorder="little").reshape(
            n, k, how["BITS"]
        )
        values = bits @ (1 << np.arange(how["BITS"]))
        wide = [np.repeat(plain(a), how["GROUP"], axis=1) for a in (scales, offsets)]
        return (codes, scales, offsets), (values * wide[0] + wide[1]).astype(np.float32)
    block = REGISTRY[kind.name]
    blocks = quantized(block, w) if kind.name in WRITTEN else random_blocks(block, n, k, seed)
    return arrays(mx.array(blocks), kind), block.dequantize(blocks)  # as gguf-py does: tests/weights/test_quants.py


def activations(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
