"""The logic of the kernel benchmark: what it measures, errors and ratios, what it leaves out, tables and CSV files."""

import mlx.core as mx
import numpy as np
import pytest

from kernels.matrices import needs_compiler
from mlxr.benchmarks import csv_file, kernel_bench, kernel_cases, kernel_shapes, kernel_table, kernel_weights
from mlxr.errors import ConfigError
from mlxr.kernels import library, source
from mlxr.kernels.twins import dequantize
from mlxr.weights.quants import REGISTRY


def test_every_kernel_is_in_every_preset():
    for preset in ("tiny", "quick", "full"):
        assert {p.kernel for p in kernel_shapes.plans(preset)} == set(source.names())


def test_full_covers_models_contexts_and_batches():
    every = [p for p in kernel_shapes.plans("full") if p.kernel == "attend"]
    for model in ("SmolLM2-135M", "Llama-3.2-1B", "Qwen3-4B", "Llama-3-8B"):
        shapes = {p.shape for p in every if p.model == model}
        assert {f"context {c}, batch {b}, new 1, f16" for c in (512, 32768) for b in (1, 16)} <= shapes


def test_unknown_kernels_are_refused():
    with pytest.raises(ConfigError, match="--kernels gemm: there are attend"):
        kernel_shapes.plans("tiny", ["gemm"])
    assert [p.kernel for p in kernel_shapes.plans("tiny", ["rope", "seal"])] == ["seal", "rope"]


@pytest.mark.parametrize("kind", kernel_weights.KINDS)
def test_weights_are_the_same_for_mlx(kind, monkeypatch):
    """MLX's form decodes to what ours does; a copy has the same numbers in other memory."""
    k = 128 if kind not in REGISTRY else max(128, REGISTRY[kind].block_size)
    monkeypatch.setattr(kernel_weights, "_DISTINCT", 5 * k)
    w = kernel_weights.make_weights(kind, 13, k)
    plain = dequantize(w.arrays, w.kind, k)
    x = mx.array(np.eye(k, dtype=np.float32)[:9])
    assert plain.shape == (13, k) and mx.allclose(w.mlx_product(x), plain.T[:9], atol=1e-5) and len(np.unique(np.array(plain), axis=0)) == 5
    assert mx.allclose(w.mlx_rows(mx.array([4, 12])).astype(mx.float32), plain[mx.array([4, 12])], atol=1e-5)
    assert all(mx.array_equal(a, b) for a, b in zip(w.copy().arrays, w.arrays)) and w.nbytes == sum(a.nbytes for a in w.arrays)
    with pytest.raises(ConfigError, match="no weights of kind 'Q9'"):
        kernel_weights.make_weights("Q9", 13, k)


def test_relative_error():
    a = mx.array([1.0, -4.0, 0.0])
    assert kernel_bench.relative_error([(a, a)]) == 0
    assert kernel_bench.relative_error([(a, a), (a + mx.array([0, 0, 0.2]), a)]) == pytest.approx(0.05, rel=1e-5)
    assert kernel_bench.relative_error([(a, mx.zeros(3))]) == 4.0


def bench(monkeypatch, ours, theirs, error=0.0, memory=1e6):
    """A KernelBench of one case that needs no kernel: these are the times of its launches and of MLX's, the probe's first."""
    times = {1: iter(ours), 2: iter(theirs)}

    def launch(i):
        library.used["rope", library.backend()] += 1
        return [mx.zeros(1)]

    case = kernel_cases.Case(launch, lambda i: [mx.zeros(2)], "mx.thing", 2 * 10 ** 9, 4e9, lambda: [(mx.array([1.0 + error]), mx.array([1.0]))])
    monkeypatch.setattr(kernel_bench, "plans", lambda preset, kernels: [kernel_shapes.Planned("rope", "M", "some", memory, lambda: case)])
    monkeypatch.setattr(kernel_bench, "timed", lambda launch, count: next(times[launch(0)[0].size]))
    made = kernel_bench.KernelBench("tiny", (), 3)
    made._bound = lambda: 10.0
    return made


@needs_compiler
def test_medians_and_ratios_of_a_kernel(monkeypatch):
    made = bench(monkeypatch, ours=[0.9, 0.2, 0.5], theirs=[0.1, 3.0, 1.0, 1.5])     # the first of theirs is the probe
    made._one(made.plans[0])
    (row,) = made.rows
    assert row["ms"] == 500 and row["gbps"] == 4 and row["share_of_bound"] == 0.4 and row["gflops"] == 8
    assert row["mlx_ms"] == 1500 and row["ratio_to_mlx"] == 3.0 and row["mlx"] == "mx.thing" and row["max_rel_error"] == 0
    assert made.notes == [] and made.wrong == []


@needs_compiler
def test_a_wrong_kernel_is_told(monkeypatch):
    made = bench(monkeypatch, ours=[0.1] * 3, theirs=[0.1] * 4, error=0.5)
    made._one(made.plans[0])
    assert made.wrong == made.rows and "is wrong: 5.0e-01 from its twin" in made.notes[0]


@needs_compiler
def test_mlx_is_left_out_where_it_takes_too_long(monkeypatch):
    made = bench(monkeypatch, ours=[0.1] * 3, theirs=[11.0])
    made._one(made.plans[0])
    assert made.rows[0]["ratio_to_mlx"] is None and "mx.thing was left out: it would take some 11 s" in made.notes[0]


@needs_compiler
def test_what_needs_too_much_memory_is_left_out(monkeypatch):
    made = bench(monkeypatch, [], [], memory=1e9)
    monkeypatch.setattr(kernel_bench, "memory_available", lambda: 1e9)
    made._one(made.plans[0])
    assert made.rows == [] and "it needs some 1.0 GB, and 0.6 GB may be used" in made.notes[0]


ROW = {"kernel": "attend", "model": "M", "shape": "s, with a comma", "ms": 1.5, "gbps": 10.0, "share_of_bound": 0.5, "bound_gbps": 20.0,
       "gflops": None, "mlx": "x", "mlx_ms": None, "ratio_to_mlx": None, "max_rel_error": 1e-6, "reps": 5, "backend": "host",
       "threads": 2, "load": 0.1}


def test_table():
    head, line, last = kernel_table.lines([ROW])
    assert "of bound" in head and "attend" in line and "50%" in line and " - " in line and "2 threads" in last
    assert len(list(kernel_table.lines([]))) == 1


def test_csv_is_appended_with_one_header(tmp_path):
    path = tmp_path / "a.csv"
    for tag in ("one", "two"):
        csv_file.check(path, kernel_table.COLUMNS)
        csv_file.append(path, kernel_table.COLUMNS, kernel_table.csv_rows([ROW], tag))
    lines = path.read_text().splitlines()
    assert len(lines) == 3 and lines[0].startswith("time,tag,kernel,") and ",one,attend,M,\"s, with a comma\",1.5," in lines[1]
    path.write_text("x,y\n")
    with pytest.raises(ConfigError, match="has other columns"):
        csv_file.check(path, kernel_table.COLUMNS)
