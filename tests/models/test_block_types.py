"""GGUF block types in a model: which way each takes on each backend, and the same logits on all."""

import mlxr  # noqa: F401  (first: it decides which BLAS MLX uses)
import mlx.core as mx
import numpy as np
import pytest
from helpers.gguf_files import Tiny, write_random
from kernels.matrices import needs_compiler

from mlxr.errors import WeightsError
from mlxr.kernels import library
from mlxr.models import build
from mlxr.models.build import gguf_model, gguf_ways, load_model
from mlxr.weights.checkpoint import open_checkpoint
from mlxr.weights.quants import REGISTRY

SHAPE = dict(hidden=256, heads=4, kv_heads=2, head_dim=64, ff=512, vocab=320, embedding="Q6_K")
BLOCKS = sorted(name for name, block in REGISTRY.items() if block.block_size > 1)
IDS = mx.array([[1, 5, 9, 2, 7, 3, 200, 11]])


def written(tmp_path, kind, **changes):
    path = tmp_path / f"{kind}.gguf"
    write_random(path, Tiny(quant=kind, **{**SHAPE, **changes}))
    return open_checkpoint(path)


def ways(checkpoint):
    """{block type: way} of the matrices."""
    found = gguf_ways(gguf_model(checkpoint), checkpoint)
    return {checkpoint.tensor(n).type: way for n, way in found.items() if "proj" in n}


@pytest.mark.parametrize("kind", BLOCKS)
def test_the_way_of_each_type(tmp_path, kind, monkeypatch):
    checkpoint, block = written(tmp_path, kind), REGISTRY[kind]
    monkeypatch.setattr(library, "backend", lambda: "host")
    assert ways(checkpoint) == {kind: build.BLOCKS}
    monkeypatch.setattr(library, "backend", lambda: "reference")
    assert ways(checkpoint) == {kind: build.QUANTIZED if block.affine_bits else build.FLOATS}
    monkeypatch.setattr(library, "backend", lambda: "metal")
    mlx_s_own = kind in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")      # the same scales, in MLX's affine format
    assert ways(checkpoint) == {kind: build.QUANTIZED if mlx_s_own else build.BLOCKS}


@needs_compiler
@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K", *(pytest.param(k, marks=pytest.mark.slow) for k in BLOCKS
                                                    if k not in ("Q4_K", "Q6_K"))])
def test_the_same_logits_on_kernels_twins_and_without(tmp_path, kind, monkeypatch):
    """Twins take over where a trial refuses our kernels after loading; "reference" loads in another form."""
    checkpoint = written(tmp_path, kind)
    monkeypatch.setenv("MLXR_BACKEND", "host")
    model, before = load_model(checkpoint), library.used.copy()
    rows = [np.array(model(ids)) for ids in (IDS, IDS[:, :1])]         # q_gemm and q_gemv
    assert {"q_gemv", "q_gemm", "q_rows"} <= {name for name, _ in library.used - before}
    with library.aside():
        twins = [np.array(model(ids)) for ids in (IDS, IDS[:, :1])]
    monkeypatch.setenv("MLXR_BACKEND", "reference")
    plain = load_model(checkpoint)
    for ours, twin, ids in zip(rows, twins, (IDS, IDS[:, :1])):
        want = np.array(plain(ids))
        assert np.linalg.norm(ours - want) < 1e-4 * np.linalg.norm(want)
        assert np.linalg.norm(twin - want) < 1e-4 * np.linalg.norm(want)


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K", "MXFP4"])
def test_scales_that_are_not_finite_are_refused(tmp_path, kind, backend):
    checkpoint, block = written(tmp_path, kind), REGISTRY[kind]
    t = checkpoint.tensor("model.layers.1.mlp.up_proj.weight")
    raw = bytearray(checkpoint.path.read_bytes())
    raw[t.offset:t.offset + block.type_size] = b"\xff" * block.type_size
    (tmp_path / "bad.gguf").write_bytes(raw)
    with pytest.raises(WeightsError, match="model.layers.1.mlp.up_proj.weight has scales that are not finite"):
        load_model(open_checkpoint(tmp_path / "bad.gguf"))


def test_blocks_are_decoded_some_rows_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setenv("MLXR_BACKEND", "reference")
    checkpoint = written(tmp_path, "Q6_K")
    whole = np.array(load_model(checkpoint)(IDS))
    monkeypatch.setattr(build, "_SLICE", 8 * 3 * REGISTRY["Q6_K"].row_bytes(256))
    assert np.array_equal(whole, np.array(load_model(checkpoint)(IDS)))
