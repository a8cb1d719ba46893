"""The `mlxr` command itself: help, version, start-up, and errors of one line with exit code 2."""

import re
import struct
import subprocess
import sys

import pytest

from helpers.command import MLXR, environment, mlxr, refused
from mlxr import __version__

HEAVY = ("mlx", "numpy", "rich", "jinja2", "tokenizers", "huggingface_hub", "gguf", "safetensors", "transformers")


def test_version():
    result = mlxr("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"mlxr {__version__}\n", "")


def test_help_brings_nothing_heavy():
    for command in ([], ["generate"], ["chat"], ["inspect"]):
        result = subprocess.run([sys.executable, "-X", "importtime", *MLXR[1:], *command, "--help"], check=True,
                                capture_output=True, text=True, env=environment())
        imported = {line.rpartition("|")[2].strip().split(".")[0] for line in result.stderr.splitlines()}
        assert "argparse" in imported and not imported & set(HEAVY), imported & set(HEAVY)


@pytest.mark.parametrize("command", ["generate", "chat", "inspect"])
def test_help_of_each_command(command):
    listed, own = mlxr("--help").stdout, mlxr(command, "--help").stdout
    assert re.search(rf"^    {command} +\w", listed, re.M) and f"mlxr {command}" in own
    assert "examples:\n  mlxr " in own and own.startswith(f"usage: mlxr {command} [-h]")
    for option in re.findall(r"(?<!-)--[a-z][a-z-]+", own.partition("examples:")[2]):
        assert re.search(rf"{option}[ ,\]]", own.partition("examples:")[0]), f"the example's {option} is not an option"


def test_no_command_and_unknown_commands():
    assert "COMMAND" in refused() and "--help" in refused()
    assert "invalid choice: 'generat'" in refused("generat") and "'generate'" in refused("generat")


@pytest.mark.parametrize("args, what", [
    (["--nonsense"], "unrecognized arguments: --nonsense (see 'mlxr generate --help')"),
    (["--temp", "warm"], "--temp/--temperature: invalid float value: 'warm'"),
    (["--temp", "-1"], "temperature must be at least 0"), (["--temp", "nan"], "temperature must be a number"),
    (["--temp", "inf"], "temperature must be finite"), (["--top-p", "0"], "top_p must be in (0, 1]"),
    (["--top-p", "1.5"], "top_p"), (["--top-k", "-1"], "top_k"), (["--top-k", "1.5"], "--top-k"),
    (["--min-p", "2"], "min_p must be in [0, 1]"), (["--repeat-penalty", "0"], "repetition_penalty"),
    (["--repeat-last-n", "-1"], "repetition_context"), (["--presence-penalty", "3"], "must be in [-2, 2]"),
    (["--frequency-penalty", "-3"], "frequency_penalty"), (["--seed", "-1"], "seed"),
    (["--max-tokens", "0"], "max_tokens"), (["--logprobs", "99", "--json"], "logprobs must be at most 20"),
    (["--logprobs", "2"], "add --json"), (["--stop", ""], "stop"), (["--stop-token-id", "-4"], "stop_token_ids"),
    (["--logit-bias", "a=1"], "TOKEN_ID=BIAS"), (["--logit-bias", "1=x"], "TOKEN_ID=BIAS"),
    (["--logit-bias", "1=nan"], "logit_bias"), (["--page-size", "7"], "page_size must be one of 16"),
    (["--kv", "q9"], "unknown page format 'q9'; there are"), (["--pool", "lots"], "'lots' is not a size"),
    (["--max-batch", "0"], "max_batch"), (["--token-budget", "0"], "token_budget"),
    (["--context", "0"], "context must be"), (["--dtype", "int4"], "invalid choice: 'int4'"),
    (["--raw", "--system-prompt", "x"], "--system-prompt cannot be used"),
    (["--raw", "--chat-template", "x"], "--chat-template cannot be used"),
    (["--chat-template", "/no/such"], "cannot read /no/such"), (["--file", "x"], "give one prompt"),
    (["--model", "a", "b", "c"], "the model is given twice"),
])
def test_bad_options(monkeypatch, capsys, args, what):
    """In this process, to be quick: what main() prints and returns is what the process does."""
    from mlxr.cli.main import main

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["generate", "--prompt", "hi", *args]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("mlxr: error: ") and err.count("\n") == 1 and what in err


def test_a_model_that_is_not_there(tmp_path):
    for command in (["generate", "--prompt", "hi"], ["inspect"]):
        line = refused(*command, "--model", tmp_path / "none.gguf")
        assert "none.gguf" in line and "no file or folder" in line


def folder(path, model_type="llama"):
    """A model folder that is complete but for its sense."""
    path.mkdir()
    (path / "config.json").write_text(f'{{"model_type": "{model_type}", "vocab_size": 8}}')
    header = b'{"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    (path / "tokenizer.json").write_text("{}")
    return path


def test_an_architecture_that_there_is_not(tmp_path):
    path = folder(tmp_path / "model", "nonsense")
    for command in (["generate", "--prompt", "hi"], ["inspect"]):
        assert "nonsense" in refused(*command, "--model", path)


def test_corrupt_and_truncated_files(smollm2_gguf, tmp_path):
    whole = smollm2_gguf.read_bytes()
    for name, data in (("header.gguf", whole[:5000]), ("data.gguf", whole[:-1000]), ("junk.gguf", b"not a model" * 50),
                       ("empty.gguf", b"")):
        (tmp_path / name).write_bytes(data)
        assert name in refused("generate", tmp_path / name, "--prompt", "hi")
    for name, cut in (("truncated", lambda b: b[:-4]), ("corrupt", lambda b: b[:8] + b"?" + b[9:]),
                      ("short", lambda b: b[:3])):
        path = folder(tmp_path / name)
        file = path / "model.safetensors"
        file.write_bytes(cut(file.read_bytes()))
        assert "model.safetensors" in refused("inspect", path)
    assert "model.safetensors" in refused("generate", path, "--prompt", "hi")


def test_prompts_that_cannot_be_served(tmp_path):
    assert "prompt is empty" in refused("generate", "--prompt", "")
    assert "prompt is empty" in refused("generate", stdin="")
    (tmp_path / "empty").write_text("\n")
    assert "prompt is empty" in refused("generate", "--file", tmp_path / "empty")
    assert "no prompt in it" in refused("generate", "--prompts", tmp_path / "empty")
    (tmp_path / "bad").write_text('{"prompt": "fine"}\n{"text": "not"}\n')
    assert "line 2" in refused("generate", "--prompts", tmp_path / "bad")
    (tmp_path / "latin1").write_bytes(b"caf\xe9")
    assert "latin1 is not UTF-8 text" in refused("generate", "--file", tmp_path / "latin1")
    assert "cannot read" in refused("generate", "--file", tmp_path / "none")


def test_prompts_that_are_too_long(model_is_ready):
    line = refused("generate", "--prompt", "a b c d e f g h i", "--raw", "--context", "8", "--quiet")
    assert "the prompt has 9 tokens, but the context is 8" in line
    line = refused("generate", "--prompt", "word " * 300, "--raw", "--pool", "3M", "--quiet")
    assert "the page pool holds 127 at most" in line
    assert "two pages of this model take" in refused("generate", "--prompt", "hi", "--pool", "1K")
