"""The validation example passes on the real model, and fails where the cache is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "kv_cache_validation.py"


def validate(model, change=""):
    code = f"import runpy, sys; sys.argv = ['x', {str(model)!r}]\n{change}\nrunpy.run_path({str(EXAMPLE)!r}, run_name='__main__')"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)


def test_all_checks_pass(smollm2_gguf):
    run = validate(smollm2_gguf)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "all checks passed" in run.stdout and "FAIL" not in run.stdout
    assert "87.5 %" in run.stdout


@pytest.mark.parametrize("change, failure", [
    # a page that is never given back
    ("import mlxr.pages.allocator as a; old = a.PageAllocator.release; "
     "a.PageAllocator.release = lambda self, pages: old(self, pages[1:])", "pages"),
    # a tail that is not written
    ("import mlxr, mlxr.batch as b; old = b.build_batch\n"
     "def build(*args, **options):\n    made = old(*args, **options)\n    made.tail_rows = None\n    return made\n"
     "b.build_batch = build\nimport mlxr.runner as r; r.build_batch = build", "from the cache and from scratch"),
], ids=["lost page", "lost tail"])
def test_it_finds_a_broken_cache(smollm2_gguf, change, failure):
    run = validate(smollm2_gguf, change)
    assert run.returncode != 0 and failure in run.stdout + run.stderr
