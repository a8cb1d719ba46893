"""Peak memory while loading: at most 1.15 times the weights as they end up, in a process of its own."""

import json
import subprocess
import sys

import mlxr  # noqa: F401  (first: it decides which BLAS MLX uses)
import mlx.core as mx
import pytest
from helpers.gguf_files import Tiny, write_random, write_tiny
from kernels.matrices import needs_compiler
from test_build import CONFIG, random_model, write_model

_LOAD = """
import json, resource, sys
import mlx.core as mx, mlx.nn
from mlx.utils import tree_flatten
from mlxr.models.build import load_model
from mlxr.models.zoo import lm_module
from mlxr.weights.checkpoint import open_checkpoint
lm_module("llama"), mx.eval(mx.ones(8) @ mx.ones((8, 8)))
checkpoint = open_checkpoint(sys.argv[1])
list(checkpoint.config)
load_model(open_checkpoint(sys.argv[2]))   # what the process takes once, whatever it loads: code, arenas, threads
mx.reset_peak_memory()

def resident(what):
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lines = dict(line.split(":") for line in open("/proc/self/status"))  # ru_maxrss counts the parent's memory too
    return int(lines[what].split()[0]) * 1024

before = resident("VmRSS")
model = load_model(checkpoint)
held = sum(w.nbytes for _, w in tree_flatten(model.parameters()))
print(json.dumps({"held": held, "file": checkpoint.nbytes, "mlx": mx.get_peak_memory(), "rss": resident("VmHWM") - before}))
"""


def measured(path, small):
    """The peaks of loading `path`, in a process that has loaded a small checkpoint of the same kind before."""
    out = subprocess.run([sys.executable, "-c", _LOAD, str(path), str(small)], capture_output=True, text=True, timeout=120)
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout)


def test_peak_memory_of_a_gguf(smollm2_gguf, tmp_path, backend):
    write_tiny(tmp_path / "tiny.gguf")
    m = measured(smollm2_gguf, tmp_path / "tiny.gguf")
    assert m["held"] == m["file"] > 90e6 if backend == "host" else m["held"] > 100e6
    assert m["rss"] <= 1.15 * m["held"] and m["mlx"] <= 1.15 * m["held"], m


def test_peak_memory_of_16_bit_weights(tmp_path, backend):
    """They are cast on "reference", and stay on "host" but for the norms."""
    config = dict(CONFIG, hidden_size=768, intermediate_size=3072, num_hidden_layers=8, vocab_size=2000)
    large, small = tmp_path / "large", tmp_path / "small"
    write_model(large, random_model(config, mx.bfloat16), config)
    write_model(small, random_model(CONFIG, mx.bfloat16), CONFIG)
    m = measured(large, small)
    assert m["held"] > 125e6 and (m["held"] > 250e6) == (backend == "reference")
    assert backend == "reference" or m["held"] <= 1.001 * m["file"]
    assert m["rss"] <= 1.15 * m["held"] and m["mlx"] <= 1.15 * m["held"], m


_ENGINE = """
import sys
from mlxr.config import EngineConfig
from mlxr.engine import Engine
from mlxr.models.build import load_model
from mlxr.weights.checkpoint import open_checkpoint

def load(path):
    checkpoint = open_checkpoint(path)
    return Engine(load_model(checkpoint), checkpoint.config, None, EngineConfig(context=256))

def resident():
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    return int(lines["VmRSS"].split()[0]) * 1024

first = load(sys.argv[2])
before = resident()
engine = load(sys.argv[1])
pool = sum(a.nbytes for a in engine.pool.arrays)
print((resident() - before - pool) / open_checkpoint(sys.argv[1]).nbytes, engine.fused)
"""


@pytest.mark.skipif(sys.platform == "darwin", reason="resident memory is read from /proc")
@needs_compiler
def test_a_loaded_q4_k_model_takes_its_file(tmp_path):
    """Beside the pool: the engine, with q, k and v joined, which were copied for that."""
    shape = dict(quant="Q4_K", embedding="Q6_K", hidden=1024, heads=16, kv_heads=4, head_dim=64, ff=4096, vocab=4096)
    for name, layers in (("large.gguf", 14), ("small.gguf", 1)):
        write_random(tmp_path / name, Tiny(layers=layers, **shape))
    out = subprocess.run([sys.executable, "-c", _ENGINE, str(tmp_path / "large.gguf"), str(tmp_path / "small.gguf")],
                         capture_output=True, text=True, timeout=300)
    assert out.returncode == 0, out.stderr
    times, fused = out.stdout.split()
    print(f"resident: {float(times):.3f} of the file, beside the pool")
    assert int(fused) == 14 and float(times) <= 1.05
