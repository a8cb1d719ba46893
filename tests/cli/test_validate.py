"""`mlxr validate`: rows as JSON and as a table, the page, exit codes, --logits, --kv auto; refusals in one line."""

import json

import pytest

from helpers.command import mlxr, refused
from mlxr.cli.main import main

SMALL = ["--page-size", 64, "--contexts", 64, "--windows", 2]


@pytest.fixture(scope="module")
def run(smollm2_gguf, tmp_path_factory, wikitext):
    """A small validation of the real model: (process, report, page, its cache folder)."""
    folder = tmp_path_factory.mktemp("validate")
    text = folder / "text.txt"
    text.write_text(wikitext[:20000])
    return mlxr("validate", smollm2_gguf, "--kv", "q8", *SMALL, "--quick", "--text", text, "--json", "--html", folder / "page.html",
                "--require", "q8", "--no-store", timeout=300), folder


def test_json(run):
    process, folder = run
    assert process.returncode in (0, 1), process.stderr
    assert len(process.stdout.splitlines()) == 1
    report = json.loads(process.stdout)
    (row,) = report["rows"]
    assert (row["format"], row["mode"], row["context"], row["windows"]) == ("q8", "in-forward", 64, 2)
    assert 8.4 < row["bits"] <= 8.6 and abs(row["delta_ppl"]) < 3 and row["top1"] > 95 and 0 < row["kl"] < 0.01 and row["match100"] > 0
    assert row["kl_se"] > 0 and row["verdict"] in ("ACCEPT", "MARGINAL")
    assert report["text"]["name"] == "text.txt" and 5 < report["reference_ppl"]["64"] < 200
    accepted = row["verdict"] == "ACCEPT"
    assert report["required"] == {"format": "q8", "accepted": accepted} and process.returncode == (0 if accepted else 1)
    assert "step 1 of" in process.stderr and "the report is in" in process.stderr
    assert "q8" in (folder / "page.html").read_text()


@pytest.mark.slow
def test_logits_of_two_configurations(smollm2_gguf):
    result = mlxr("validate", smollm2_gguf, "--logits", "f32", "kv=q8;page=32", "--contexts", 64, "--json", timeout=300)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    for what, tokens in (("prefill", 64), ("decode", 32)):
        d = found[what]
        assert d["tokens"] == tokens and 0 < d["mean_abs"] < d["max_abs"] < 5 and 0 < d["kl"] < 0.01 and d["top1"] > 90


@pytest.mark.parametrize("args, what", [
    (["--kv", "q9"], "unknown page format 'q9'; there are"), (["--kv", "q8,q9"], "unknown page format 'q9'"),
    (["--kv", ","], "--kv names no page format"), (["--kv", "k:q8,v:nothing"], "nothing"),
    (["--text", "/no/such.txt"], "--text: cannot read /no/such.txt"), (["--contexts", "many"], "whole numbers with commas"),
    (["--contexts", ","], "a validation needs a context"), (["--windows", 0], "--windows must be at least 1"),
    (["--modes", "strict"], "unknown mode 'strict'"), (["--streams", "x"], "unknown mode 'x'"),
    (["--against", "vllm"], "--against vllm: there are mlx-lm"), (["--require", "q4", "--kv", "q8"], "--require q4 is not among"),
    (["--html", "/no/folder/page.html"], "there is no folder /no/folder"), (["--html", "/"], "cannot be written"),
    (["--page-size", 7], "page_size must be one of"), (["--logits", "f32", "q9"], "unknown page format 'q9'"),
    (["--logits", "f32", "backend=cuda"], "is no backend; there are metal, host, reference"),
    (["--logits", "f32", "q8;q8"], "given twice"), (["--logits", "f32", "q8", "--kv", "q8"], "--kv cannot be used with --logits"),
    (["--logits", "f32", "q8", "--quick"], "cannot be used with --logits"), (["--logits", "f32"], "expected 2 arguments"),
    (["--logits", "f32", "q8", "--contexts", "64,128"], "--logits takes one"),
])
def test_bad_options(capsys, monkeypatch, args, what):
    """In this process, to be quick; all are told before a model is looked for."""
    monkeypatch.setattr("mlxr.weights.locate.locate", None)
    assert main(["validate", *map(str, args)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("mlxr: error: ") and err.count("\n") == 1 and what in err


def test_bad_models_and_texts(smollm2_gguf, tmp_path):
    assert "none.gguf" in refused("validate", tmp_path / "none.gguf", "--kv", "q8")
    (tmp_path / "latin1.txt").write_bytes(b"caf\xe9")
    assert "latin1.txt is not UTF-8 text" in refused("validate", smollm2_gguf, "--text", tmp_path / "latin1.txt")
    (tmp_path / "short.txt").write_text("Too short a text. " * 20)
    result = mlxr("validate", smollm2_gguf, "--kv", "q8", "--text", tmp_path / "short.txt")
    what = "short.txt is too short: it has 10"
    assert result.returncode == 2 and what in result.stderr.splitlines()[-1] and result.stdout == "", result.stderr


@pytest.mark.slow
def test_kv_auto_says_what_it_takes(smollm2_gguf, tmp_path, monkeypatch):
    monkeypatch.setenv("MLXR_HOME", str(tmp_path))            # no results, and no compiled kernels either
    monkeypatch.setenv("MLXR_BACKEND", "reference")
    result = mlxr("generate", smollm2_gguf, "--kv", "auto", "--prompt", "Hi", "--max-tokens", 2)
    assert result.returncode == 0, result.stderr
    said = [line for line in result.stderr.splitlines() if "kv auto" in line]
    assert len(said) == 1 and said[0].startswith("mlxr: kv auto: q8, this model was not validated") and "pages q8 of 64" in result.stderr
    assert "with kv 'auto' alone" in refused("generate", smollm2_gguf, "--kv", "f16", "--kv-auto-validate", "--prompt", "Hi")


@pytest.mark.slow
def test_a_validation_decides_what_auto_takes(smollm2_gguf, wikitext, tmp_path, monkeypatch):
    """The whole way: validate stores, --kv auto finds; a table in the terminal."""
    text = tmp_path / "text.txt"
    text.write_text(wikitext[:200000])
    monkeypatch.setenv("MLXR_HOME", str(tmp_path))
    result = mlxr("validate", smollm2_gguf, "--kv", "q8", "--windows", 3, "--contexts", 256, "--text", text, timeout=600)
    assert result.returncode == 0, result.stderr
    assert "q8      in-forward  256" in result.stdout and "ok    q8: pages to a file and back" in result.stdout
    assert "facts recalled" in result.stdout and "attention" in result.stdout
    result = mlxr("generate", smollm2_gguf, "--kv", "auto", "--prompt", "Hi", "--max-tokens", 2)
    assert "kv auto: q8 (8.50 bits), the smallest format" in result.stderr


def test_help_says_how_lists_are_written():
    result = mlxr("validate", "--help")
    assert result.returncode == 0 and "`k:q8,v:q4` is one" in result.stdout
