"""Compiles host programs with the system's C++ compiler, once: the results are cached by text, compiler and CPU."""

import collections
import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..errors import KernelError
from ..home import cache_home
from . import source

COMPILERS = (
    "c++",
    "g++",
    "clang++",
    *(f"clang++-{v}" for v in range(22, 13, -1)),
    "g++-14",
    "g++-13",
    "g++-12",
    "g++-11",
)
_TIMEOUT = 300  # seconds for one program
MANY = 8  # programs that are worth it to compile their headers for them, which takes as long as four do


@functools.lru_cache(None)
def compiler():
    """Path of the C++ compiler: MLXR_CXX, or the first of the usual names on PATH; None where there is none."""
    wanted = os.environ.get("MLXR_CXX")
    if wanted is not None:
        return shutil.which(wanted) if wanted else None
    return next((path for name in COMPILERS if (path := shutil.which(name))), None)


@functools.lru_cache(None)
def _identity(cxx):
    """What a compiled program depends on besides its text: compiler version and CPU."""
    try:
        version = subprocess.run([cxx, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError) as e:
        raise KernelError(f"the C++ compiler {cxx} does not run: {e}") from e
    cpu = platform.processor()
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = "\n".join(sorted({x for x in lines if x.startswith(("flags", "Features", "model name", "CPU part"))}))
    elif sys.platform == "darwin":
        cpu = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True).stdout
    return f"{version}\n{platform.machine()}\n{cpu}"


@functools.lru_cache(None)
def cpu_flags():
    """What this CPU can do, as Linux names it: {"avx512_vnni", ...}. Empty where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    found = (x.partition(":")[2].split() for x in lines if x.startswith(("flags", "Features")))
    return frozenset(next(found, ()))


def has_byte_products():
    """Whether this CPU multiplies bytes four at a time (dot4 of the dialect), many at once."""
    return "avx512_vnni" in cpu_flags()


def has_pair_products():
    """Whether it multiplies bytes at least two at a time (dot_digits): that pays where weights are read once, but not in other kernels."""
    return has_byte_products() or "avx2" in cpu_flags()


def kernel_flags(checked=False):
    """Compiler flags of a kernel for this CPU."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    tune = ["-march=native", "-mprefer-vector-width=512"] if x86 else ["-mcpu=native"]
    return [
        "-std=c++17",
        "-O1" if checked else "-O2",
        *tune,
        "-ffp-contract=fast",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-fsigned-char",
        *(["-DLANES_CHECKED"] if checked else []),
    ]


def cache_folder():
    return cache_home() / "kernels"


def target(text, flags, cxx):
    """Where the compiled program of this text lies, or will."""
    key = hashlib.sha256("\0".join([text, *flags, _identity(cxx)]).encode()).hexdigest()[:24]
    return cache_folder() / f"{key}.so"


def _compile_header(flags, cxx, folder):
    """folder/lanes.h, the dialect, and what GCC makes of it: half of a kernel's compilation, and 50 MB of disk."""
    header = folder / "lanes.h"
    ready = header.with_suffix(".h.gch")
    if not ready.exists():
        folder.mkdir(parents=True, exist_ok=True)
        scratch = header.with_name(f"{os.getpid()}.{threading.get_ident()}")
        scratch.write_text(source.host_dialect())
        scratch.replace(header)
        command = [cxx, *flags, "-fPIC", "-w", "-x", "c++-header", "-o", str(scratch), str(header)]
        if subprocess.run(command, capture_output=True, timeout=_TIMEOUT).returncode == 0:
            scratch.replace(ready)           # where this fails, the header itself is included: slower, and the same
    return header


def _precompiled(text, flags, cxx, once):
    """(flags, text without the dialect at its beginning) that take the dialect from a header compiled once.

    Where MLXR_PRECOMPILE is set, from one that is kept; else from that in the folder `once`, from when it is there.
    """
    dialect = source.host_dialect()
    if not text.startswith(dialect) or "Free Software" not in _identity(cxx):
        return [], text
    if os.environ.get("MLXR_PRECOMPILE"):
        header = _compile_header(flags, cxx, target(dialect, flags, cxx).with_suffix(""))
    elif once and list(flags) == list(once[0]) and (once[1] / "lanes.h.gch").exists():
        header = once[1] / "lanes.h"
    else:
        return [], text
    return ["-include", str(header)], text[len(dialect):]


def _compile(text, flags, cxx, path, once=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    include, text = _precompiled(text, flags, cxx, once)
    program, scratch = path.with_suffix(f".{os.getpid()}.cpp"), path.with_suffix(f".{os.getpid()}.tmp")
    program.write_text(text)
    libraries = [f for f in flags if f.startswith(("-l", "-L", "-Wl"))]
    command = [
        cxx,
        *include,
        *(f for f in flags if f not in libraries),
        "-fPIC",
        "-shared",
        "-w",
        "-o",
        str(scratch),
        str(program),
        *libraries,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired as e:
        raise KernelError(f"{cxx} took more than {_TIMEOUT} s; set MLXR_CXX to another compiler") from e
    if done.returncode:
        log = path.with_suffix(".log")
        log.write_text(" ".join(command) + "\n" + done.stderr)
        program.replace(path.with_suffix(".cpp"))
        first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[-200:])
        raise KernelError(f"{cxx} could not compile a kernel: {first.strip()[:200]} (all of it in {log})")
    scratch.replace(path)  # atomic: a second process that compiles the same at the same time ends with the same file
    program.unlink()
    return path


_quiet = []


def quiet():
    """From now on nothing is said of compiling, in this process. What goes wrong is said all the same."""
    _quiet.append(True)


def _compile_all(missing, cxx):
    """missing: [(path, text, flags)], all at a time. Where they are many, one thread compiles their headers first."""
    with ThreadPoolExecutor(max(1, min(len(missing), os.cpu_count() or 1))) as pool, contextlib.ExitStack() as stack:
        once = None
        flags, kernels = collections.Counter(tuple(flags) for _, _, flags in missing).most_common(1)[0]
        if kernels >= MANY and "Free Software" in _identity(cxx) and not os.environ.get("MLXR_PRECOMPILE"):
            cache_folder().mkdir(parents=True, exist_ok=True)
            once = flags, Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headers.", dir=cache_folder())))
            pool.submit(_compile_header, flags, cxx, once[1])
        list(pool.map(lambda job: _compile(job[1], job[2], cxx, job[0], once), missing))


def build(programs, what):
    """Paths of compiled programs, compiled now where the cache lacks them, two and more at a time.

    programs: [(text, flags)]; what: for the line of progress on stderr, after a number where they are several.
    Raises KernelError: no compiler, or it fails.
    """
    cxx = compiler()
    if cxx is None:
        raise KernelError("no C++ compiler found (tried c++, g++, clang++): install one, or set MLXR_CXX")
    jobs = {target(text, flags, cxx): (text, flags) for text, flags in programs}
    missing = [(path, *job) for path, job in jobs.items() if not path.exists()]
    if missing:
        number = f"{len(missing)} " if len(programs) > 1 else ""
        if not _quiet:
            print(f"mlxr: compiling {number}{what} for this CPU, once", file=sys.stderr, flush=True)
        try:
            _compile_all(missing, cxx)
        except OSError as e:
            raise KernelError(
                f"cannot write compiled kernels to {cache_folder()}: {e.strerror or e}; set MLXR_HOME"
            ) from e
    return [target(text, flags, cxx) for text, flags in programs]


def library(text, flags, what, loader=ctypes.CDLL):
    """A compiled program, loaded. One that does not load (cut short, of another system) is compiled anew, once."""
    path = build([(text, flags)], what)[0]
    try:
        return loader(str(path))
    except OSError:
        path.unlink(missing_ok=True)
        try:
            return loader(str(build([(text, flags)], what)[0]))
        except OSError as e:
            raise KernelError(f"a compiled kernel does not load: {e}") from e
