"""Each example runs as it stands, on the real model, and prints what it is there to show."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from mlxr.errors import ConfigError
from mlxr.pages import formats

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ELSEWHERE = {"kv_cache_from_scratch.py", "kv_cache_validation.py", "stream_client.py", "structured_output.py"}   # have tests of their own
CASES = {
    "generate.py": (["Once upon a time", "--max-tokens", "6"], r"Once upon a time.*\[length: 6 tokens, \d+ tokens/s\]"),
    "chat.py": (["Name a colour.", "Another one?", "--max-tokens", "8"], r"> Name a colour\..+> Another one\?.+\[\d+ pages are kept"),
    "batch.py": (["The sun", "The moon", "--max-tokens", "5"], r"The sun\|.*The moon\|.*one by one \d+ tokens/s, together \d+ tokens/s"),
    "quantized_cache.py": (["--kv", "f16", "q8", "--max-tokens", "6"], r"f16 +16\.00 bits.*q8 +8\.50 bits .*12240 bytes a token.*as with f16"),
    "memory_plan.py": (["llama-3-8b", "--memory", "16"], r"8\.03 B parameters.*M1 +f16 +131,072 bytes a token.*M5 +q4"),
    "custom_page_format.py": ([], r"relative error 0\.00\d+, 8\.25 bits.*sym8 +11880 bytes a token: '.+'"),
}


def test_every_example_has_a_test():
    assert {p.name for p in EXAMPLES.glob("*.py")} == CASES.keys() | ELSEWHERE


@pytest.mark.parametrize("name", CASES)
def test_example(name, monkeypatch, capsys, smollm2_gguf):
    options, shown = CASES[name]
    monkeypatch.setattr(sys, "argv", [name, *options])
    monkeypatch.setattr(formats, "_registered", {})
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert re.search(shown, capsys.readouterr().out, re.S)


def test_formats_from_outside_cannot_take_a_name_twice(monkeypatch):
    monkeypatch.setattr(formats, "_registered", {})
    with pytest.raises(ConfigError, match="'q8' cannot be the name"):
        formats.register("q8", None, None)
    with pytest.raises(ConfigError, match="unknown page format 'mine'"):
        formats.page_format("mine")
