"""The host's programs on a 64-bit ARM CPU: compiled with the cross compiler, run under qemu-user."""

import atexit
import functools
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from kernels import test_dialect
from kernels.gate import relative
from kernels.matrices import KINDS, activations, matrix, name
from kernels.test_q_gemv import EPS, oracle

from mlxr.kernels import q_gemm, q_gemv, q_rows
from mlxr.kernels.stored import stored

CXX, QEMU = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CXX and QEMU), reason="aarch64-linux-gnu-g++ or qemu-aarch64 is not installed"),
]

# Reads numbers of buffers, inputs, ints and shared bytes; the ints (grid first), the buffers' sizes, the inputs. Writes
# the outputs.
MAIN = """
int main(int, char** argv) {
    FILE* f = fopen(argv[1], "rb");
    long head[4], sizes[16]; int ints[16]; void* buffers[16];
    if (!fread(head, sizeof head, 1, f) || !fread(ints, 4 * head[2], 1, f)) return 1;
    if (!fread(sizes, 8 * head[0], 1, f)) return 1;
    for (int i = 0; i < head[0]; ++i) {
        buffers[i] = calloc(1, sizes[i] + 1);
        if (i < head[1] && !fread(buffers[i], sizes[i], 1, f)) return 1;
    }
    lanes::entry(buffers, sizes, ints, 0, ints[0] * ints[1] * ints[2], (float*)calloc(1, head[3] + 64), head[3]);
    FILE* o = fopen(argv[2], "wb");
    for (int i = head[1]; i < head[0]; ++i) fwrite(buffers[i], sizes[i], 1, o);
    return fclose(o);
}
"""


@functools.lru_cache(None)
def compiled(text):
    """Path of a host program, compiled for ARM."""
    folder = Path(tempfile.mkdtemp(prefix="mlxr-neon-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "k.cpp").write_text("#include <cstdlib>\n" + text + MAIN)
    flags = ["-std=c++17", "-O2", "-mcpu=neoverse-n1", "-ffp-contract=fast", "-fno-math-errno", "-fsigned-char", "-w", "-static"]
    subprocess.run([CXX, *flags, "-o", folder / "k", folder / "k.cpp"], check=True)
    return folder / "k"


def run(kernel, inputs, outputs, grid, ints, folder, shared=0):
    """Bytes of the outputs, given as sizes in bytes."""
    program, given, got = compiled(kernel.host_text()), folder / "in", folder / "out"
    arrays = [
        np.array(a.view(mx.uint16) if a.dtype == mx.bfloat16 else a) if isinstance(a, mx.array) else a for a in inputs
    ]
    ints = [*grid, *ints]
    sizes = [a.nbytes for a in arrays] + list(outputs)
    given.write_bytes(
        struct.pack("<4q", len(sizes), len(arrays), len(ints), shared)
        + struct.pack(f"<{len(ints)}i", *ints)
        + struct.pack(f"<{len(sizes)}q", *sizes)
        + b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)
    )
    subprocess.run([QEMU, program, given, got], check=True, timeout=300)
    data, at, parts = got.read_bytes(), 0, []
    for size in outputs:
        parts.append(data[at : at + size])
        at += size
    return parts


def floats(data):
    return np.frombuffer(data, np.float32)


def test_dialect_operations(tmp_path):
    rows = len(test_dialect.expected()[0])
    y, h, e = run(
        test_dialect.kernel(on="host"),
        test_dialect.data(),
        [rows * 128, 248, 128],
        (1, 1, 1),
        (test_dialect.N,),
        tmp_path,
        256,
    )
    e = (np.frombuffer(e, np.uint16).astype(np.uint32) << 16).view(np.float32)
    test_dialect.check(floats(y), np.frombuffer(h, np.float16), e)


@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_q_gemv(kind, tmp_path):
    width = 512 if stored(kind).block == 256 else 384
    k, (w, decoded) = q_gemv.kernel(kind, 2, on="host", eps=EPS, width=width), matrix(kind, 37, width)
    x, norm = activations(2, width), activations(width, seed=5)
    groups, ints, shared = q_gemv.launch(k, 37, width)
    (y,) = run(k, [*w, x, norm], [2 * 37 * 4], (groups, 1, 1), ints, tmp_path, 4 * shared)
    assert relative(floats(y), oracle(x, decoded, norm=norm)) < 1e-5


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0", "F16"])
def test_q_gemm_and_q_rows(kind, tmp_path):
    k, (w, decoded) = q_gemm.kernel(kind, on="host", tiles=q_gemm.TILES["host"]), matrix(kind, 40, 96)
    grid, rows = q_gemm.launch(k, 20, 40)
    (y,) = run(k, [*w, activations(rows, 96)], [rows * 160], grid, (rows, 40, 96), tmp_path, 4 * k.shared)
    assert relative(floats(y), oracle(activations(rows, 96), decoded)) < 1e-5
    ids = np.array([3, 39, 0], np.int32)
    (y,) = run(q_rows.kernel(kind, on="host"), [*w, ids], [3 * 96 * 4], (1, 1, 1), (3, 40, 96, 1), tmp_path)
    assert relative(floats(y), decoded[ids]) < 1e-6
