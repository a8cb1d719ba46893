"""Integer products with what SmolLM2's down_proj layers are given: some channels are a thousand times as large as others there."""

import mlx.core as mx
import numpy as np
import pytest
from kernels.gate import relative
from kernels.matrices import matrix, needs_compiler
from kernels.test_q_gemm_int8 import BY_TYPE
from kernels.test_q_gemv import oracle

from mlxr.caldera.calibration import watched
from mlxr.kernels import q_gemm_int8, q_gemv
from mlxr.kernels.stored import TYPES, stored

OFTEN = "Q4_K", "Q2_K", "Q8_0"                            # of those with a unit for a whole step, where there are few registers, and others
ONE_BY_ONE = [k if k in OFTEN else pytest.param(k, marks=pytest.mark.slow) for k, t in TYPES.items() if t.bytes]


class Notes(list):
    """What the watched layers were given, as arrays [24, channels]."""

    def begin(self):
        self.sums = {}

    def add(self, path, x):
        self.append(np.array(x[0].astype(mx.float32)))


@pytest.fixture(scope="module")
def real(smollm2_fp32, wikitext):
    """What the first, a middle and the last down_proj get for 24 tokens of text."""
    from mlx_lm import load

    model, tokenizer = load(str(smollm2_fp32))
    notes = Notes()
    notes.begin()
    watched(model, [f"model.layers.{i}.mlp.down_proj" for i in (0, 15, 29)], notes, [tokenizer.encode(wikitext[:400])[:24]])
    return notes


@needs_compiler
@BY_TYPE
def test_q_gemm_int8(kind, real):
    w, decoded = matrix(kind, 48, real[0].shape[1])
    for x in real:
        rows = x[:12] if stored(kind).codes > 4 else x
        assert relative(q_gemm_int8.apply(mx.array(rows), w, kind), oracle(rows, decoded)) < 1e-5


@needs_compiler
@pytest.mark.parametrize("kind", ONE_BY_ONE)
def test_q_gemv(kind, real):
    """Every token by itself."""
    w, decoded = matrix(kind, 48, real[0].shape[1])
    for row in np.concatenate(real):
        assert relative(q_gemv.apply(mx.array(row[None]), w, kind), oracle(row, decoded)) < 1e-5
