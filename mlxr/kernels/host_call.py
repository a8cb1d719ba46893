"""Calls compiled host kernels: as lazy MLX operations where the bridge to the installed mlx works, eagerly elsewhere."""

import ctypes
import functools
import os
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..errors import ConfigError, KernelError
from . import host_build, mlx_bridge

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
MLX_VERSION: str = mx.__version__  # type: ignore[attr-defined]
_HOST = Path(__file__).parent / "host"


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


def keep(most):
    """Have so many bytes of what kernels' large outputs free kept for the next ones, in this process; 0: none. Where kernels are
    lazy operations on a CPU."""
    if bridge := mlx_bridge.bridge():
        bridge.mlxr_keep(most)


def pool_program():
    return (_HOST / "pool.cpp").read_text(), ["-std=c++17", "-O2", "-lpthread"]


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


def as_float(a):
    """fp32, without an operation where it is that: graphs of kernels alone can be recorded."""
    return a if a.dtype == mx.float32 else a.astype(mx.float32)


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
    bridge = mlx_bridge.bridge()
    if bridge is None:
        return call_eagerly(entry, inputs, shapes, elements, grid, ints, shared, count)
    outputs = tuple([mx.array(0) for _ in shapes])
    numbers = [count, shared, *grid, *ints]
    for shape, element in zip(shapes, elements):
        numbers += [ELEMENTS[element][1], len(shape), *shape]
    error = bridge.mlxr_node(_launcher_address(), entry, len(ints), tuple(inputs), outputs, tuple(numbers))
    if error:
        raise KernelError(f"a kernel could not be called: {error.decode()}")
    return list(outputs)
