"""Readers of untrusted files under fuzzing: every input is read, or refused in one line, in bounded time and memory."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.fuzzing import TARGETS

TOOL = Path(__file__).resolve().parents[2] / "tools" / "fuzz"
# A million in all. What the reader of a GGUF header takes is a tenth of a millisecond, what mlx-lm's class takes some.
RUNS = {"gguf": 450_000, "safetensors": 350_000, "tokenizer": 150_000, "inspection": 30_000, "template": 20_000}


def fuzz(tmp_path, target, *options):
    done = subprocess.run([sys.executable, TOOL, target, "--artifacts", tmp_path, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-500:]


def test_every_reader_has_its_runs():
    assert RUNS.keys() == TARGETS.keys() and sum(RUNS.values()) >= 1_000_000


@pytest.mark.parametrize("target", TARGETS)
def test_some_mutated_inputs(tmp_path, target):
    fuzz(tmp_path, target, "--runs", "400", "--plain")


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_many_inputs(tmp_path, target):
    fuzz(tmp_path, target, "--runs", str(RUNS[target]))


def test_a_reader_that_fails_is_caught(tmp_path):
    """So that the runs above mean something: an error that is not ours ends the run, and leaves its input."""
    script = ("import sys; sys.argv = ['fuzz', 'gguf', '--runs', '50', '--plain', '--artifacts', sys.argv[1]]\n"
              f"sys.path.insert(0, {str(TOOL.parents[1] / 'tests')!r})\n"
              "import helpers.fuzzing as f, struct\n"
              "f.TARGETS['gguf'] = lambda content: struct.unpack('<Q', content[:3])\n"
              f"exec(compile(open({str(TOOL)!r}).read().replace('__file__', {str(TOOL)!r}.__repr__()), 'fuzz', 'exec'))")
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1 and "struct.error" in done.stderr and len(list(tmp_path.glob("crash-*"))) == 1
