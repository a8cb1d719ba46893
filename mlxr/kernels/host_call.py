"""Calls compiled host kernels: as lazy MLX operations where the installed mlx allows it, eagerly elsewhere.

The lazy way needs mlx's C++ headers (its wheels bring them) and its arrays laid out as nanobind does it today. Both are
tried on this machine, not read off a version: the bridge is compiled, then a child process looks through it at arrays.
Written for mlx 0.32.4. Where either fails, kernels run eagerly: the same results, with a wait at each call.
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
import numpy as np

from ..errors import ConfigError, KernelError
from . import host_build

# element type in a kernel -> (MLX dtype, number in host/lazy.cpp)
ELEMENTS = {
    name: (dtype, i)
    for i, (name, dtype) in enumerate(
        {
            "float": mx.float32,
            "half": mx.float16,
            "bfloat16_t": mx.bfloat16,
            "uint": mx.uint32,
            "int": mx.int32,
            "ushort": mx.uint16,
            "short": mx.int16,
            "uchar": mx.uint8,
            "char": mx.int8,
        }.items()
    )
}
ELEMENT_OF = {dtype: name for name, (dtype, _) in ELEMENTS.items()}
MLX_VERSION = mx.__version__
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


@functools.lru_cache(None)
def threads():
    """Threads of a host kernel: MLXR_THREADS, or the machine's physical cores that this process may use."""
    wanted = os.environ.get("MLXR_THREADS")
    if wanted:
        if not wanted.isdigit() or not int(wanted):
            raise ConfigError(f"MLXR_THREADS is {wanted!r}: give a number of threads, 1 or more")
        return int(wanted)
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = set()
    for cpu in usable:
        try:
            cores.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            cores.add(cpu)
    return max(1, len(cores))


def pool_program():
    return (_HOST / "pool.cpp").read_text(), ["-std=c++17", "-O2", "-lpthread"]


def lazy_program():
    """The primitive's text and flags, or None where mlx came without headers."""
    root = Path(mx.__file__).parent
    if not (root / "include" / "mlx" / "backend" / "cpu" / "encoder.h").exists():
        return None
    library = ["-Wl,-undefined,dynamic_lookup"] if sys.platform == "darwin" else ["-lmlx"]
    return (
        (_HOST / "lazy.cpp").read_text() + f"// mlx {mx.__version__}, Python {platform.python_version()}\n",
        ["-std=c++20", "-O1", f"-I{root / 'include'}", f"-L{root / 'lib'}", f"-Wl,-rpath,{root / 'lib'}", *library],
    )


@functools.lru_cache(None)
def launcher():
    """mlxr_launch of the thread pool, as a ctypes function."""
    run = host_build.library(*pool_program(), "the thread pool").mlxr_launch
    run.restype = ctypes.c_char_p
    run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long, ctypes.c_int]
    return run


@functools.lru_cache(None)
def _launcher_address():
    return ctypes.cast(launcher(), ctypes.c_void_p).value


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
def node_maker():
    """mlxr_node of the lazy primitive, or None where kernels must be called eagerly (one warning says why)."""
    if os.environ.get("MLXR_EAGER"):
        return None
    why, program = "mlx came without C++ headers", lazy_program()
    if program:
        try:
            path = host_build.build([program], "the bridge to MLX")[0]
            if _works(path):
                make = ctypes.PyDLL(str(path)).mlxr_node
                make.restype = ctypes.c_char_p
                make.argtypes = [
                    ctypes.c_void_p,
                    ctypes.c_void_p,
                    ctypes.c_int,
                    ctypes.py_object,
                    ctypes.py_object,
                    ctypes.py_object,
                ]
                return make
            why = f"the bridge does not fit mlx {mx.__version__}"
        except (KernelError, OSError) as e:
            why = str(e)
    warnings.warn(f"host kernels are called eagerly, one by one: {why}", RuntimeWarning, stacklevel=2)
    return None


def _memory(array):
    """A NumPy view (bf16 as uint16) of an evaluated array's memory, or a copy where it is not contiguous."""
    if array.dtype == mx.bfloat16:
        array = array.view(mx.uint16)
    return np.ascontiguousarray(np.array(array, copy=False))


def call_eagerly(entry, inputs, shapes, elements, grid, ints, shared, count):
    """Evaluate the inputs, run the kernel now; a list of arrays."""
    mx.eval(inputs)
    arrays = [_memory(a) for a in inputs]
    outs = [
        np.empty(s, np.uint16 if e == "bfloat16_t" else np.dtype(str(ELEMENTS[e][0]).split(".")[-1]))
        for s, e in zip(shapes, elements)
    ]
    n = len(arrays) + len(outs)
    buffers = (ctypes.c_void_p * n)(*[a.ctypes.data for a in (*arrays, *outs)])
    sizes = (ctypes.c_long * n)(*[a.nbytes for a in (*arrays, *outs)])
    numbers = (ctypes.c_int * (3 + len(ints)))(*grid, *ints)
    error = launcher()(entry, buffers, sizes, numbers, shared, count)
    if error:
        raise KernelError(f"a kernel failed: {error.decode()}")
    results = [mx.array(a) for a in outs]
    return [r.view(mx.bfloat16) if e == "bfloat16_t" else r for r, e in zip(results, elements)]


def call(entry, inputs, shapes, elements, grid, ints, shared, count):
    """Outputs of a compiled kernel, lazily where that is possible. entry: its address; shared: bytes."""
    make = node_maker()
    if make is None:
        return call_eagerly(entry, inputs, shapes, elements, grid, ints, shared, count)
    outputs = tuple([mx.array(0) for _ in shapes])
    numbers = [count, shared, *grid, *ints]
    for shape, element in zip(shapes, elements):
        numbers += [ELEMENTS[element][1], len(shape), *shape]
    error = make(_launcher_address(), entry, len(ints), tuple(inputs), outputs, tuple(numbers))
    if error:
        raise KernelError(f"a kernel could not be called: {error.decode()}")
    return list(outputs)
