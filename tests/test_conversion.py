"""mlxr convert: what it writes computes what the source does, and a killed or refused run leaves nothing at its place."""

import json
import os
import signal
import subprocess
import time

import gguf
import mlx.core as mx
import numpy as np
import pytest
from helpers import random_gguf
from helpers.command import MLXR, environment, mlxr, refused
from helpers.gguf_files import Tiny, write_tiny
from helpers.tokenizer_files import MULTILINGUAL, gemma4_gguf, sentencepiece_gguf, sentencepiece_model

from mlxr import conversion
from mlxr.conversion import Options, convert
from mlxr.errors import ConfigError, UnsupportedModel, WeightsError
from mlxr.models.build import load_model
from mlxr.tokenizer import load_tokenizer
from mlxr.tokenizer.export import export_gguf
from mlxr.weights.checkpoint import open_checkpoint
from mlxr.weights.gguf_requantize import requantize

TOKENS = mx.array([[3, 70, 41, 200, 7, 7, 150, 90]])
KINDS = ["llama", "llama experts", "qwen2", "gemma3", "phi3 longrope", "granite", "deepseek2 parts", "gpt-oss yarn"]


def logits(path):
    return np.array(load_model(open_checkpoint(path), "float32")(TOKENS)[0])


def distance(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize("variant", KINDS)
def test_a_gguf_file_becomes_a_folder(tmp_path, variant):
    random_gguf.write(tmp_path / "m.gguf", variant, "Q8_0")
    facts = convert(tmp_path / "m.gguf", tmp_path / "out", Options(dtype="float32"))
    assert facts["quantized"] == 0 and sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert distance(logits(tmp_path / "out"), logits(tmp_path / "m.gguf")) <= 1e-5
    assert load_tokenizer(tmp_path / "out").encode("the inn\n") == load_tokenizer(tmp_path / "m.gguf").encode("the inn\n")
    assert list(tmp_path.iterdir()) == [tmp_path / "out", tmp_path / "m.gguf"] or len(list(tmp_path.iterdir())) == 2


def test_quantized_is_what_mlx_makes_of_the_folder(tmp_path):
    random_gguf.write(tmp_path / "m.gguf", "qwen3moe", "F32")
    convert(tmp_path / "m.gguf", tmp_path / "plain", Options(dtype="float32"))
    options = Options(dtype="float32", bits=4, group_size=32, mix=(("*.q_proj", 8), ("lm_head", None)))
    facts = convert(tmp_path / "plain", tmp_path / "small", options)
    config = json.loads((tmp_path / "small" / "config.json").read_text())["quantization"]
    assert config["bits"] == 4 and config["model.layers.1.self_attn.q_proj"] == {"bits": 8, "group_size": 32}
    assert config["lm_head"] is False and facts["kept"] == []
    plain, small = (mx.load(str(tmp_path / n / "model.safetensors")) for n in ("plain", "small"))
    for path, bits in (("model.layers.0.self_attn.q_proj", 8), ("model.layers.1.mlp.switch_mlp.up_proj", 4)):
        wanted = mx.quantize(plain[f"{path}.weight"], bits=bits, group_size=32)
        for key, w in zip(("weight", "scales", "biases"), wanted):
            assert mx.array_equal(small[f"{path}.{key}"], w).item()
    assert mx.array_equal(small["lm_head.weight"], plain["lm_head.weight"]).item() and "lm_head.scales" not in small
    assert "model.layers.0.mlp.gate.scales" in small and small["model.layers.0.mlp.gate.scales"].shape == (8, 4)  # 8 bits, 64
    model = load_model(open_checkpoint(tmp_path / "small"), "float32")
    assert np.isfinite(np.array(model(TOKENS))).all()
    assert 0.01 < distance(logits(tmp_path / "small"), logits(tmp_path / "plain")) < 0.5


def test_mlx_lm_loads_the_folder(tmp_path):
    """By its own loader, in a process of its own, as its import brings much along."""
    random_gguf.write(tmp_path / "m.gguf", "llama", "Q8_0")
    convert(tmp_path / "m.gguf", tmp_path / "out", Options(dtype="float32", bits=8, group_size=32))
    script = ("import sys, mlxr, numpy as np, mlx.core as mx; from pathlib import Path; from mlx_lm.utils import load_model\n"
              f"m = load_model(Path(sys.argv[1]))[0]; np.save(sys.argv[2], np.array(m(mx.array({TOKENS.tolist()}))[0]))")
    subprocess.run([MLXR[0], "-c", script, tmp_path / "out", tmp_path / "y.npy"], check=True, capture_output=True)
    assert distance(np.load(tmp_path / "y.npy"), logits(tmp_path / "out")) <= 1e-5


def test_several_files_of_weights_and_going_on(tmp_path, monkeypatch):
    random_gguf.write(tmp_path / "m.gguf", "llama", "Q8_0")
    monkeypatch.setattr(conversion, "SHARD", 1_000_000)
    written, save = [], mx.save_safetensors

    def fails_at_the_third(file, arrays, metadata):
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(sorted(arrays))
        save(file, arrays, metadata)

    monkeypatch.setattr(conversion.mx, "save_safetensors", fails_at_the_third)
    with pytest.raises(WeightsError, match="No space left on device; what was done is kept in .out.partial"):
        convert(tmp_path / "m.gguf", tmp_path / "out", Options(dtype="float32"))
    assert not (tmp_path / "out").exists() and len(list((tmp_path / ".out.partial").glob("model-*.safetensors"))) == 2
    monkeypatch.setattr(conversion.mx, "save_safetensors", lambda *a: (written.append(sorted(a[1])), save(*a)))
    convert(tmp_path / "m.gguf", tmp_path / "out", Options(dtype="float32"))
    files = sorted(p.name for p in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) == len(written) > 3 and len({n for names in written for n in names}) == sum(map(len, written))
    assert distance(logits(tmp_path / "out"), logits(tmp_path / "m.gguf")) <= 1e-5
    assert not (tmp_path / ".out.partial").exists() and not (tmp_path / "out" / "plan.json").exists()


def test_another_plan_begins_anew(tmp_path, monkeypatch):
    random_gguf.write(tmp_path / "m.gguf", "llama", "Q8_0")
    monkeypatch.setattr(conversion, "_write_rest", lambda *a: (_ for _ in ()).throw(OSError(5, "broken")))
    with pytest.raises(WeightsError, match="broken"):
        convert(tmp_path / "m.gguf", tmp_path / "out", Options(dtype="float32"))
    monkeypatch.undo()
    convert(tmp_path / "m.gguf", tmp_path / "out", Options(dtype="float16"))
    assert mx.load(str(tmp_path / "out" / "model.safetensors"))["model.norm.weight"].dtype == mx.float16


@pytest.mark.slow
def test_a_killed_run_leaves_no_half_folder_and_is_continued(tmp_path, smollm2_gguf):
    out = tmp_path / "out"
    command = [*MLXR, "convert", str(smollm2_gguf), str(out), "--dtype", "float32", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment())
    while not list(tmp_path.glob(".out.partial/*")) and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    assert mlxr(*command[3:]).returncode == 0 and (out / "config.json").exists()


@pytest.mark.parametrize("options, match", [
    (dict(bits=7), "7 bits: MLX's affine format has 2, 3, 4, 5, 6, 8"), (dict(group_size=48), "a group of 48"),
    (dict(dtype="int8"), "dtype 'int8' is not one of"), (dict(mix=(("*", 1),)), "1 bits"),
])
def test_options_that_make_no_sense(options, match):
    with pytest.raises(ConfigError, match=match):
        Options(**options)


def test_what_cannot_be_converted(tmp_path):
    random_gguf.write(tmp_path / "m.gguf", "llama factors", "Q8_0")
    with pytest.raises(UnsupportedModel, match="its rope factors are not made as Llama 3's are"):
        convert(tmp_path / "m.gguf", tmp_path / "out", Options())
    random_gguf.write(tmp_path / "n.gguf", "llama", "Q8_0")
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match="there exists already"):
        convert(tmp_path / "n.gguf", tmp_path / "there", Options())
    convert(tmp_path / "n.gguf", tmp_path / "four", Options(bits=4))
    with pytest.raises(UnsupportedModel, match="four is quantized already"):
        convert(tmp_path / "four", tmp_path / "two", Options(bits=2))


@pytest.mark.parametrize("make, model", [(sentencepiece_gguf, "tokenizer.model"), (gemma4_gguf, "tokenizer.json")])
@pytest.mark.parametrize("add_bos", [True, False])
def test_tokenizers_are_exported(tmp_path, make, model, add_bos):
    path = make(tmp_path / "v.gguf", sentencepiece_model(user_defined_symbols=""), add_bos_token=add_bos, bos_token_id=1,
                eos_token_id=2, unknown_token_id=0, chat_template="{{ messages[0].content }}")
    (tmp_path / "out").mkdir()
    assert export_gguf(path, tmp_path / "out")[0] == model
    ours, theirs = load_tokenizer(tmp_path / "out"), load_tokenizer(path)
    for text in (MULTILINGUAL.replace("\0", ""), " a  b", "<s>x<|im_end|> y", ""):
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(theirs.encode(text)) == theirs.decode(theirs.encode(text))
    assert ours.eos_ids == theirs.eos_ids and ours.chat_template == theirs.chat_template and ours.bos_id == theirs.bos_id


def test_other_block_types(tmp_path):
    held = random_gguf.write(tmp_path / "m.gguf", "qwen3moe", "F32")
    types = requantize(tmp_path / "m.gguf", tmp_path / "o.gguf", "Q8_0", (("blk.*.ffn_down_exps.*", "Q5_1"),))
    assert types.keys() == {"F32", "Q8_0", "Q5_1"} and types["Q5_1"] == 2
    ours, source = gguf.GGUFReader(tmp_path / "o.gguf"), gguf.GGUFReader(tmp_path / "m.gguf")
    for key, field in source.fields.items():
        if not key.startswith("GGUF."):
            assert ours.fields[key].contents() == field.contents() and ours.fields[key].types == field.types
    for t in ours.tensors:
        wanted = "F32" if len(held[t.name].shape) == 1 or "gate_inp" in t.name else "Q5_1" if "down_exps" in t.name else "Q8_0"
        assert t.tensor_type.name == wanted and np.array_equal(t.data, gguf.quantize(held[t.name], t.tensor_type))
    assert distance(logits(tmp_path / "o.gguf"), logits(tmp_path / "m.gguf")) < 0.2


def test_a_split_model_becomes_one_file(tmp_path):
    random_gguf.write(tmp_path / "m-00001-of-00003.gguf", "llama", "Q8_0", parts=3)
    requantize(tmp_path / "m-00001-of-00003.gguf", tmp_path / "one.gguf", None)
    assert np.array_equal(logits(tmp_path / "one.gguf"), logits(tmp_path / "m-00001-of-00003.gguf"))


def test_the_command(tmp_path):
    write_tiny(tmp_path / "m.gguf", Tiny(fields=random_gguf.vocabulary(), vocab=320))
    done = mlxr("convert", tmp_path / "m.gguf", tmp_path / "out", "--bits", "4", "--group-size", "32", "--mix", "*.o_proj=none",
                "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["quantized"] == 2 * 6 + 1
    assert "exists already" in refused("convert", tmp_path / "m.gguf", tmp_path / "out")
    assert "--type is for GGUF files" in refused("convert", tmp_path / "m.gguf", tmp_path / "x", "--type", "Q8_0")
    assert "gguf-py reads Q4_K but does not write it" in refused(
        "convert", tmp_path / "m.gguf", tmp_path / "x.gguf", "--type", "Q4_K")
    assert "'Q9' is no block type" in refused("convert", tmp_path / "m.gguf", tmp_path / "x.gguf", "--type", "Q9")
    assert "a folder is not written as GGUF here" in refused("convert", tmp_path / "out", tmp_path / "x.gguf")
    assert "not of the form" in refused("convert", tmp_path / "m.gguf", tmp_path / "x.gguf", "--mix", "abc")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.gguf", "out"]
    assert mlxr("convert", tmp_path / "m.gguf", tmp_path / "o.gguf", "--type", "Q5_0").stdout.splitlines()[1].split() == [
        "F32", "5", "tensors"]
