"""`mlxr inspect`: what it says about a GGUF file and about a folder of safetensors, as text and as JSON."""

import json

import pytest

from helpers import random_gguf
from helpers.command import mlxr, refused
from helpers.gguf_files import Tiny, write_tiny

from mlxr.models.build import on_kernels


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
    assert len(result.stdout.splitlines()) == 8 + 272 and "model.embed_tokens.weight" in result.stdout


def said(path, *options):
    result = mlxr("inspect", path, "--json", *options)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    return json.loads(result.stdout)


def test_what_a_gguf_file_says_of_itself(facts, smollm2_gguf):
    f = facts["gguf"]
    assert f["supported"] and f["files"] == 1 and f["gguf_version"] == 3
    assert f["metadata"]["llama.block_count"] == 30 and f["metadata"]["tokenizer.ggml.add_bos_token"] is False
    tokens = f["metadata"]["tokenizer.ggml.tokens"]
    assert tokens["length"] == 49152 and tokens["array"] == "string" and tokens["first"][:2] == ["<|endoftext|>", "<|im_start|>"]
    assert sum(f["runs"].values()) == f["weights_bytes"] and f["runs"]["floats"] < 1e6
    matrix = next(t for t in f["tensors"] if t["stored_name"] == "blk.3.ffn_up.weight")
    assert matrix["bits"] == 5.0 and matrix["name"] == "model.layers.3.mlp.up_proj.weight"
    text = mlxr("inspect", smollm2_gguf, "--metadata").stdout
    assert len(text.splitlines()) == 8 + len(f["metadata"]) and "general.license" in text and "apache-2.0" in text


def test_what_computes_each_tensor(tmp_path):
    random_gguf.write(tmp_path / "m.gguf", "qwen3moe", "Q5_0", embedding="F16")
    runs = {t["stored_name"]: t["runs"] for t in said(tmp_path / "m.gguf")["tensors"]}
    assert runs["blk.0.ffn_up_exps.weight"] == ("blocks" if on_kernels() else "experts")
    assert runs["output_norm.weight"] == "floats"
    assert runs["blk.1.attn_q.weight"] in ("blocks", "quantized") and None not in runs.values()


def test_some_tensors_alone(smollm2_gguf):
    chosen = [t["stored_name"] for t in said(smollm2_gguf, "--match", "blk.1.*", "--limit", "4")["tensors"]]
    assert len(chosen) == 4 and all(name.startswith("blk.1.") for name in chosen)
    assert said(smollm2_gguf, "--limit", "0")["tensors"] == []
    assert len(mlxr("inspect", smollm2_gguf, "--match", "*.29.mlp.*").stdout.splitlines()) == 8 + 3
    assert "'-1' is not a number of tensors" in refused("inspect", smollm2_gguf, "--limit", "-1")


@pytest.mark.parametrize("tiny, reason", [
    (Tiny(arch="rwkv9"), "GGUF architecture 'rwkv9' is not supported; supported: llama, qwen2,"),
    (Tiny(arch="qwen3", fields={"qwen3.expert_count": 8}), "with expert_count 8 is not supported"),
    (Tiny(fields={"llama.block_count": 5}), "block_count is 5"),
    (Tiny(ff=64, fields={"llama.feed_forward_length": 96}), "have another shape than the config says"),
])
def test_what_cannot_run_is_shown_with_the_reason(tmp_path, tiny, reason):
    write_tiny(tmp_path / "m.gguf", tiny)
    f = said(tmp_path / "m.gguf")
    assert not f["supported"] and reason in f["note"] and f["tensor_count"] == len(f["tensors"]) >= 20
    assert f["types"].keys() == {"Q4_1", "Q8_0", "F32"} and f["metadata"]["general.architecture"] == tiny.arch
    text = mlxr("inspect", tmp_path / "m.gguf", "--tensors").stdout
    assert "cannot run: " in text and reason in text and "token_embd.weight" in text


def test_metadata_cannot_write_to_the_terminal(tmp_path):
    write_tiny(tmp_path / "m.gguf", Tiny(fields={"general.name": "a\x1b[31mb\u202ec\x9bd", "llama.x": float("nan")}))
    text = mlxr("inspect", tmp_path / "m.gguf", "--metadata").stdout
    assert "a\\u001b[31mb\\u202ec\\x9bd" in text and all(c.isprintable() or c == "\n" for c in text)
    assert said(tmp_path / "m.gguf")["metadata"]["llama.x"] == "nan"


def test_a_file_that_is_not_sound_is_refused(tmp_path):
    write_tiny(tmp_path / "m.gguf")
    (tmp_path / "m.gguf").write_bytes((tmp_path / "m.gguf").read_bytes()[:-100])
    assert "it is truncated: tensor " in refused("inspect", tmp_path / "m.gguf")


def test_bad_options(smollm2_gguf):
    assert "unknown page format 'q9'" in refused("inspect", smollm2_gguf, "--kv", "q9")
    assert "page_size must be one of" in refused("inspect", smollm2_gguf, "--page-size", "7")
