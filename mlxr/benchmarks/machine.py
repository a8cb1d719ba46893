"""What a measurement was made on: CPU, memory, load and versions."""

import importlib.metadata
import os
import platform
from pathlib import Path

from .._version import __version__
from ..errors import ConfigError
from ..kernels.tuning import chip

SPARE = 0.9     # of the available memory: what takes more is not tried
PACKAGES = {"mlx": "mlx", "mlx_lm": "mlx-lm", "llama_cpp_python": "llama-cpp-python", "numpy": "numpy"}


def versions():
    """{name: version}, of what is installed."""
    found = {"mlxr": __version__, "python": platform.python_version()}
    for name, package in PACKAGES.items():
        try:
            found[name] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pass
    return found


def machine():
    """System, CPU, its logical CPUs that this process may use, memory in bytes, load average of the last minute."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"system": f"{platform.system()} {platform.machine()}", "cpu": chip(), "cpus": cpus,
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "load": round(os.getloadavg()[0], 2)}


def memory_available():
    """Bytes that can be had without swapping."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def check_cache(nbytes):
    """Raises ConfigError where a contestant's KV cache of that size would not fit into what is available."""
    if nbytes > SPARE * memory_available():
        raise ConfigError(f"its cache takes {nbytes / 2**30:.1f} GiB, and {memory_available() / 2**30:.1f} GiB are available")
