"""The bridge to MLX: makes host kernels, rows that are written, and recordings lazy operations of the installed mlx.

It needs mlx's C++ headers (its wheels bring them) and its arrays laid out as nanobind does it today. Both are tried on
this machine, not read off a version: the bridge is compiled, then a child process looks through it at arrays. Written for
mlx 0.32.4. Where either fails, kernels run eagerly: the same results, with a wait at each call.
"""

import ctypes
import functools
import os
import platform
import subprocess
import sys
import warnings
from pathlib import Path

import mlx.core as mx

from ..errors import KernelError
from . import host_build

_HOST = Path(__file__).parent / "host"
_TRIAL = """
import ctypes, sys, mlx.core as mx, numpy as np
holds = ctypes.PyDLL(sys.argv[1]).mlxr_holds
holds.argtypes = [ctypes.py_object, ctypes.c_long, ctypes.c_void_p]
for n in (1, 24, 1000):
    a = mx.arange(n); mx.eval(a)
    assert holds(a, n, np.array(a, copy=False).ctypes.data) == 1
    b = mx.zeros((n, 2)) + a[:, None]; mx.eval(b)
    assert holds(b, 2 * n, np.array(b, copy=False).ctypes.data) == 1
"""
_OBJECT, _POINTER, _TEXT = ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p
_FUNCTIONS = {  # name: result, arguments; see host/lazy.cpp, host/replay.cpp and host/likeness.cpp
    "mlxr_node": (_TEXT, _POINTER, _POINTER, ctypes.c_int, _OBJECT, _OBJECT, _OBJECT),
    "mlxr_write_rows": (_TEXT, _OBJECT, _OBJECT, ctypes.c_int),
    "mlxr_record": (_POINTER, _OBJECT, _OBJECT, _OBJECT),
    "mlxr_replay": (_TEXT, _POINTER, _OBJECT, _OBJECT),
    "mlxr_forget": (None, _POINTER),
    "mlxr_alike": (_POINTER, _POINTER, _OBJECT, _OBJECT, _OBJECT, _OBJECT, _OBJECT),
    "mlxr_clone": (_TEXT, _POINTER, _OBJECT, _OBJECT, _OBJECT, _OBJECT, _OBJECT),
    "mlxr_unlike": (None, _POINTER),
    "mlxr_problem": (_TEXT,),
    "mlxr_keep": (None, ctypes.c_long),
}


def program():
    """The bridge's text and flags, or None where mlx came without headers."""
    root = Path(mx.__file__).parent
    if not (root / "include" / "mlx" / "backend" / "cpu" / "encoder.h").exists():
        return None
    library = ["-Wl,-undefined,dynamic_lookup"] if sys.platform == "darwin" else ["-lmlx"]
    return (
        "".join((_HOST / n).read_text() for n in ("lazy.cpp", "replay.cpp", "likeness.cpp"))
        + f"// mlx {mx.__version__}, Python {platform.python_version()}\n",
        ["-std=c++20", "-O1", f"-I{root / 'include'}", f"-L{root / 'lib'}", f"-Wl,-rpath,{root / 'lib'}", *library],
    )


def _works(path):
    """Whether the primitive understands this Python's mlx arrays: tried once, in a child process."""
    verdict = path.with_suffix(".tried")
    if not verdict.exists():
        try:
            child = subprocess.run(
                [sys.executable, "-c", _TRIAL, str(path)], capture_output=True, text=True, timeout=120
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        scratch = verdict.with_suffix(f".{os.getpid()}.tmp")
        scratch.write_text("yes" if child.returncode == 0 else f"no: {child.stderr[-500:]}")
        scratch.replace(verdict)
    return verdict.read_text().startswith("yes")


@functools.lru_cache(None)
def bridge():
    """The compiled bridge, or None where kernels must be called eagerly (one warning says why)."""
    if os.environ.get("MLXR_EAGER"):
        return None
    why, text = "mlx came without C++ headers", program()
    if text:
        try:
            path = host_build.build([text], "the bridge to MLX")[0]
            if _works(path):
                loaded = ctypes.PyDLL(str(path))
                for name, (result, *arguments) in _FUNCTIONS.items():
                    getattr(loaded, name).restype, getattr(loaded, name).argtypes = result, arguments
                return loaded
            why = f"the bridge does not fit mlx {mx.__version__}"
        except (KernelError, OSError) as e:
            why = str(e)
    warnings.warn(f"host kernels are called eagerly, one by one: {why}", RuntimeWarning, stacklevel=2)
    return None
