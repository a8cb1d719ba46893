"""The package: checked by ruff and mypy, one version, wheel and sdist with all that is not Python, and a life without this tree."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import mlxr

tomllib = pytest.importorskip("tomllib", reason="of Python 3.11 and later")

REPO = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())


def tool(*command):
    return subprocess.run([sys.executable, "-m", *command], cwd=REPO, capture_output=True, text=True, timeout=600)


def test_ruff_finds_nothing():
    pytest.importorskip("ruff")
    scripts = [p for p in (REPO / "tools").iterdir() if p.is_file() and p.read_bytes().startswith(b"#!/usr/bin/env python3")]
    found = tool("ruff", "check", "--output-format", "concise", "mlxr", "tests", "examples", "setup.py", *map(str, scripts))
    assert found.returncode == 0, found.stdout + found.stderr


def test_mypy_finds_nothing():
    pytest.importorskip("mypy")
    found = tool("mypy")
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_version_is_in_one_place():
    assert PROJECT["project"]["dynamic"] == ["version"]
    written = [p for p in [*(REPO / "mlxr").rglob("*.py"), REPO / "pyproject.toml", REPO / "setup.py"] if f'"{mlxr.__version__}"' in p.read_text()]
    assert written == [REPO / "mlxr" / "_version.py"]


def test_the_pythons_are_those_that_are_named():
    named = [c.rpartition(" ")[2] for c in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d", c)]
    assert tuple(named) == PYTHONS and PROJECT["project"]["requires-python"] == f">={PYTHONS[0]}"
    assert PROJECT["tool"]["ruff"]["target-version"] == "py310" and PROJECT["tool"]["mypy"]["python_version"] == PYTHONS[0]
    assert {"bench", "dev"} <= PROJECT["project"]["optional-dependencies"].keys()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(wheel, sdist) of what git tracks."""
    source, out = (tmp_path_factory.mktemp(n) for n in ("source", "dist"))
    for name in subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=True).stdout.split("\n"):
        if name and (REPO / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, source / name)
    made = subprocess.run([sys.executable, "-m", "build", "--outdir", out, source], capture_output=True, text=True, timeout=900)
    assert made.returncode == 0, made.stdout + made.stderr
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


@pytest.mark.slow
def test_wheel_and_sdist_have_all_that_is_not_python(built):
    wheel, sdist = built
    files = set(zipfile.ZipFile(wheel).namelist())
    data = subprocess.run(["git", "ls-files", "mlxr", "metal"], cwd=REPO, capture_output=True, text=True).stdout.split()
    for name in data:
        assert (f"mlxr/_{name}" if name.startswith("metal/") else name) in files, f"{name} is not in the wheel"
    assert not [f for f in files if f.startswith("tests")]
    packed = {name.partition("/")[2] for name in tarfile.open(sdist).getnames()}
    assert not set(data) - packed and "README.md" in packed and "pyproject.toml" in packed


def pythons():
    """A parameter for each version: its interpreter, from pyenv or the path."""
    for version in PYTHONS:
        found = next(map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python")), None) or shutil.which(f"python{version}")
        yield pytest.param(found, marks=[] if found else pytest.mark.skip(reason=f"there is no Python {version} here"), id=version)


@pytest.mark.slow
@pytest.mark.parametrize("python", list(pythons()))
def test_the_wheel_lives_in_an_empty_environment(built, python, tmp_path, smollm2_gguf):
    """From another folder: text with kernels; the same text, and a line that says so, without a compiler on the path."""
    subprocess.run([python, "-m", "venv", tmp_path / "env"], check=True)
    own = tmp_path / "env" / "bin"
    subprocess.run([own / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", built[0]], check=True, timeout=1800)
    (tmp_path / "elsewhere").mkdir()
    keep = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MLXR_BACKEND", "MLXR_CXX")}
    ask = [own / "mlxr", "generate", smollm2_gguf, "--prompt", "Why is the sky blue?", "--max-tokens", "12"]

    def run(*command, **more):
        return subprocess.run(list(map(str, command)), cwd=tmp_path / "elsewhere", env={**keep, "MLXR_HOME": str(tmp_path / "home"), **more},
                              capture_output=True, text=True, timeout=900)
    first = run(*ask)
    assert first.returncode == 0 and len(first.stdout) > 20, first.stderr
    assert "no C++ compiler" not in first.stderr
    bare = run(*ask, PATH=str(own))
    assert bare.returncode == 0 and bare.stdout == first.stdout, bare.stderr
    assert "no C++ compiler found (c++, g++ or clang++): running on MLX's own operations, which are slower" in bare.stderr
    for command in (("--version",), ("plan", "llama-3-8b"), ("doctor", "--no-timing")):
        result = run(own / "mlxr", *command, PATH=str(own))
        assert result.returncode == 0 and result.stdout, result.stderr
    shown = run(own / "python", "-c", "import mlxr, pathlib; p = pathlib.Path(mlxr.__file__).parent; "
                "print(len((p / 'server/page/index.html').read_text()), len((p / 'docs/record.md').read_text()))")
    assert shown.returncode == 0 and all(int(n) > 500 for n in shown.stdout.split()), shown.stderr


@pytest.mark.slow
def test_the_quickstart_answers(tmp_path, smollm2_gguf):
    """tools/quickstart in a fresh clone."""
    subprocess.run(["git", "clone", "--quiet", REPO, tmp_path / "clone"], check=True)
    result = subprocess.run([tmp_path / "clone" / "tools" / "quickstart"], capture_output=True, text=True, timeout=1800, cwd=tmp_path,
                            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"})
    assert result.returncode == 0 and len(result.stdout) > 50, result.stderr
