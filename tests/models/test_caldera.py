"""mlxr convert --caldera: small models end to end, in every way they are computed, and what is refused."""

import json

import mlxr  # noqa: F401  (first: it decides which BLAS MLX uses)
import mlx.core as mx
import numpy as np
import pytest
from helpers import random_gguf
from helpers.command import mlxr as command
from helpers.command import refused
from kernels.matrices import needs_compiler

from mlxr import LLM, SamplingParams, conversion
from mlxr.caldera import compress, factor
from mlxr.caldera.settings import Caldera, parse
from mlxr.conversion import Options, convert
from mlxr.errors import ConfigError, UnsupportedModel, WeightsError
from mlxr.kernels import library
from mlxr.models.build import load_model, make_model
from mlxr.models.held import held_bytes
from mlxr.models.low_rank import LowRankLinear
from mlxr.models.stored import StoredLinear
from mlxr.weights.checkpoint import open_checkpoint

TEXT = "".join(f"{a} {b}\n" for a in ("the inn", "an old dog", "rain and wind") for b in range(300))
TOKENS = mx.array([[3, 70, 41, 200, 7, 7, 150, 90, 12, 55]])
SETTINGS = Caldera(bits=3, rank=32, factor_bits=8, protect=1, tokens=512, text=TEXT)
OPTIONS = Options(dtype="float32", bits=8, caldera=SETTINGS)


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Few alternations: what these tests look at does not depend on how near the result is to the best."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"_ROUNDS": 1, "_INNER": 1, "_POWERS": (2, 1)}.items():
            patch.setattr(factor, name, value)
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("caldera") / "m.gguf"
    random_gguf.write(path, "llama", "F32")
    return path


@pytest.fixture(scope="module")
def made(source):
    """(folder, facts) of the model in 3 bits and rank 32."""
    return source.with_name("out"), convert(source, source.with_name("out"), OPTIONS)


def logits(path, **how):
    return np.array(load_model(open_checkpoint(path), "float32", **how)(TOKENS)[0])


def distance(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def written_weights(folder):
    """path -> float32 Q + L R of each compressed layer, by MLX alone."""
    arrays, config = mx.load(str(folder / "model.safetensors")), json.loads((folder / "config.json").read_text())

    def plain(name):
        codes, scales, offsets = (arrays[f"{name}.{n}"] for n in ("weight", "scales", "biases"))
        groups = scales.shape[1]
        group = (config["caldera"]["factor_group_size"] if not name.endswith("layer") else 64)
        bits = codes.shape[1] * 32 // (groups * group)
        return mx.dequantize(codes, scales.astype(mx.float32), offsets.astype(mx.float32), group_size=group, bits=bits)
    return {p: plain(f"{p}.layer") + plain(f"{p}.left") @ plain(f"{o}.right") for p, o in config["caldera"]["right"].items()}


def test_what_is_written(made, source):
    folder, facts = made
    config = json.loads((folder / "config.json").read_text())
    layers = [n for n in config["caldera"]["right"] if ".0." in n]
    assert sorted(n.rpartition(".")[2] for n in layers) == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert config["caldera"]["right"]["model.layers.1.self_attn.v_proj"] == "model.layers.1.self_attn.q_proj"
    last = max(int(n.split(".")[2]) for n in config["caldera"]["right"])
    bits = {n: config["quantization"].get(f"{n}.layer", config["quantization"])["bits"] for n in config["caldera"]["right"]}
    assert {bits[n] for n in bits if f".{last}." in n} == {4} and {bits[n] for n in bits if f".{last}." not in n} == {3}
    assert facts["compressed"] == len(bits) and facts["protected"] == [f"model.layers.{last}"]
    assert not source.with_name(".out.partial").exists()
    plain = load_model(open_checkpoint(source), "float32")
    weights = dict(plain.named_modules())
    for path, w in written_weights(folder).items():
        assert 0.005 < distance(np.array(w), np.array(weights[path].weight)) < 0.25, path


def test_every_backend_computes_q_and_l_r(made, backend):
    """Against mlx-lm's own model on the sums."""
    folder, _ = made
    model = load_model(open_checkpoint(folder), "float32")
    layer = model.model.layers[0].mlp.up_proj
    if backend == "host":
        assert type(layer) is StoredLinear and layer.matrix.low
    else:
        assert type(layer) is LowRankLinear
    wanted = load_model(open_checkpoint(folder), "float32")
    for path, w in written_weights(folder).items():
        parent, _, name = path.rpartition(".")
        linear = mx.array(w)
        dict(wanted.named_modules())[parent][name] = lambda x, w=linear: x @ w.T
    for ids in (TOKENS, TOKENS[:, :1]):
        assert distance(np.array(model(ids)), np.array(wanted(ids))) < 2e-5
    assert np.allclose(np.array(layer.weight), np.array(written_weights(folder)["model.layers.0.mlp.up_proj"]), atol=1e-5)


@pytest.mark.parametrize("cache", ["r", "lr", "qlr"])
def test_caches_compute_the_same_and_take_what_is_planned(made, backend, cache):
    folder, _ = made
    checkpoint = open_checkpoint(folder)
    none, model = load_model(checkpoint, "float32"), load_model(checkpoint, "float32", cache=cache)
    assert distance(np.array(model(TOKENS)), np.array(none(TOKENS))) < 3e-3     # rounding to 16 bits
    sizes = [sum({id(a): a.nbytes for a in _arrays(m.parameters())}.values()) for m in (none, model)]
    planned = [held_bytes(checkpoint, make_model(checkpoint.config), "float32", c) for c in ("none", cache)]
    assert sizes == planned and sizes[1] > sizes[0]


def _arrays(tree):
    if isinstance(tree, mx.array):
        yield tree
    elif isinstance(tree, (dict, list, tuple)):
        for x in tree.values() if isinstance(tree, dict) else tree:
            yield from _arrays(x)


@needs_compiler
@pytest.mark.slow
def test_generating_from_fused_and_recorded_steps(made, monkeypatch):
    monkeypatch.setenv("MLXR_BACKEND", "host")
    model = load_model(open_checkpoint(made[0]))
    before = library.used.copy()
    with LLM(str(made[0]), kv="f32", context=256) as llm:
        engine = llm._thread.engine
        output = llm.generate([TOKENS[0].tolist()], SamplingParams(max_tokens=40, temperature=0, ignore_eos=True))[0]
        assert engine.fused == len(engine.model.model.layers) and engine.model.model.layers[0].stack.replays > 20
    assert (library.used - before)["q_gemv", "host"] > 40
    tokens = TOKENS[0].tolist()
    for token in output.token_ids:
        assert int(mx.argmax(model(mx.array([tokens]))[0, -1])) == token
        tokens.append(token)


def test_an_interrupted_run_is_continued(source, made, tmp_path, monkeypatch):
    """The finished groups are kept, and the result is the same to the last bit."""
    saved, save = [], compress._save

    def breaks(file, arrays):
        if len(saved) == 4:
            raise OSError(28, "No space left on device")
        saved.append(file.name)
        save(file, arrays)

    monkeypatch.setattr(compress, "_save", breaks)
    with pytest.raises(WeightsError, match="No space left on device; what was done is kept"):
        convert(source, tmp_path / "out", OPTIONS)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(compress, "_save", lambda *a: (saved.append(a[0].name), save(*a)))
    convert(source, tmp_path / "out", OPTIONS)
    assert len(saved) == len(set(saved)) > 6 and not (tmp_path / ".out.partial").exists()
    one, other = (mx.load(str(p / "model.safetensors")) for p in (tmp_path / "out", made[0]))
    assert one.keys() == other.keys() and all(mx.array_equal(one[n], other[n]).item() for n in one)


def test_experts_and_layers_by_name_are_left_to_plain_codes(tmp_path, monkeypatch):
    monkeypatch.setenv("MLXR_BACKEND", "reference")
    random_gguf.write(tmp_path / "m.gguf", "qwen3moe", "F32")
    convert(tmp_path / "m.gguf", tmp_path / "out", Options(dtype="float32", bits=4, mix=(("*.o_proj", 8),), caldera=SETTINGS))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {n.rpartition(".")[2] for n in config["caldera"]["right"]} == {"q_proj", "k_proj", "v_proj"}
    assert config["quantization"]["model.layers.0.self_attn.o_proj"]["bits"] == 8 and config["quantization"]["bits"] == 4
    assert np.isfinite(logits(tmp_path / "out")).all()


def test_losses_choose_the_blocks(source, tmp_path, monkeypatch):
    seen = {}
    real = compress.calibration.losses
    monkeypatch.setattr(compress.calibration, "losses", lambda *a: seen.update(real(*a)) or {b: -abs(hash(b)) for b in seen})
    with pytest.raises(ConfigError, match="rank=1024: no layer of this model is so large"):
        convert(source, tmp_path / "out", Options(caldera=Caldera(rank=1024, text=TEXT)))
    convert(source, tmp_path / "out", Options(caldera=Caldera(bits=2, rank=32, protect=3, tokens=512, text=TEXT)))
    assert all(loss > 0 for loss in seen.values())


@pytest.mark.parametrize("text, match", [
    ("bits=7", "bits=7: it must be one of 2, 3, 4, 5, 6, 8"), ("rank=40", "rank=40: it must be a multiple of 32"),
    ("factor-bits=3", "factor-bits=3: it must be one of 4, 8, 16"), ("bits", "bits=: it must be a whole number"),
    ("rang=64", "write NAME=NUMBER, with bits, rank, factor-bits, protect, tokens"), ("bits=3,bits=4", "names bits twice"),
    ("", "write NAME=NUMBER"), ("tokens=5", "at least 512"), ("rank=-32", "it must be a whole number"),
])
def test_settings_that_make_no_sense(text, match):
    with pytest.raises(ConfigError, match=match):
        parse(text)


def test_settings():
    assert parse("bits=2,rank=128,factor-bits=16,protect=0") == Caldera(bits=2, rank=128, factor_bits=16, protect=0)
    assert Caldera().protected(30) == 4 and Caldera().protected(2) == 2 and Caldera(bits=8).more_bits == 8


def test_the_command_refuses(source, made, tmp_path, smollm2_gguf):
    short = tmp_path / "short.txt"
    short.write_text("few words")
    for arguments, why in (
        (("--caldera", "bits=9"), "bits=9"), (("--calibrate", str(short)), "--calibrate is for --caldera"),
        (("--caldera", "rank=32", "--calibrate", str(short)), "the text for calibration has"),
        (("--caldera", "rank=32", "--calibrate", str(tmp_path / "none.txt")), "none.txt"),
    ):
        assert why in refused("convert", str(source), str(tmp_path / "x"), *arguments)
        assert not (tmp_path / "x").exists()
    assert "for folders" in refused("convert", str(source), str(tmp_path / "x.gguf"), "--caldera", "bits=3")
    assert "this has none" in refused("generate", str(source), "--prompt", "x", "--raw", "--cache", "r")
    with pytest.raises(UnsupportedModel, match="is quantized already"):
        convert(made[0], tmp_path / "again", OPTIONS)
    facts = json.loads(command("inspect", str(made[0]), "--json").stdout)
    assert facts["parameters"] == json.loads(command("inspect", str(source), "--json").stdout)["parameters"]


@pytest.mark.parametrize("change, match", [
    ({"rank": "many"}, "must be an object with a rank"), ({"right": []}, "must be an object with a rank"),
    ({"right": {"model.norm": "model.norm"}}, "names model.norm, which is no linear layer"),
    ({"right": {"model.layers.0.mlp.up_proj": "model.layers.0.mlp.gate_proj"}}, "the R of 'model.layers.0.mlp.gate_proj', which has none"),
    ({"right": {"model.layers.0.mlp.up_proj": ["x"]}}, "which has none"), ({"rank": 64}, "shape"), (None, "must be an object"),
])
def test_a_config_that_does_not_fit(made, tmp_path, change, match):
    for file in made[0].iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = json.loads((made[0] / "config.json").read_text())
    config["caldera"] = None if change is None else {**config["caldera"], **change}
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=match):
        load_model(open_checkpoint(tmp_path))


def test_a_run_with_another_text_begins_anew(source, tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "_write_shards", lambda *a: (_ for _ in ()).throw(OSError(5, "broken")))
    with pytest.raises(WeightsError, match="broken"):
        convert(source, tmp_path / "out", OPTIONS)
    first = {f.name: f.stat().st_mtime_ns for f in (tmp_path / ".out.partial" / "caldera").iterdir()}
    with pytest.raises(WeightsError, match="broken"):
        convert(source, tmp_path / "out", Options(dtype="float32", bits=8, caldera=Caldera(
            bits=3, rank=32, factor_bits=8, protect=1, tokens=512, text=TEXT[::-1])))
    again = {f.name: f.stat().st_mtime_ns for f in (tmp_path / ".out.partial" / "caldera").iterdir()}
    assert first.keys() == again.keys() and not set(first.values()) & set(again.values())
