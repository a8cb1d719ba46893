"""The kernel library: texts, builds, the cache, the ways of calling, and what happens where something is missing."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlxr.errors import ConfigError, KernelError
from mlxr.kernels import host_build, host_call, mlx_bridge, prune, source
from mlxr.kernels.library import Kernel

REPO = Path(__file__).resolve().parents[2]
needs_compiler = pytest.mark.skipif(host_build.compiler() is None, reason="no C++ compiler")
TEXT = """
// doubles
KERNEL twice(dptr<const float> x, dptr<float> y, int n, GRID) {
    SIMDGROUPS {
        int i = (tg.x * SGS + sg) * 32;
        st(y, lane + i, FACTOR * ld(x, lane + i, first(lane, n - i)), first(lane, n - i));
    }
}
"""


def twice(factor="2.0f", **options):
    return Kernel(
        "twice",
        text=TEXT,
        inputs=[("x", "float")],
        outputs=[("y", "float")],
        ints=["n"],
        defines={"SGS": 1, "FACTOR": factor},
        on=options.pop("on", "host"),
        **options,
    )


def run(kernel, x, blocks=None):
    return kernel([x], [x.shape], (blocks or -(-x.size // 32), 1, 1), (x.size,))[0]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MLXR_HOME", str(tmp_path))
    monkeypatch.delenv("MLXR_PRECOMPILE", raising=False)
    return tmp_path


def python(code, **environment):
    """A fresh interpreter's (exit status, stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=REPO,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stdout, done.stderr


# ---- texts ---------------------------------------------------------------------------------------------------------
def test_metal_text_has_no_comments_and_only_what_it_needs():
    header, body = twice(on="metal").metal_text()
    assert "//" not in header and "/*" not in header and "\n\n" not in header
    assert "#define FACTOR 2.0f\n" in header and "KERNEL twice(" in header and "lanes_host" not in header
    assert "twice(x, y, dims[0], int3(threadgroup_position_in_grid)" in body
    assert len(header) < 2_000 and "mma" not in header and "dot4" not in header


def test_items_of_the_dialect_are_all_of_it_and_a_text_gets_those_it_reaches():
    dialect = source.strip(source.flatten('#include "lanes_metal.h"\n'))
    assert "".join(item for _, item, _ in prune.items(dialect)) == dialect
    text = (
        "#include <a>\n#define A(x) { \\\nb(x); \\\n}\ntypedef uint4 fours;\n"
        "template <int N> struct c { fours v[N]; };\ntemplate <typename T>\ninline T b(c<2> x) {\nreturn x.v[0];\n}\n"
        "inline int b(int x) { return d(x); }\ninline int d(int x) { return x; }\n"
    )
    names = lambda used: [name for name, _, _ in prune.items(used)]
    assert names(prune.used(text, "A(1);")) == [None, "A", "fours", "c", "b", "b", "d"]
    assert names(prune.used(text, "d(1);")) == [None, "d"]
    assert prune.used(text, "x = 1;") == "#include <a>\n"
    with pytest.raises(ValueError, match="no end of: inline int e"):
        prune.items("inline int e(int x) {\n")


def test_unknown_kernel_and_types_are_named():
    with pytest.raises(KernelError, match="no kernel source nothing.metal in .*; there are "):
        Kernel("nothing", inputs=[("x", "float")], outputs=[], defines={"SGS": 1})
    with pytest.raises(KernelError, match="unknown element type 'double'; there are float, half"):
        Kernel("twice", text=TEXT, inputs=[("x", "double")], outputs=[], defines={"SGS": 1})
    with pytest.raises(KernelError, match="defines must have SGS"):
        Kernel("twice", text=TEXT, inputs=[("x", "float")], outputs=[("y", "float")])


def test_every_metal_file_has_a_python_twin():
    for name in source.names():
        assert (REPO / "mlxr" / "kernels" / f"{name}.py").exists(), name


# ---- calling -------------------------------------------------------------------------------------------------------
@needs_compiler
def test_lazy_call_in_a_graph():
    x = mx.arange(100).astype(mx.float32)
    y = mx.exp(-run(twice(), x * 0.01)) + 1
    assert np.allclose(np.array(y), np.exp(-np.arange(100) * 0.02) + 1, atol=1e-6)


@needs_compiler
def test_strided_inputs_are_copied():
    x = mx.arange(24).astype(mx.float32).reshape(4, 6)
    for view in (x.T, x[:, ::2], x[1:3], mx.broadcast_to(x[0], (3, 6))):
        assert np.array_equal(np.array(run(twice(), view)), 2 * np.array(view))


@needs_compiler
def test_under_compile():
    f = mx.compile(lambda a: run(twice(), a * 2) + 1)
    for start in (0, 5):
        x = mx.arange(start, start + 50).astype(mx.float32)
        assert np.array_equal(np.array(f(x)), 4 * np.array(x) + 1)


@needs_compiler
def test_eager_call_gives_the_same():
    x = mx.arange(100).astype(mx.float32)
    k = twice().load()
    (y,) = host_call.call_eagerly(k._entry, [x[10:60]], [(50,)], ["float"], (2, 1, 1), (50,), 0, 2)
    assert np.array_equal(np.array(y), 2 * np.arange(10, 60))


@needs_compiler
def test_many_threads_and_chunks():
    k = twice().load()
    x = mx.arange(32 * 1000).astype(mx.float32)
    for count in (1, 2, 3, 8):
        for _ in range(50):
            (y,) = host_call.call(k._entry, [x], [(x.size,)], ["float"], (1000, 1, 1), (x.size,), 0, count)
            assert mx.array_equal(y, 2 * x).item(), count


@needs_compiler
def test_wrong_calls_say_so():
    k, x = twice(), mx.zeros((64,))
    with pytest.raises(KernelError, match="x is mlx.core.int32, should be mlx.core.float32"):
        run(k, x.astype(mx.int32))
    with pytest.raises(KernelError, match="takes 1 inputs, 1 shapes and 1 ints"):
        k([x, x], [(64,)], (2, 1, 1), (64,))


@needs_compiler
def test_bridge_is_lazy_here():
    """This machine's mlx is one the bridge takes: otherwise all of the above ran eagerly."""
    assert mlx_bridge.bridge() is not None


# ---- building ------------------------------------------------------------------------------------------------------
@needs_compiler
def test_built_once(home, capfd):
    k = twice("3.0f").load()
    assert "mlxr: compiling kernel twice for this CPU, once\n" == capfd.readouterr().err
    twice("3.0f").load()
    assert capfd.readouterr().err == ""
    assert [p.suffix for p in (home / "kernels").iterdir()] == [".so"]
    twice("4.0f").load()
    assert len(list((home / "kernels").iterdir())) == 2 and k.ready()


@needs_compiler
def test_nothing_is_said_of_compiling_where_that_is_wanted(home, capfd, monkeypatch):
    monkeypatch.setattr(host_build, "_quiet", [])
    host_build.quiet()
    assert twice("3.5f").load() and capfd.readouterr().err == "" and len(list((home / "kernels").iterdir())) == 1


@needs_compiler
def test_headers_compiled_once(home, monkeypatch):
    """The same kernels, and one header for those of the same flags; where it cannot be compiled, its text does."""
    monkeypatch.setenv("MLXR_PRECOMPILE", "1")
    for factor, flags in (("3.0f", ()), ("4.0f", ()), ("5.0f", ("-DOTHER",))):
        k = Kernel("twice", text=TEXT, inputs=[("x", "float")], outputs=[("y", "float")], ints=["n"], flags=flags,
                   defines={"SGS": 1, "FACTOR": factor}, on="host")
        assert k([mx.ones((32,))], [(32,)], (1, 1, 1), (32,))[0].sum().item() == 32 * float(factor[:-1])
    headers = list((home / "kernels").glob("*/lanes.h"))
    assert len(headers) == 2 and len(list((home / "kernels").glob("*.so"))) >= 3
    for h in headers:
        h.with_suffix(".h.gch").write_bytes(b"damaged")
    assert twice("6.0f").load().ready()


@needs_compiler
def test_headers_of_many_programs_are_compiled_for_them_alone(home, monkeypatch):
    monkeypatch.setattr(host_build, "MANY", 3)
    made, inner = [], host_build.subprocess.run
    monkeypatch.setattr(host_build.subprocess, "run", lambda command, **k: (made.append(command), inner(command, **k))[1])
    kernels = [twice(f"{n}.0f") for n in range(3, 9)]
    host_build.build([k.program() for k in kernels], "kernels")
    assert sum("c++-header" in c for c in made) == 1 and any("-include" in c for c in made)
    assert all(k.load().ready() for k in kernels)
    assert len(list((home / "kernels").iterdir())) == 6, "the headers are left"


@needs_compiler
def test_two_processes_at_once(home):
    code = (
        "import mlx.core as mx\nfrom mlxr.kernels.library import Kernel\n"
        f"k = Kernel('twice', text={TEXT!r}, inputs=[('x', 'float')], outputs=[('y', 'float')], ints=['n'],"
        "defines={'SGS': 1, 'FACTOR': '5.0f'}, on='host')\n"
        "print(k([mx.ones((32,))], [(32,)], (1, 1, 1), (32,))[0].sum().item())"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=REPO) for _ in range(2)
    ]
    assert [p.communicate(timeout=300)[0].strip() for p in both] == ["160.0", "160.0"]
    assert not [p for p in (home / "kernels").iterdir() if p.suffix not in (".so", ".tried")]


@needs_compiler
def test_a_kernel_that_does_not_compile(home, capfd):
    k = twice("nonsense")
    with pytest.raises(KernelError, match="could not compile a kernel: .*nonsense.*all of it in .*log"):
        k.load()
    assert k.ready() is False and k.backend == "reference"
    assert "mlxr: kernel twice runs on MLX's own operations: " in capfd.readouterr().err


@needs_compiler
def test_a_broken_file_in_the_cache_is_replaced(home):
    k = twice("7.0f")
    path = host_build.target(*k.program(), host_build.compiler())
    path.parent.mkdir(parents=True)
    path.write_bytes(b"cut short")
    assert np.array_equal(np.array(run(k, mx.ones((40,)))), np.full(40, 7.0))


@needs_compiler
def test_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLXR_HOME", str(tmp_path / "file"))
    with pytest.raises(KernelError, match="cannot write compiled kernels to .*; set MLXR_HOME"):
        twice("6.0f").load()


# ---- choosing ------------------------------------------------------------------------------------------------------
BACKEND = "from mlxr.kernels import library; print(library.backend()); library.backend()"


def test_without_a_compiler_the_twins_run_and_one_line_says_so():
    status, out, err = python(BACKEND, MLXR_CXX="")
    assert (status, out) == (0, "reference\n") and err.count("\n") == 1 and "no C++ compiler found" in err


def test_forced_backend():
    assert python(BACKEND, MLXR_BACKEND="reference")[:2] == (0, "reference\n")
    status, _, err = python(BACKEND, MLXR_BACKEND="fast")
    assert status and "ConfigError: MLXR_BACKEND is 'fast': give one of metal, host, reference" in err
    status, _, err = python(BACKEND, MLXR_BACKEND="host", MLXR_CXX="no-such-compiler")
    assert status and "KernelError: MLXR_BACKEND is host, but no C++ compiler was found" in err


def test_threads(monkeypatch):
    host_call.threads.cache_clear()
    monkeypatch.setenv("MLXR_THREADS", "3")
    assert host_call.threads() == 3
    host_call.threads.cache_clear()
    monkeypatch.setenv("MLXR_THREADS", "all")
    with pytest.raises(ConfigError, match="MLXR_THREADS is 'all': give a number of threads"):
        host_call.threads()
    monkeypatch.delenv("MLXR_THREADS")
    host_call.threads.cache_clear()
    assert 1 <= host_call.threads() <= os.cpu_count()


# ---- packaging -----------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_wheel_has_the_kernels(tmp_path):
    """Installed from a wheel into a folder without write access, a kernel is found and compiled."""
    tree = tmp_path / "tree"
    for name in ("mlxr", "metal"):
        shutil.copytree(REPO / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md"):
        shutil.copy(REPO / name, tree)
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(tmp_path), str(tree)],
        capture_output=True,
        text=True,
    )
    if "No matching distribution found for setuptools" in built.stderr:
        pytest.skip("the build needs setuptools, which cannot be fetched here")
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    metal = REPO / "metal"
    for path in [*metal.glob("*.metal"), *metal.rglob("include/**/*.h")]:
        assert f"mlxr/_metal/{path.relative_to(metal)}" in names
    assert "mlxr/kernels/host/pool.cpp" in names
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    for path in [tmp_path / "site", *(tmp_path / "site").rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    code = (
        "import mlxr.kernels.source as s; from mlxr.kernels.library import Kernel; print(s.metal_folder())\n"
        "k = Kernel('a', text='KERNEL a(dptr<float> y, GRID) { SIMDGROUPS y[lane] = vfloat(7.0f); }', inputs=[],"
        "outputs=[('y', 'float')],"
        "defines={'SGS': 1}, on='host')\nprint(k([], [(32,)], (1, 1, 1))[0].sum().item())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site"), "MLXR_HOME": str(tmp_path / "home")},
    )
    for path in (tmp_path / "site").rglob("*"):
        path.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "site" / "mlxr" / "_metal"), "224.0"]
