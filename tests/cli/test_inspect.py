"""`mlxr inspect`: what it says about a GGUF file and about a folder of safetensors, as text and as JSON."""

import json

import pytest

from helpers.command import mlxr, refused


@pytest.fixture(scope="module")
def facts(smollm2_gguf, smollm2_fp32):
    """What --json says of the same model as GGUF and in fp32."""
    both = {}
    for name, path in (("gguf", smollm2_gguf), ("fp32", smollm2_fp32)):
        result = mlxr("inspect", path, "--json")
        assert result.returncode == 0 and result.stderr == ""
        both[name] = json.loads(result.stdout)
    return both


def test_both_are_the_same_model(facts):
    for f in facts.values():
        assert f["architecture"] == "llama" and f["mode"] == "paged" and f["note"] is None
        assert (f["layers"], f["heads"], f["kv_heads"], f["head_dim"], f["gqa_ratio"]) == (30, 9, 3, 64, 3)
        assert f["vocabulary"] == 49152 and f["context"] == 8192
        assert f["kv_bytes_per_token"] == 30 * 3 * (64 + 64) * 2
        assert f["kv_bytes_per_token_mha"] == 3 * f["kv_bytes_per_token"]
        assert 134e6 < f["parameters"] < 163e6
        assert len(f["tensors"]) == f["tensor_count"] and sum(t["bytes"] for t in f["tensors"]) == f["weights_bytes"]
        assert sum(f["types"].values()) == f["weights_bytes"]


def test_what_differs(facts):
    assert facts["gguf"]["kind"] == "gguf" and facts["fp32"]["kind"] == "safetensors"
    assert facts["gguf"]["types"].keys() == {"Q4_1", "Q8_0", "F32"} and facts["gguf"]["types"]["Q4_1"] > 60e6
    assert 5 < facts["gguf"]["bits_per_weight"] < 6 and facts["fp32"]["bits_per_weight"] == 32


def test_text(smollm2_gguf):
    result = mlxr("inspect", smollm2_gguf, "--kv", "f32", "--tensors")
    assert result.returncode == 0
    for what in ("(gguf)", "architecture     llama, runs paged", "134.5 M in 272 tensors", "bits a weight", "Q4_1 ",
                 "Q8_0 ", "49152 tokens", "context 8192",
                 "30 layers, 9 query heads, 3 KV heads, GQA ratio 3, head size 64", "46080 bytes a token in f32 (138240 without GQA)",
                 "360.0 MiB at full context"):
        assert what in result.stdout, what
    assert len(result.stdout.splitlines()) == 7 + 272 and "model.embed_tokens.weight" in result.stdout


def test_bad_options(smollm2_gguf):
    assert "unknown page format 'q9'" in refused("inspect", smollm2_gguf, "--kv", "q9")
    assert "page_size must be one of" in refused("inspect", smollm2_gguf, "--page-size", "7")
