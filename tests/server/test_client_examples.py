"""The examples that are clients of a server run as they stand against the real one."""

import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize("name, options, shown", [
    ("stream_client.py", ["Say hello.", "--max-tokens", "8"], r"\w+.*\n\[\d+ tokens read, [1-8] written\]"),
    ("structured_output.py", ["Describe a cat."], r"^.* is a (animal|plant|thing) with [0-8] legs$")])
def test_example(server, monkeypatch, capsys, name, options, shown):
    monkeypatch.setattr(sys, "argv", [name, *options, "--url", server.url])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert re.search(shown, capsys.readouterr().out.strip(), re.S | re.M)
