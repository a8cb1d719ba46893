"""What an engine compiles before it serves is what it calls: nothing is compiled in the middle of a text."""

import json
import os
import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest
from helpers.tiny import prompts, run, tiny_engine
from mlx.utils import tree_flatten
from models.tiny_configs import CONFIGS, tiny_model

from mlxr.config import EngineConfig
from mlxr.engine import load_engine
from mlxr.errors import KernelError
from mlxr.kernels import host_build, library, q_gemv
from mlxr.models import modes
from mlxr.models.build import load_model
from mlxr.sequence import SamplingParams
from mlxr.weights.checkpoint import open_checkpoint

pytestmark = pytest.mark.skipif(host_build.compiler() is None, reason="no C++ compiler")

_NEW = """
import sys
from mlxr import LLM, SamplingParams
from mlxr.kernels import host_build
compiled, build = [], host_build._compile
host_build._compile = lambda *a: compiled.append(a) or build(*a)
with LLM(sys.argv[1]) as llm:
    print(len(compiled), end=" ")
    llm.generate("The capital of France is", SamplingParams(max_tokens=4))
    llm.generate(list(range(5, 1500)), SamplingParams(max_tokens=3))
    for n in range(1, 34):
        llm.generate([list(range(9, 9 + i)) for i in range(1, n + 1, 1 + n // 8)], SamplingParams(max_tokens=3))
    print(len(compiled), len({a[3] for a in compiled}))
"""


def child(code, *arguments, **environment):
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=300,
                          env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_a_new_machine_compiles_all_at_once_and_then_nothing(smollm2_gguf, tmp_path):
    done = child(_NEW, smollm2_gguf, MLXR_HOME=str(tmp_path), MLXR_BACKEND="host")
    before, after, different = map(int, done.stdout.split())
    assert before == after == different > 20
    assert [line.split(" for this")[0] for line in done.stderr.splitlines() if "compiling" in line] == [f"mlxr: compiling {before} kernels"]
    again = child(_NEW, smollm2_gguf, MLXR_HOME=str(tmp_path), MLXR_BACKEND="host")
    assert again.stdout.split() == ["0", "0", "0"] and not again.stderr


def test_every_kernel_that_is_called_was_rehearsed(smollm2_gguf, monkeypatch):
    monkeypatch.setenv("MLXR_BACKEND", "host")
    engine = load_engine(str(smollm2_gguf), EngineConfig(max_batch=6, pool_bytes=1 << 27, token_budget=256))
    assert {k.name for k in engine.kernels} >= {"q_gemv", "q_gemm_int8" if host_build.has_byte_products() else "q_gemm", "q_rows"} and len(set(engine.kernels)) == len(engine.kernels)
    called, call = set(), library.Kernel.__call__
    monkeypatch.setattr(library.Kernel, "__call__", lambda self, *a, **k: called.add(self) or call(self, *a, **k))
    for count, length in ((1, 200), (1, 7), (2, 3), (3, 40), (5, 70), (6, 130)):
        for p in prompts([length] * count):
            engine.add(p, SamplingParams(max_tokens=3))
        run(engine, [])
    long, *short = prompts([1500, 5, 8])                     # chunks whose logits nobody wants, then a few tokens after many
    for p in (long, [*long[:1472], 3, 4], [*long[:1472], 5, 6, 7], *short):
        engine.add(p, SamplingParams(max_tokens=30))
        for _ in range(9):
            engine.step()
    run(engine, [])
    assert called and called <= set(engine.kernels)
    info = engine.info()
    assert info["backend"] == "host" and info["threads"] >= 1 and info["kernels"].split(";")[0].endswith(" on Q4_1, Q8_0")
    assert set(info["kernels"].split(" on ")[0].split()) == {k.name for k in engine.kernels}


@pytest.mark.parametrize("name", ["llama", "qwen3_next", "kimi_k3"])
def test_a_rehearsal_leaves_no_trace(name, tmp_path, monkeypatch):
    """Neither in the pool, nor in a recurrent state, nor in a function that a model compiles: paged, serial, gathered."""
    monkeypatch.setenv("MLXR_BACKEND", "host")
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[name]))
    mx.save_safetensors(str(tmp_path / "model.safetensors"), dict(tree_flatten(tiny_model(name).parameters())))
    mode = modes.mode_of(name)[0]

    def tokens(rehearse):
        engine = tiny_engine(load_model(open_checkpoint(tmp_path)), CONFIGS[name], mode)
        kept = [np.array(a) for a in engine.pool.arrays]
        if rehearse:
            assert engine.kernels
            assert engine.pool.slots == 1 and all(np.array_equal(a, b) for a, b in zip(kept, engine.pool.arrays))
        made = [engine.add(p, SamplingParams(max_tokens=8, logprobs=0)) for p in prompts([40, 5], vocabulary=100)]
        return run(engine, made)

    assert tokens(True) == tokens(False)


def test_a_rehearsed_kernel_is_neither_compiled_nor_run(monkeypatch):
    monkeypatch.setenv("MLXR_BACKEND", "host")
    before = library.used.copy()
    with library.rehearsal() as called:
        y = q_gemv.apply(mx.ones((1, 64)), (mx.ones((8, 64)),), "F32")
        assert mx.array_equal(y, mx.zeros((1, 8))) and [k.name for k in called] == ["q_gemv"]
        with pytest.raises(KernelError, match="a rehearsal is under way"), library.rehearsal():
            pass
    assert library.used == before
    assert q_gemv.apply(mx.ones((1, 64)), (mx.ones((8, 64)),), "F32")[0, 0].item() == 64


def test_the_reference_backend_says_so(monkeypatch):
    monkeypatch.setenv("MLXR_BACKEND", "reference")
    engine = tiny_engine()
    info = engine.info()
    assert (info["backend"], info["kernels"]) == ("reference", "mlx") and "threads" not in info and engine.kernels == []
