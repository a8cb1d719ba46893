"""The tuning table: what `mlxr doctor` found out on this machine. Which kernels give wrong numbers, and whose product is faster.

One JSON file in the cache folder for each chip, backend, versions of mlxr and MLX, and text of the kernels: with any other
of these, nothing is known. A kernel that is named there runs as its twin. On Metal, layers ask it whose product to take.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
from pathlib import Path

import mlx.core as mx

from .. import _version
from ..home import cache_home
from . import source

OURS, MLX = "ours", "mlx"
_ignored = []


def chip():
    """The GPU's name on a Mac, else the CPU's."""
    if mx.metal.is_available():
        return str(mx.device_info().get("device_name", "Apple GPU"))
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@functools.lru_cache(None)
def key(backend):
    """What a table holds for, as a dict of texts."""
    digest = hashlib.sha256()
    for path in sorted(p for p in source.metal_folder().rglob("*") if p.suffix in (".metal", ".h")):
        digest.update(path.name.encode() + path.read_bytes())
    return {"backend": backend, "chip": chip(), "mlxr": _version.__version__, "mlx": importlib.metadata.version("mlx"),
            "kernels": digest.hexdigest()[:16]}


def path(backend):
    """The file of the table for this machine and that backend. It need not exist."""
    name = hashlib.sha256(json.dumps(key(backend), sort_keys=True).encode()).hexdigest()[:16]
    return folder() / f"{backend}-{name}.json"


def folder():
    return cache_home() / "tuning"


@functools.lru_cache(None)
def _table(backend, home):
    if not (home / "tuning").is_dir():               # the texts are read only where there may be a table
        return {}
    try:
        found = json.loads(path(backend).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("key") == key(backend) else {}


def table(backend):
    """{"refused": {kernel: why}, "linear": {"KIND NxK": {"choice": "ours" or "mlx", ...}}, ...}; {} where nothing is known."""
    return {} if _ignored or backend == "reference" else _table(backend, cache_home())


def refused(kernel, backend):
    """Why a kernel may not run on this machine, or None."""
    return table(backend).get("refused", {}).get(kernel)


def choice(kind, shape, backend="metal"):
    """"ours" or "mlx", whose product of a matrix [N, K] of that type of weights was faster; None where it was not measured."""
    return table(backend).get("linear", {}).get(linear_key(kind, *shape), {}).get("choice")


def linear_key(kind, n, k):
    return f"{kind} {n}x{k}"


def store(backend, refused, linear):
    """Write the table of this machine, with the choices that it had for other shapes; returns its path. Raises OSError."""
    before = _table(backend, cache_home()).get("linear", {})
    target = path(backend)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps({"key": key(backend), "refused": refused, "linear": {**before, **linear}}, indent=1) + "\n")
    os.replace(partial, target)
    _table.cache_clear()
    return target


@contextlib.contextmanager
def ignored():
    """In here nothing is known: for measuring anew."""
    _ignored.append(True)
    try:
        yield
    finally:
        _ignored.pop()
