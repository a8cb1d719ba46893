"""System, backends, memory limits, and whether MLX updates the page pool in place."""

import os
import resource
import subprocess
from pathlib import Path

import mlx.core as mx

from .. import _blas
from ..benchmarks.machine import machine, memory_available, versions
from ..home import cache_home
from ..kernels import host_build, host_call, library
from ..kernels.recording import write_rows
from ..kernels.seal import seal
from ..pages.formats import page_format

GIB = 1 << 30


def system():
    """What this is and what is installed: JSON types."""
    facts = {**machine(), "versions": versions(), "backend": library.backend(), "metal": mx.metal.is_available(),
             "threads": host_call.threads(), "compiler": _compiler(), "blas": _blas.LOADED or "MLX's own",
             "cache": str(cache_home()), "environment": {n: v for n, v in sorted(os.environ.items()) if n.startswith("MLXR_") and "KEY" not in n}}
    if facts["metal"]:
        facts["device"] = {n: v for n, v in mx.device_info().items() if isinstance(v, (int, float, str))}
    return facts


def _compiler():
    """The first line that the C++ compiler says of itself, or None."""
    found = host_build.compiler()
    if not found:
        return None
    try:
        said = subprocess.run([*(found if isinstance(found, (list, tuple)) else [found]), "--version"], capture_output=True, text=True, timeout=20)
        return said.stdout.splitlines()[0]
    except (OSError, subprocess.TimeoutExpired, IndexError):
        return str(found)


def donation():
    """{"ok", "pool_bytes", "seal_bytes", "tail_bytes", "write_bytes", "why"}: peak memory that sealing a page and writing a
    tail take beside the arrays. MLX reuses the buffer of an array that nothing else holds; else it would copy the pool."""
    fmt, heads, d, page = page_format("q8"), 4, 64, 64
    pool = mx.zeros((2048, heads, fmt.words(page, d, d)), mx.uint32)
    tail = mx.zeros((256 * page, heads, d), mx.float32)
    new = mx.ones((page, heads, d), mx.float32)
    rows, at = mx.arange(tail.shape[0], tail.shape[0] + page).astype(mx.int32), mx.array([3], mx.int32)
    few, where = mx.arange(page).astype(mx.int32), mx.arange(page).astype(mx.int32)
    out = {"pool_bytes": pool.nbytes, "tail_bytes": tail.nbytes, "ok": True, "why": ""}
    mx.eval(pool, tail, new, rows, at, few, where)
    for name, run, size in (("seal_bytes", lambda p, t: (seal(p, fmt, page, at, rows, t, t, new, new), t), pool.nbytes),
                            ("write_bytes", lambda p, t: (p, write_rows(t, where, few, new, new)), tail.nbytes)):
        pool, tail = run(pool, tail)
        mx.eval(pool, tail)                          # kernels compile, MLX's cache has buffers
        held = mx.get_active_memory()
        mx.reset_peak_memory()
        pool, tail = run(pool, tail)
        mx.eval(pool, tail)
        out[name] = mx.get_peak_memory() - held
        if out[name] > size // 2:
            out |= {"ok": False, "why": f"{name.split('_')[0]} copies the array it updates: {out[name]} bytes for {size}"}
    return out


def memory():
    """Limits in bytes, and what is recommended in words."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    out = {"total_bytes": total, "available_bytes": memory_available(), "limit_bytes": _limit(total), "advice": []}
    if mx.metal.is_available():
        info = mx.device_info()
        working = int(info.get("max_recommended_working_set_size", 0))
        out |= {"working_set_bytes": working, "largest_buffer_bytes": int(info.get("max_buffer_length", 0))}
        out["advice"].append(f"weights, pages and scratch together should stay below {working / GIB:.1f} GiB, the GPU's working set "
                             "(--memory, or --pool for the pages alone)")
        if total > 32 * GIB:
            wired = int(total / (1 << 20) * 0.85)
            out["advice"].append(f"for a larger working set: sudo sysctl iogpu.wired_limit_mb={wired}, which lasts until the next start")
    elif out["limit_bytes"]:
        out["advice"].append(f"this process may use {out['limit_bytes'] / GIB:.1f} GiB of {total / GIB:.1f}: choose --memory below that")
    if out["available_bytes"] < total / 4:
        out["advice"].append(f"{out['available_bytes'] / GIB:.1f} GiB of {total / GIB:.1f} are free: close something, or choose a small --pool")
    return out


def _limit(total):
    """Bytes that limits of this process or of its control group leave; None where they are no limits."""
    limits = [resource.getrlimit(resource.RLIMIT_AS)[0]]
    try:
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        pass
    limits = [n for n in limits if 0 < n < total]
    return min(limits, default=None)

