"""mlxr convert killed with kill -9 in the middle of writing: nothing half done is at its place, and the next run goes on."""

import signal
import subprocess
import sys

import mlxr  # noqa: F401  (first: it decides which BLAS MLX uses)
import mlx.core as mx
import pytest
from helpers import random_gguf
from helpers.command import environment

from mlxr import conversion
from mlxr.caldera import compress, factor
from mlxr.caldera.settings import Caldera
from mlxr.conversion import Options, convert
from mlxr.weights.gguf_requantize import requantize

TEXT = "the inn and an old dog in the rain\n" * 200
CALDERA = Options(dtype="float32", bits=8, caldera=Caldera(bits=3, rank=32, factor_bits=8, protect=0, tokens=512, text=TEXT))
HALF_A_FILE = """
save, left = mx.save_safetensors, [2]
def save_or_die(file, *rest):
    save(file, *rest)
    if not left[0]:
        os.truncate(file, os.path.getsize(file) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
mx.save_safetensors = save_or_die
"""
BEGIN = """
import os, signal, sys
import mlxr
import mlx.core as mx
from mlxr import conversion
from mlxr.caldera import factor
from mlxr.weights import gguf_requantize
sys.path.insert(0, sys.argv[1])
import test_conversion_killed as tests
tests.quick()
"""


def quick():
    """In the child as well: few alternations, small files."""
    factor._ROUNDS, factor._INNER, factor._POWERS, conversion.SHARD = 1, 1, (2, 1), 1_000_000


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for module, name in ((factor, "_ROUNDS"), (factor, "_INNER"), (factor, "_POWERS"), (conversion, "SHARD")):
        monkeypatch.setattr(module, name, getattr(module, name))      # so that they are as before when the test is over
    quick()


def killed(tmp_path, request, script):
    """Run a script in a process that kills itself."""
    done = subprocess.run([sys.executable, "-c", BEGIN + script, str(request.path.parent)], cwd=tmp_path, env=environment(),
                          capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("options, folder, pattern", [(Options(dtype="float32"), ".", "model-*"), (CALDERA, "caldera", "0*")],
                         ids=["plain", "caldera"])
def test_a_folder(tmp_path, request, monkeypatch, options, folder, pattern):
    random_gguf.write(tmp_path / "m.gguf", "llama", "F32")
    which = "tests.CALDERA" if options.caldera else "conversion.Options(dtype='float32')"
    killed(tmp_path, request, HALF_A_FILE + f"conversion.convert('m.gguf', 'out', {which})")
    partial = tmp_path / ".out.partial"
    assert not (tmp_path / "out").exists() and len(list((partial / folder).glob(pattern))) == 2
    made, done = [], compress.decompose if options.caldera else mx.save_safetensors
    if options.caldera:
        monkeypatch.setattr(compress, "decompose", lambda *a: (made.append(1), done(*a))[1])
    else:
        monkeypatch.setattr(mx, "save_safetensors", lambda *a: (made.append(1), done(*a))[1])
    convert(tmp_path / "m.gguf", tmp_path / "out", options)
    continued = len(made)
    convert(tmp_path / "m.gguf", tmp_path / "whole", options)
    assert continued > 0 and len(made) - continued == continued + 2 and not partial.exists()        # two were kept
    files = sorted(f.name for f in (tmp_path / "whole").iterdir())
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == files
    for name in files:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_gguf_file(tmp_path, request):
    random_gguf.write(tmp_path / "m.gguf", "llama", "F32")
    killed(tmp_path, request, """
write = gguf_requantize._write_tensors
def write_and_die(writer, header, types, report):
    def halfway(done, total):
        if done > total / 2:
            os.kill(os.getpid(), signal.SIGKILL)
    write(writer, header, types, halfway)
gguf_requantize._write_tensors = write_and_die
gguf_requantize.requantize('m.gguf', 'out.gguf', 'Q8_0')
""")
    assert not (tmp_path / "out.gguf").exists() and (tmp_path / ".out.gguf.partial").stat().st_size
    requantize(tmp_path / "m.gguf", tmp_path / "out.gguf", "Q8_0")
    requantize(tmp_path / "m.gguf", tmp_path / "whole.gguf", "Q8_0")
    assert (tmp_path / "out.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    assert not (tmp_path / ".out.gguf.partial").exists()
