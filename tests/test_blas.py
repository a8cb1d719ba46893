"""OpenBLAS, where it is installed, is what MLX's matrix products run on."""

import glob
import os
import subprocess
import sys

import pytest

_WHICH = """
import ctypes, sys
{first}
import mlx.core as mx
mx.eval(mx.ones((64, 64)) @ mx.ones((64, 64)))
class Info(ctypes.Structure):
    _fields_ = [("file", ctypes.c_char_p), ("base", ctypes.c_void_p), ("name", ctypes.c_char_p), ("at", ctypes.c_void_p)]
# The first definition in load order after mlx's own search: what its undefined cblas_sgemm was bound to.
everything, info = ctypes.CDLL(None), Info()
everything.dladdr.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
found = ctypes.cast(everything.cblas_sgemm, ctypes.c_void_p).value if hasattr(everything, "cblas_sgemm") else None
if found:
    everything.dladdr(found, ctypes.byref(info))
print(info.file.decode() if found else "none")
"""

installed = [*glob.glob("/usr/lib/*/openblas*/libblas.so.3"), *glob.glob("/usr/lib*/libopenblas.so.0")]
needs_openblas = pytest.mark.skipif(not installed, reason="OpenBLAS is not installed (libopenblas0-pthread)")


def run(code, **env):
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ, **env})
    assert out.returncode == 0, out.stderr
    return out.stdout.strip()


@needs_openblas
def test_it_takes_precedence():
    assert "openblas" in run(_WHICH.format(first="import mlxr"))


@needs_openblas
def test_it_can_be_turned_off_and_named():
    assert "openblas" not in run(_WHICH.format(first="import mlxr"), MLXR_BLAS="none")
    assert run("import mlxr._blas as b; print(b.LOADED)", MLXR_BLAS=installed[0]) == installed[0]


@needs_openblas
def test_matrix_products_speed_up():
    """A hundredfold difference is the point: reference BLAS runs at some 3 GFLOP/s, OpenBLAS at 60 and more a core."""
    code = ("{first}\nimport time, mlx.core as mx\na = mx.ones((768, 768)); mx.eval(a @ a)\n"
            "def once():\n    t = time.perf_counter(); mx.eval(a @ a); return time.perf_counter() - t\n"
            "print(min(once() for _ in range(5)))")
    fast = float(run(code.format(first="import mlxr")))
    slow = float(run(code.format(first="import mlxr"), MLXR_BLAS="none"))
    assert slow > 3 * fast


def test_it_is_left_alone_once_mlx_is_loaded():
    assert run("import mlx.core, mlxr._blas as b; b.LOADED = None; b.prefer_openblas(); print(b.LOADED)") == "None"
