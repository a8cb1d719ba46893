"""Kernel texts: finds metal/<name>.metal and its headers, and writes the Metal and the host program of a kernel."""

import functools
import re
from pathlib import Path

from ..errors import KernelError
from . import prune

_PACKAGE = Path(__file__).resolve().parents[1]
_INCLUDE = re.compile(r'^[ \t]*#include "([^"]+)"[^\n]*\n', re.M)
_COMMENT = re.compile(r'//[^\n]*|/\*.*?\*/|("(?:\\.|[^"\\])*")', re.S)
INTS = 8  # the least length of the int32 array of sizes: shorter inputs would come as `constant`


@functools.lru_cache(None)
def metal_folder():
    """The folder of the .metal files: beside the package in a source tree, inside it in an installed wheel."""
    for folder in (_PACKAGE.parent / "metal", _PACKAGE / "_metal"):
        if (folder / "include" / "lanes_metal.h").is_file():
            return folder
    raise KernelError(
        f"the kernel sources are missing: neither {_PACKAGE.parent / 'metal'} nor {_PACKAGE / '_metal'} "
        "has include/lanes_metal.h; reinstall mlxr"
    )


def names():
    """Names of all kernels that have a .metal file."""
    return sorted(p.stem for p in metal_folder().glob("*.metal"))


@functools.lru_cache(None)
def _read(path):
    try:
        return path.read_text()
    except OSError as e:
        raise KernelError(f"no kernel source {path.name} in {path.parent}; there are {', '.join(names())}") from e


def flatten(text, seen=None):
    """A text with every #include "..." replaced by that file of metal/include, each once."""
    seen = set() if seen is None else seen
    folder = metal_folder() / "include"

    def put(match):
        inner = folder / match[1]
        if inner in seen:
            return ""
        seen.add(inner)
        return flatten(_read(inner), seen) + "\n"

    return _INCLUDE.sub(put, text.replace("#pragma once\n", ""))


def strip(text):
    """Without comments, blank lines and indentation. What remains is what MLX hashes at every evaluation."""
    text = _COMMENT.sub(lambda m: m[1] or " ", text)
    return "".join(line.strip() + "\n" for line in text.splitlines() if line.strip())


@functools.lru_cache(None)
def kernel_text(name, headers=()):
    """The text of metal/<name>.metal after headers of metal/include, without the lanes dialect and without comments."""
    includes = "".join(f'#include "{header}"\n' for header in headers)
    return strip(flatten(includes + _read(metal_folder() / f"{name}.metal")))


def define_lines(defines):
    return "".join(f"#define {k} {v}\n" for k, v in defines.items())


@functools.lru_cache(None)
def _metal_dialect():
    """Without what MLX puts before every kernel."""
    text = strip(flatten(_read(metal_folder() / "include" / "lanes_metal.h")))
    return text.replace("#include <metal_stdlib>\n", "").replace("using namespace metal;\n", "")


def metal_program(name, text, inputs, outputs, ints, defines, shared):
    """(header, body) for mx.fast.metal_kernel. inputs, outputs: [(name, element type)]; shared: floats."""
    buffers = [p[0] for p in (*inputs, *outputs)]  # as they come: a cast would hide a wrong address space
    sizes = [f"dims[{i}]" for i in range(len(ints))]
    body = (
        f"threadgroup float shared[{max(1, shared)}];\n"
        f"{name}({', '.join(buffers + sizes)}, int3(threadgroup_position_in_grid), int(thread_index_in_simdgroup), "
        "int(simdgroup_index_in_threadgroup), shared);\n"
    )
    text = define_lines(defines) + text
    return prune.used(_metal_dialect(), text + body) + text, body


def host_dialect():
    """The host's headers as one text."""
    return flatten('#include "lanes_host.h"\n')


def host_program(name, text, inputs, outputs, ints, defines, entry="entry"):
    """C++ text of one kernel after host_dialect(): a function `entry` over a range of threadgroups."""
    buffers = [
        f"ptr<{'const ' if p in inputs else ''}{p[1]}>(buffers[{i}], bytes[{i}])"
        for i, p in enumerate((*inputs, *outputs))
    ]
    sizes = [f"grid[{3 + i}]" for i in range(len(ints))]
    return (
        define_lines(defines) + f"namespace lanes {{\nnamespace {entry}_space {{\n" + text + "}\n"
        f'extern "C" void {entry}(void* const* buffers, const long* bytes, const int* grid, int from, int to, '
        f"float* memory, long shared) {{\n"
        f"  using namespace {entry}_space;\n  for (int i = from; i < to; ++i) {{\n"
        "    int3 tg{i % grid[0], i / grid[0] % grid[1], i / grid[0] / grid[1]};\n"
        f"    {name}({', '.join(buffers + sizes)}, tg, vlane{{}}, 0, tptr<float>((void*)memory, shared));\n"
        "  }\n}\n}\n"
    )
