"""`mlxr doctor` on the host build: all is right here; a kernel that is broken on purpose is found, and its twin serves."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.command import environment
from kernels.matrices import needs_compiler

from mlxr.cli.main import main
from mlxr.doctor import examination, products
from mlxr.doctor.kernels import examine, kernel_cases
from mlxr.errors import ConfigError
from mlxr.home import cache_home
from mlxr.kernels import library, source, tuning
from mlxr.models import build

REPO = Path(__file__).resolve().parents[2]


class Machine:
    """A copy of the package, with its own cache folder in which only compiled kernels are those of this machine."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("mlxr", "metal"):
            shutil.copytree(REPO / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "home").mkdir()
        (cache_home() / "kernels").mkdir(parents=True, exist_ok=True)
        (folder / "home" / "kernels").symlink_to(cache_home() / "kernels")

    def run(self, *args, timeout=300):
        return subprocess.run([sys.executable, "-m", "mlxr", *map(str, args)], capture_output=True, text=True, timeout=timeout, cwd=self.folder,
                              env={**environment(), "PYTHONPATH": str(self.folder), "MLXR_HOME": str(self.folder / "home")})

    def break_kernel(self, name, before, after):
        file = self.folder / "metal" / f"{name}.metal"
        text = file.read_text()
        assert text.count(before) == 1, text.count(before)
        file.write_text(text.replace(before, after))


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@needs_compiler
def test_all_is_well_here(machine):
    result = machine.run("doctor", "--no-timing", "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    r = json.loads(result.stdout)
    assert r["ok"] and r["system"]["backend"] == "host" and r["system"]["compiler"] and r["memory"]["total_bytes"] > 1 << 28
    assert {k["kernel"] for k in r["kernels"]} == set(source.names()), "every kernel has a check"
    assert all(k["ok"] and k["error"] < 1e-3 for k in r["kernels"])
    assert r["donation"]["ok"] and r["donation"]["seal_bytes"] < r["donation"]["pool_bytes"] / 4
    table = json.loads(Path(r["table"]).read_text())
    assert table["refused"] == {} and table["key"]["chip"] and table["key"]["mlx"] and table["key"]["mlxr"]


BROKEN = {"q_rows": ("b.v[i], first(lane, mine)", "b.v[i] * 1.5f, first(lane, mine)"),
          "q_gemv": ("vfloat v = out.y[b];", "vfloat v = out.y[b] * 1.01f;"),}


@needs_compiler
@pytest.mark.parametrize("name", ["q_rows", pytest.param("q_gemv", marks=pytest.mark.slow)])
def test_a_broken_kernel_is_found_and_its_twin_serves(machine, smollm2_gguf, name):
    ask = ("generate", smollm2_gguf, "--prompt", "Why is the sky blue?", "--max-tokens", "8")
    right = machine.run(*ask)
    machine.break_kernel(name, *BROKEN[name])
    wrong = machine.run(*ask)
    assert wrong.returncode == 0 and "mlxr doctor found" not in wrong.stderr
    if name == "q_rows":
        assert wrong.stdout != right.stdout
    result = machine.run("doctor", "--no-timing")
    assert result.returncode == 1
    assert f"WRONG: {name};" in result.stdout and "from the twin's, more than" in result.stdout
    again = machine.run(*ask)
    said = [line for line in again.stderr.splitlines() if "mlxr doctor found it wrong on this machine" in line]
    assert len(said) == 1 and f"kernel {name} runs on MLX's own operations" in said[0]
    assert again.stdout == right.stdout


SUBTLE = {"q_gemm_int8": ("float unit = f[r * 2], total = f[r * 2 + 1];", "float unit = f[r * 2] * 1.01f, total = f[r * 2 + 1];"),
          "int8_split": ("st(bytes, lane + 32, vuint(b), first(lane, 32));", "st(bytes, lane + 32, vuint(c), first(lane, 32));"),
          "rms_norm": ("float(K) + NORM_EPS)", "float(K) + NORM_EPS) * 1.01f")}


@needs_compiler
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n == "int8_split" else pytest.mark.slow) for n in SUBTLE])
def test_a_kernel_that_is_a_little_wrong_is_found(machine, name):
    machine.break_kernel(name, *SUBTLE[name])
    result = machine.run("doctor", "--no-timing", "--json")
    assert result.returncode == 1
    r = json.loads(result.stdout)
    found = {k["kernel"] for k in r["kernels"] if not k["ok"]}
    assert found - {"q_gemm_int8"} == {name} - {"q_gemm_int8"} and name in found        # q_gemm_int8 takes what int8_split gives
    assert name in json.loads(Path(r["table"]).read_text())["refused"]


@needs_compiler
def test_a_kernel_that_does_not_compile_is_found(machine):
    machine.break_kernel("rope", "KERNEL rope(", "KERNEL nonsense rope(")
    result = machine.run("doctor", "--no-timing", "--json")
    assert result.returncode == 1
    r = json.loads(result.stdout)
    assert [k["kernel"] for k in r["kernels"] if not k["ok"]] == ["rope"] and not r["ok"]


@needs_compiler
def test_ctrl_c_keeps_what_was_found_and_changes_no_table(monkeypatch, capsys):
    stored, seen = [], []
    monkeypatch.setattr(tuning, "store", lambda *a: stored.append(a))

    def interrupted(planned):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(planned.kernel)
        return examine(planned)

    monkeypatch.setattr(examination, "examine", interrupted)
    assert main(["doctor", "--no-timing"]) == 130
    shown = capsys.readouterr().out
    assert seen == ["read_bound", "rope"] and all(f"{name:11s} ok     1 of 1 right" in shown for name in seen)
    assert "interrupted: what was examined is well" in shown and not stored and "merge" not in shown


def test_without_kernels_it_says_so_and_is_content(tmp_path):
    result = subprocess.run([sys.executable, "-m", "mlxr", "doctor"], capture_output=True, text=True, timeout=120,
                            env={**environment(), "MLXR_BACKEND": "reference", "MLXR_HOME": str(tmp_path)})
    assert result.returncode == 0 and "no kernel runs here" in result.stdout and "all is well" in result.stdout
    assert not (tmp_path / "tuning").exists()


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.setenv("MLXR_HOME", str(tmp_path))
    yield lambda refused=(), linear=(), backend="metal": tuning.store(backend, dict(refused), {k: {"choice": c} for k, c in dict(linear).items()})
    tuning._table.cache_clear()


def test_a_table_is_of_one_chip_and_version(table, monkeypatch):
    assert tuning.refused("seal", "host") is None
    file = table({"seal": "bad"}, backend="host")
    assert tuning.refused("seal", "host") == "bad" and tuning.refused("seal", "metal") is None and tuning.refused("rope", "host") is None
    with tuning.ignored():
        assert tuning.refused("seal", "host") is None
    for change in ({"chip": "another"}, {"mlx": "9.9"}, {"mlxr": "9.9"}, {"kernels": "0"}):
        other = {**tuning.key("host"), **change}
        with monkeypatch.context() as m:
            m.setattr(tuning, "key", lambda backend, other=other: other)
            tuning._table.cache_clear()
            assert tuning.refused("seal", "host") is None
    tuning._table.cache_clear()
    assert tuning.refused("seal", "host") == "bad"
    for junk in ("", "{", "[]", '{"key": {}}'):
        file.write_text(junk)
        tuning._table.cache_clear()
        assert tuning.refused("seal", "host") is None


@needs_compiler
def test_a_refused_kernel_is_not_ready(table, capsys):
    table({"merge": "for a test"}, backend="host")
    library._say.cache_clear()
    k = library.Kernel("merge", inputs=[], outputs=[], defines={"SGS": 1})
    assert not k.ready() and k.backend == "reference" and "for a test" in capsys.readouterr().err


def test_metal_takes_what_was_measured(table, monkeypatch, smollm2_gguf):
    """Without a table: MLX's format for Q4_1, which it has exactly. With one: whose product was faster, shape by shape."""
    from mlxr.weights.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(smollm2_gguf)
    model = build.gguf_model(checkpoint)
    monkeypatch.setattr(library, "backend", lambda: "metal")
    ways = build.gguf_ways(model, checkpoint)
    gate, down = "model.layers.3.mlp.gate_proj.weight", "model.layers.3.mlp.down_proj.weight"
    assert ways[gate] == ways[down] == build.QUANTIZED
    table(linear={"Q4_1 1536x576": "ours", "Q4_1 576x1536": "mlx"})
    ways = build.gguf_ways(model, checkpoint)
    assert ways[gate] == build.BLOCKS and ways[down] == build.QUANTIZED


def test_metal_takes_ours_for_affine_weights_where_they_were_faster(table, monkeypatch):
    import mlx.core as mx
    import mlx.nn as nn

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (nn.QuantizedLinear(128, n, bias=False, group_size=64, bits=4) for n in (64, 96))
    model = Two()
    weights = {f"{n}.{k}": v.astype(mx.float16) if k != "weight" else v for n in "ab" for k, v in getattr(model, n).parameters().items()}
    monkeypatch.setattr(build, "own_weights", lambda model: ())
    monkeypatch.setattr(library, "backend", lambda: "metal")
    assert build.stored_layers(model, weights) == []
    table(linear={"affine4_64_half 64x128": "ours", "affine4_64_half 96x128": "mlx"})
    assert build.stored_layers(model, weights) == ["a"]


def test_shapes_of_a_model(smollm2_gguf):
    shapes, left = products.shapes_of(smollm2_gguf)
    assert ("Q4_1", 1536, 576) in shapes and ("Q4_1", 576, 1536) in shapes and len(shapes) == len(set(shapes)) < 10
    assert not left


@needs_compiler
def test_products_are_measured_in_turns():
    p = products.measure("Q4_1", 64, 256)
    assert p["key"] == "Q4_1 64x256" and p["choice"] in ("ours", "mlx") and p["mlx"] == "mx.quantized_matmul"
    assert set(p["rows"]) == {"1", "64"} and all(v > 0 for r in p["rows"].values() for v in r.values()) and p["error"] < 1e-3
    assert products.measure("Q4_K", 64, 256)["choice"] == "ours"       # MLX has no format of the same numbers


def test_every_kernel_format_and_type_has_a_case():
    cases = list(kernel_cases(every=True))
    assert {c.kernel for c in cases} == set(source.names())
    from mlxr.benchmarks.kernel_weights import KINDS
    from mlxr.pages.formats import NAMES

    assert {c.shape for c in cases if c.kernel == "seal"} == {f"pages {n}" for n in NAMES}
    assert {c.shape for c in cases if c.kernel == "q_gemv"} == {f"{k} weights" for k in KINDS}


@pytest.mark.slow
@needs_compiler
def test_every_format_and_type_is_right_here(machine):
    result = machine.run("doctor", "--all", "--no-timing", "--json", timeout=1800)       # compiles a hundred kernels
    assert result.returncode == 0, [k for k in json.loads(result.stdout)["kernels"] if not k["ok"]]
    assert os.path.getsize(json.loads(result.stdout)["table"]) > 100


def test_refusals():
    from mlxr.cli.main import main

    assert main(["doctor", "--threads", "0"]) == 2
    with pytest.raises(ConfigError):
        from mlxr.benchmarks.kernel_weights import make_weights
        make_weights("affine9_1x", 4, 4)
