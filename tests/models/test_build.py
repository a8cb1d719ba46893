"""Loading: the same numbers as mlx-lm's own way, from every kind of checkpoint, within the memory that is promised."""

import json
import subprocess
import sys

import mlxr  # noqa: F401  (first: it decides which BLAS MLX uses)
import gguf
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from helpers.dequantize import write_folder
from helpers.gguf_files import Tiny, write_tiny
from mlx.utils import tree_flatten, tree_map, tree_unflatten
from safetensors.numpy import save_file

from mlxr.errors import ConfigError, UnsupportedModel, WeightsError
from mlxr.kernels import host_build, library
from mlxr.models import build
from mlxr.models.build import choose_dtype, load_model
from mlxr.models.linear import QuantEmbedding, QuantLinear
from mlxr.models.stored import StoredEmbedding, StoredLinear
from mlxr.models.zoo import instantiate
from mlxr.weights.checkpoint import open_checkpoint

CONFIG = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128,
          "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "vocab_size": 96,
          "tie_word_embeddings": False, "max_position_embeddings": 256}
IDS = mx.array([[1, 5, 9, 2, 7, 3]])
pytestmark = pytest.mark.usefixtures("backend")
MATRICES = "_proj.", "embed_tokens.", "lm_head."


def random_model(config=CONFIG, dtype=mx.float32, seed=0):
    mx.random.seed(seed)
    model = instantiate(config)
    model.update(tree_unflatten([(k, (mx.random.normal(v.shape) * 0.2 + ("norm" in k)).astype(dtype))
                                 for k, v in tree_flatten(model.parameters())]))
    mx.eval(model.parameters())
    return model


def write_model(path, model, config=CONFIG, change=lambda weights: weights):
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(path / "model.safetensors"), change(dict(tree_flatten(model.parameters()))))
    return path


def logits(model, ids=IDS):
    return np.array(model(ids).astype(mx.float32))


def close(a, b, tolerance=1e-5):
    return a.shape == b.shape and float(np.abs(a - b).max()) <= tolerance * float(np.abs(b).max())


def how_stored(layer):
    """How a layer's weights are held: a kernels' type, MLX's mode and bits, or "array"."""
    if isinstance(layer, (StoredLinear, StoredEmbedding)):
        return layer.matrix.kind.name
    return f"{layer.mode} {layer.bits}" if isinstance(layer, (QuantLinear, QuantEmbedding)) else "array"


def nbytes(model):
    return sum(w.nbytes for _, w in tree_flatten(model.parameters()))


# -- the real model --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("products", [False, True])
def test_the_real_gguf_equals_its_dequantized_folder(smollm2_gguf, smollm2_fp32, backend, products, monkeypatch):
    monkeypatch.setattr(host_build, "has_byte_products", lambda: products)
    ids = mx.array([[1, 9690, 198, 2683, 359, 253, 5356, 5646]])
    checkpoint = open_checkpoint(smollm2_gguf)
    packed, host = load_model(checkpoint), backend == "host"
    assert how_stored(packed.model.embed_tokens) == ("Q8_0" if host else "affine 8")
    assert {how_stored(m) for m in packed.model.layers[5].mlp.children().values()} == {"Q4_1" if host else "affine 4"}
    assert not host or nbytes(packed) == sum(t.nbytes for t in checkpoint.tensors.values())
    before = library.used.copy()
    plain = instantiate(open_checkpoint(smollm2_fp32).config)  # mlx-lm's class, filled by mlx alone
    plain.load_weights(str(smollm2_fp32 / "model.safetensors"))
    for part in (ids, ids[:, :2], ids[:, :1]):  # many rows and few rows take different ways
        assert close(logits(packed, part), logits(plain, part))
    calls = {name: n for (name, _), n in (library.used - before).items()}  # 30 blocks of 7 matrices, and the output
    few = {"q_gemv": 211, "q_gemm_int8": 2 * 211, "int8_split": 2 * 211} if products else {"q_gemv": 2 * 211, "q_gemm": 211}
    assert calls == ({**few, "q_rows": 3} if host else {})
    assert close(logits(load_model(open_checkpoint(smollm2_fp32)), ids), logits(plain, ids), 0)
    prompt = [1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198]
    top = logits(packed, mx.array([prompt]))[0, -1].argsort()[-3:]
    assert 504 in top  # "The", of "The capital of France is Paris."


# -- GGUF ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("tiny", [
    Tiny(), Tiny(tied=False), Tiny(arch="qwen2"), Tiny(arch="qwen3", head_dim=32), Tiny(arch="qwen3", tied=False),
    Tiny(attention_bias=True), Tiny(quant="Q4_0", embedding="Q4_0"), Tiny(quant="Q8_0", embedding="Q4_1"),
    Tiny(quant="F16", embedding="F16"), Tiny(quant="BF16", embedding="F32"), Tiny(head_dim=32, heads=3, kv_heads=1),
    Tiny(fields={"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}),
    Tiny(fields={"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0,
                 "llama.rope.scaling.original_context_length": 64}),
], ids=lambda t: f"{t.arch}-{t.quant}-{t.embedding}-{t.heads}x{t.head_dim}-{t.tied}-{len(t.fields)}")
@pytest.mark.parametrize("rows", [1, 6])
def test_gguf_equals_stock_mlx_lm_on_its_weights(tmp_path, tiny, rows, backend):
    held = write_tiny(tmp_path / "t.gguf", tiny)
    checkpoint = open_checkpoint(tmp_path / "t.gguf")
    stock = instantiate(checkpoint.config)
    stock.load_weights([(k, mx.array(v)) for k, v in held.items()])
    model = load_model(checkpoint)
    assert close(logits(model, IDS[:, :rows]), logits(stock, IDS[:, :rows]))
    held_as = {"Q4_0": "affine 4", "Q4_1": "affine 4", "Q8_0": "affine 8"}
    for layer, kind in ((model.model.embed_tokens, tiny.embedding), (model.model.layers[0].mlp.up_proj, tiny.quant)):
        assert how_stored(layer) == (kind if backend == "host" else held_as.get(kind, "array"))
    assert backend != "host" or nbytes(model) == sum(t.nbytes for t in checkpoint.tensors.values())


def test_llama3_factors_reach_the_rope(tmp_path):
    theta, old, factor, dims = 10000.0, 64, 8.0, 32
    wavelength = 2 * np.pi * theta ** (np.arange(0, dims, 2) / dims)
    smooth = (old / wavelength - 1.0) / (4.0 - 1.0)
    medium = 1 / ((1 - smooth) / factor + smooth)
    factors = np.where(wavelength > old, factor, np.where(wavelength < old / 4, 1, medium))
    assert len(set(factors)) > 2
    tiny = Tiny(rope_factors=factors, head_dim=dims, fields={"llama.rope.scaling.original_context_length": old})
    held = write_tiny(tmp_path / "t.gguf", tiny)
    checkpoint = open_checkpoint(tmp_path / "t.gguf")
    stock = instantiate(checkpoint.config)  # mlx-lm works the factors out from the config
    stock.load_weights([(k, mx.array(v)) for k, v in held.items()])
    ids = mx.array([list(range(90))])
    assert close(logits(load_model(checkpoint), ids), logits(stock, ids), 3e-5)
    write_tiny(tmp_path / "own.gguf", Tiny(rope_factors=factors * 3, head_dim=dims))
    other = load_model(open_checkpoint(tmp_path / "own.gguf"))
    table = other.model.layers[1].self_attn.rope._freqs
    assert np.allclose(table, theta ** (np.arange(0, dims, 2) / dims) * factors * 3)
    write_tiny(tmp_path / "short.gguf", Tiny(rope_factors=factors[:-1], head_dim=dims))
    with pytest.raises(WeightsError, match="15 factors for 16 frequencies"):
        load_model(open_checkpoint(tmp_path / "short.gguf"))


@pytest.mark.parametrize("backend", ["reference"], indirect=True)
def test_a_big_tensor_is_converted_in_slices(tmp_path, monkeypatch):
    write_tiny(tmp_path / "t.gguf")
    whole = load_model(open_checkpoint(tmp_path / "t.gguf"))
    monkeypatch.setattr(build, "_SLICE", 500)
    sliced = load_model(open_checkpoint(tmp_path / "t.gguf"))
    for (name, a), (_, b) in zip(tree_flatten(whole.parameters()), tree_flatten(sliced.parameters())):
        assert mx.array_equal(a, b), name


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_gguf_in_a_dtype(tmp_path, dtype, backend):
    write_tiny(tmp_path / "t.gguf")
    checkpoint = open_checkpoint(tmp_path / "t.gguf")
    model = load_model(checkpoint, dtype)
    kinds = {str(p.dtype).rpartition(".")[2] for _, p in tree_flatten(model.parameters())}
    assert kinds == {dtype, "uint32"} | ({"uint16"} if backend == "host" else set())  # blocks of Q4_1 and of Q8_0
    assert str(model.model.embed_tokens(IDS).dtype).endswith(dtype)
    out = model(IDS)
    assert str(out.dtype).endswith(dtype)
    assert close(np.array(out.astype(mx.float32)), logits(load_model(checkpoint)),
                 {"float32": 0, "float16": 0.02, "bfloat16": 0.12}[dtype])


def test_scales_beyond_float16_are_refused(tmp_path, backend):
    number = gguf.GGMLQuantizationType.Q8_0
    writer_tiny = Tiny(embedding="Q8_0")
    write_tiny(tmp_path / "t.gguf", writer_tiny)
    content = bytearray((tmp_path / "t.gguf").read_bytes())
    t = open_checkpoint(tmp_path / "t.gguf").tensor("model.embed_tokens.weight")
    assert t.type == number.name
    content[t.offset:t.offset + 2] = np.float16(60000).tobytes()
    (tmp_path / "big.gguf").write_bytes(content)
    if backend == "host":
        load_model(open_checkpoint(tmp_path / "big.gguf"), "float16")  # the file's own scales, which are not multiplied
    else:
        with pytest.raises(WeightsError, match="model.embed_tokens.weight has scales beyond float16"):
            load_model(open_checkpoint(tmp_path / "big.gguf"), "float16")
    load_model(open_checkpoint(tmp_path / "big.gguf"), "float32")
    for damage in (np.inf, -np.inf, np.nan):
        content[t.offset:t.offset + 2] = np.float16(damage).tobytes()
        (tmp_path / f"{damage}.gguf").write_bytes(content)
        with pytest.raises(WeightsError, match="model.embed_tokens.weight has scales that are not finite"):
            load_model(open_checkpoint(tmp_path / f"{damage}.gguf"), "float32")


def test_gguf_of_wrong_shapes(tmp_path):
    write_tiny(tmp_path / "t.gguf", Tiny(fields={"llama.feed_forward_length": 128}))
    with pytest.raises(WeightsError, match=r"6 have another shape than the config says: "
                       r"model.layers.0.mlp.down_proj.weight is \[64, 96\], not \[64, 128\], .* and 3 more"):
        load_model(open_checkpoint(tmp_path / "t.gguf"))


def test_the_dequantized_folder_of_a_tiny_model(tmp_path):
    held = write_tiny(tmp_path / "t.gguf")
    (tmp_path / "f").mkdir()
    write_folder(tmp_path / "t.gguf", tmp_path / "f")
    stored = mx.load(str(tmp_path / "f" / "model.safetensors"))
    assert stored.keys() == held.keys() and all(np.array_equal(stored[k], held[k]) for k in held)


# -- safetensors -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("dtype", [None, "float32", "float16", "bfloat16"])
def test_dtypes(tmp_path, stored, dtype, backend):
    source = random_model(dtype=build.DTYPES[stored])
    checkpoint = open_checkpoint(write_model(tmp_path, source))
    model, wanted = load_model(checkpoint, dtype), build.DTYPES[dtype or "float32"]  # the default on a CPU
    held = {name.replace(".stored.0", ".weight"): w for name, w in tree_flatten(model.parameters())}
    for name, was in tree_flatten(source.parameters()):
        kept = backend == "host" and any(m in name for m in MATRICES)        # what kernels read stays as it is stored
        assert held[name].dtype == (was.dtype if kept else wanted), name
        assert mx.array_equal(held[name], was.astype(held[name].dtype)), name
    assert model(IDS).dtype == wanted
    source.update(tree_map(lambda w: w.astype(mx.float32), source.parameters()))
    exact = {mx.float32: 1e-5, mx.float16: 0.02, mx.bfloat16: 0.15}
    assert close(logits(model), logits(source), exact[wanted] if backend == "host" else max(exact[wanted], exact[build.DTYPES[stored]]))


def test_default_dtype_by_device(tmp_path, monkeypatch):
    checkpoint = open_checkpoint(write_model(tmp_path, random_model(dtype=mx.bfloat16)))
    assert choose_dtype(checkpoint, None) == mx.float32
    monkeypatch.setattr(build, "on_cpu", lambda: False)
    assert choose_dtype(checkpoint, None) is None and choose_dtype(checkpoint, "float16") == mx.float16
    write_tiny(tmp_path / "t.gguf")
    assert choose_dtype(open_checkpoint(tmp_path / "t.gguf"), None) == mx.float16
    with pytest.raises(ConfigError, match="dtype 'int8' is not one of float32, float16, bfloat16"):
        load_model(checkpoint, "int8")


def test_without_a_cast_the_stored_dtype_stays(tmp_path, monkeypatch):
    checkpoint = open_checkpoint(write_model(tmp_path, random_model(dtype=mx.bfloat16)))
    monkeypatch.setattr(build, "on_cpu", lambda: False)
    assert {p.dtype for _, p in tree_flatten(load_model(checkpoint).parameters())} == {mx.bfloat16}


def test_shards_and_progress(tmp_path):
    source = random_model()
    weights = {k: np.array(v) for k, v in tree_flatten(source.parameters())}
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    names = sorted(weights)
    for i, part in enumerate((names[::2], names[1::2])):
        save_file({n: weights[n] for n in part}, tmp_path / f"model-0000{i + 1}-of-00002.safetensors")
    seen = []
    model = load_model(open_checkpoint(tmp_path), progress=lambda done, total: seen.append((done, total)))
    assert close(logits(model), logits(source), 0)
    total = sum(w.nbytes for w in weights.values())
    assert len(seen) == len(weights) and seen[-1] == (total, total) and seen == sorted(seen)


@pytest.mark.parametrize("how", [
    dict(bits=4, group_size=64), dict(bits=8, group_size=32), dict(bits=3, group_size=64), dict(bits=6, group_size=32),
    dict(mode="mxfp4"), dict(mode="nvfp4"), dict(mode="mxfp8")], ids=str)
@pytest.mark.parametrize("rows", [1, 6])
def test_mlx_quantized_checkpoints(tmp_path, how, rows, backend):
    source = random_model()
    nn.quantize(source, **how)
    path = write_model(tmp_path, source, dict(CONFIG, quantization={"group_size": 64, "bits": 4, **how}))
    model = load_model(open_checkpoint(path))
    if backend == "host" and "bits" in how:
        assert nbytes(model) == open_checkpoint(path).nbytes
        held = f"affine{how['bits']}_{how['group_size']}_float"
    else:
        held = f"{how.get('mode', 'affine')} {how.get('bits') or model.lm_head.bits}"
    assert {how_stored(m) for m in (model.model.layers[0].mlp.up_proj, model.model.embed_tokens, model.lm_head)} == {held}
    assert close(logits(model, IDS[:, :rows]), logits(source, IDS[:, :rows]), 2e-5)


def test_overrides_of_single_layers(tmp_path, backend):
    source = random_model()
    up, down = (f"model.layers.0.mlp.{n}_proj" for n in ("up", "down"))
    special = {up: {"bits": 8, "group_size": 32}, down: False, "lm_head": {"mode": "mxfp4"}}
    nn.quantize(source, 64, 4, class_predicate=lambda p, m: special.get(p, hasattr(m, "to_quantized")))
    path = write_model(tmp_path, source, dict(CONFIG, quantization={"group_size": 64, "bits": 4, **special}))
    model = load_model(open_checkpoint(path))
    mlp = model.model.layers[0].mlp
    held = ["affine8_32_float", "affine4_64_float", "F32"] if backend == "host" else ["affine 8", "affine 4", "array"]
    assert [how_stored(x) for x in (mlp.up_proj, mlp.gate_proj, mlp.down_proj)] == held
    assert how_stored(model.lm_head) == "mxfp4 4"
    assert close(logits(model), logits(source), 2e-5)


@pytest.mark.parametrize("settings, mode", [
    ({"quant_method": "mxfp4"}, "mxfp4"), ({"quant_method": "mxfp8"}, "mxfp8"),
    ({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}, "nvfp4"),
    ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
    ({"quant_method": "modelopt", "quantization": {"quant_algo": "NVFP4"}}, "nvfp4"),
    ({"quant_method": "fp8", "scale_fmt": "ue8m0", "weight_block_size": [32, 32]}, "mxfp8"),
    ({"bits": 4, "group_size": 64}, "affine")])
def test_quantization_configs_of_others(tmp_path, settings, mode, backend):
    source = random_model()
    nn.quantize(source, mode=mode)
    model = load_model(open_checkpoint(write_model(tmp_path, source, dict(CONFIG, quantization_config=settings))))
    assert how_stored(model.lm_head).startswith(mode) and close(logits(model), logits(source), 2e-5)


@pytest.mark.parametrize("extra, match, kind", [
    ({"quantization_config": {"quant_method": "awq", "bits": 4}},
     "quantized with 'awq' are not supported", UnsupportedModel),
    ({"quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized"}},
     "format 'float-quantized' is not supported; supported: nvfp4", UnsupportedModel),
    ({"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}},
     "'FP8' is not supported", UnsupportedModel),
    ({"quantization_config": [1]}, "must be an object", WeightsError),
    ({"quantization": 4}, "must be an object", WeightsError),
    ({"quantization": {"lm_head": {"bits": 4}}}, "lm_head is quantized, but it has no scales", WeightsError),
    ({"quantize_activations": True}, "quantized activations", UnsupportedModel),
    ({"model_file": "evil.py"}, "brings its own code", UnsupportedModel),
    ({"model_type": "no_such_arch"}, "'no_such_arch' is not supported", UnsupportedModel),
    ({"num_attention_heads": 0}, "cannot build architecture 'llama'", UnsupportedModel),
    ({"vocab_size": 0}, "cannot build architecture 'llama'", UnsupportedModel),
    ({"hidden_size": "x"}, "cannot build architecture 'llama'", UnsupportedModel),
    ({"hidden_size": 2**40}, "cannot build architecture 'llama'|do(es)? not fit", (UnsupportedModel, WeightsError)),
    ({"rope_scaling": {"rope_type": "strange"}}, "cannot build architecture 'llama'", UnsupportedModel),
])
def test_configs_that_cannot_be_loaded(tmp_path, extra, match, kind):
    path = write_model(tmp_path, random_model(), {**CONFIG, **extra})
    with pytest.raises(kind, match=match) as caught:
        load_model(open_checkpoint(path))
    assert "\n" not in str(caught.value)


def without(*names):
    return lambda weights: {k: v for k, v in weights.items() if k not in names}


@pytest.mark.parametrize("change, match", [
    (without("lm_head.weight"), "1 parameters are missing: lm_head.weight$"),
    (without(*(f"model.layers.1.{n}.weight"
               for n in ("mlp.up_proj", "mlp.down_proj", "mlp.gate_proj", "input_layernorm"))),
     "4 parameters are missing: model.layers.1.input_layernorm.weight, .* and 1 more"),
    (lambda w: {**w, "extra.weight": mx.ones(3)}, "1 are not part of the model: extra.weight"),
    (lambda w: {**w, "lm_head.weight": mx.ones((96, 32))}, r"lm_head.weight is \[96, 32\], not \[96, 64\]"),
])
def test_parameters_that_do_not_fit(tmp_path, change, match):
    with pytest.raises(WeightsError, match=match) as caught:
        load_model(open_checkpoint(write_model(tmp_path, random_model(), change=change)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name, value, match", [
    ("lm_head.scales", mx.ones((96, 7)), "do not make rows of 64"),
    ("lm_head.weight", mx.ones((96, 8)), "do not make rows of 64"),
    ("lm_head.weight", mx.zeros((96, 14), mx.uint32), "7 bits in groups of 64"),
    ("lm_head.scales", mx.ones((96, 1), mx.uint8), "which MLX has no format for"),
])
def test_packed_weights_that_make_no_sense(tmp_path, name, value, match):
    source = random_model()
    nn.quantize(source, 64, 4)
    path = write_model(tmp_path, source, dict(CONFIG, quantization={"group_size": 64, "bits": 4}),
                       lambda w: {**w, name: value})
    with pytest.raises(WeightsError, match=match):
        load_model(open_checkpoint(path))


def test_tensors_that_sanitize_cannot_take(tmp_path):
    config = dict(CONFIG, model_type="mixtral", num_local_experts=2, num_experts_per_tok=1)
    source = instantiate(config)
    some = {"model.layers.0.block_sparse_moe.experts.0.w1.weight": mx.ones(2)}
    path = write_model(tmp_path, source, config, lambda weights: some)
    with pytest.raises(WeightsError, match="do not fit architecture 'mixtral'"):
        load_model(open_checkpoint(path))


def test_a_file_that_shrinks_after_it_was_opened(tmp_path):
    checkpoint = open_checkpoint(write_model(tmp_path, random_model()))
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(WeightsError) as caught:
        load_model(checkpoint)
    assert "\n" not in str(caught.value)


def test_no_transformers():
    code = ("import sys, mlxr.models.build, mlxr.weights.checkpoint; from mlxr.models.zoo import lm_module; "
            "lm_module('llama'); unwanted = 'transformers', 'gguf', 'huggingface_hub', 'rich'; "
            "print([m for m in unwanted if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
