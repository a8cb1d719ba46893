"""Layers on stored weights: what they take, what stays MLX's, and every architecture through load_model."""

import mlxr  # noqa: F401  (first: it decides which BLAS MLX uses)
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from helpers.gguf_files import Tiny, write_tiny
from mlx.utils import tree_flatten
from test_build import CONFIG, IDS, close, how_stored, logits, random_model, write_model
from tiny_configs import CONFIGS, tiny_model

from mlxr.kernels import library
from mlxr.kernels.stored import affine
from mlxr.models import build, stored
from mlxr.models.build import load_model
from mlxr.models.linear import QuantEmbedding, QuantLinear
from mlxr.models.modes import METAL_ONLY
from mlxr.models.own_weights import own_weights
from mlxr.models.stored import StoredEmbedding, StoredLinear, fitting, kind_of
from mlxr.models.zoo import instantiate, lm_module
from mlxr.weights.checkpoint import open_checkpoint

HOST, BOTH = pytest.mark.parametrize("backend", ["host"], indirect=True), pytest.mark.usefixtures("backend")
RUNNABLE = [name for name in CONFIGS if name not in METAL_ONLY]
DTYPES = {mx.float32: 1e-5, mx.float16: 4e-3, mx.bfloat16: 3e-2}


def packed_layer(path, module):
    own = type(module).__name__ == "FusedLinear"  # its to_quantized does not go with nn.quantize
    # mlx-lm reads the weights of kimi_k3's *_res_proj as plain numbers
    return hasattr(module, "to_quantized") and module.weight.shape[-1] % 32 == 0 and not own and "_res_proj" not in path


def stock(config, weights, how=None):
    """mlx-lm's model with these weights, the way mlx-lm fills it."""
    model = instantiate(config)
    if how:
        nn.quantize(model, **how, class_predicate=packed_layer)
    weights = model.sanitize(dict(weights)) if hasattr(model, "sanitize") else weights
    model.load_weights(list(weights.items()))
    return model.eval()


# -- every architecture ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", RUNNABLE)
@pytest.mark.parametrize("how", [None, {"group_size": 32, "bits": 4}], ids=["plain", "quantized"])
@HOST
def test_every_architecture_on_stored_weights(tmp_path, name, how, backend):
    source, config = tiny_model(name), CONFIGS[name]
    if how:
        nn.quantize(source, **how, class_predicate=packed_layer)
        config = {**config, "quantization": how}
    weights = dict(tree_flatten(source.parameters()))
    model = load_model(open_checkpoint(write_model(tmp_path, source, config)))
    wanted = stock(config, weights, how)
    before = library.used.copy()
    for ids in (IDS, IDS[:, :1]):
        assert close(logits(model, ids), logits(wanted, ids), 1e-4)
    used = {name for name, backend in library.used - before if backend == "host"}
    assert "q_gemv" in used and any(isinstance(m, StoredLinear) for _, m in model.named_modules())
    own = own_weights(model)                                   # all else that is quantized is on our kernels
    assert not [n for n, m in model.named_modules() if type(m) in (QuantLinear, QuantEmbedding) and n.split(".")[-1] not in own]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("backend", ["reference"], indirect=True)
def test_a_quantized_checkpoint_of_every_architecture(tmp_path, name, backend):
    source = tiny_model(name)
    nn.quantize(source, 32, 4, class_predicate=packed_layer)
    path = write_model(tmp_path, source, {**CONFIGS[name], "quantization": {"group_size": 32, "bits": 4}})
    got = dict(tree_flatten(load_model(open_checkpoint(path)).parameters()))
    wanted = dict(tree_flatten(source.parameters()))
    assert got.keys() == wanted.keys()
    for key, value in wanted.items():
        assert got[key].dtype == value.dtype and mx.allclose(got[key], value, rtol=1e-6, atol=0), key


@BOTH
def test_what_mlx_lm_keeps_in_fp32_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "on_cpu", lambda: False)        # which would refuse experts in 16 bits
    config = CONFIGS["glm4_moe"]
    model = load_model(open_checkpoint(write_model(tmp_path, tiny_model("glm4_moe"), config)), "float16")
    kept = {k for k, v in tree_flatten(model.parameters()) if v.dtype == mx.float32 and ".stored." not in k}
    assert kept and all("e_score_correction_bias" in k for k in kept)


# -- what stays MLX's ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, layers", [
    ("gemma3n", {"prediction_coefs", "correction_coefs"}), ("minicpm", {"embed_tokens"}), ("seed_oss", {"embed_tokens"}),
    ("llama4_text", {"embed_tokens"}), ("llama", set()), ("gemma4_text", set())])
def test_weights_that_a_model_computes_with_itself(name, layers):
    assert {n for n in own_weights(tiny_model(name)) if not n.endswith("norm")} == layers


@HOST
def test_such_layers_keep_an_array_in_the_dtype_of_activations(tmp_path, backend):
    config = {**CONFIGS["seed_oss"], "tie_word_embeddings": True}
    source = random_model(config, mx.bfloat16)
    model = load_model(open_checkpoint(write_model(tmp_path, source, config)))
    assert type(model.model.embed_tokens) is nn.Embedding and model.model.embed_tokens.weight.dtype == mx.float32
    assert how_stored(model.model.layers[0].mlp.up_proj) == "BF16"
    source.set_dtype(mx.float32)
    assert close(logits(model), logits(source))


@HOST
def test_widths_that_kernels_do_not_take_stay_mlx_s(tmp_path, backend):
    config = dict(CONFIG, intermediate_size=72, num_attention_heads=5, num_key_value_heads=1, head_dim=8)
    source = random_model(config, mx.float16)
    model = load_model(open_checkpoint(write_model(tmp_path, source, config)))
    mlp, attention = model.model.layers[1].mlp, model.model.layers[1].self_attn
    assert type(mlp.down_proj) is nn.Linear and type(attention.o_proj) is nn.Linear      # from 72 and 40 columns
    assert mlp.down_proj.weight.dtype == mx.float32
    assert how_stored(mlp.up_proj) == how_stored(attention.k_proj) == "F16"
    source.set_dtype(mx.float32)
    assert close(logits(model), logits(source)) and close(logits(model, IDS[:, :1]), logits(source, IDS[:, :1]))


@HOST
def test_a_gguf_of_odd_widths(tmp_path, backend):
    tiny = Tiny(ff=72, quant="F16", embedding="F32")
    held = write_tiny(tmp_path / "t.gguf", tiny)
    checkpoint = open_checkpoint(tmp_path / "t.gguf")
    model = load_model(checkpoint)
    assert type(model.model.layers[0].mlp.down_proj) is nn.Linear and how_stored(model.model.layers[0].mlp.up_proj) == "F16"
    assert close(logits(model), logits(stock(checkpoint.config, {k: mx.array(v) for k, v in held.items()})))


def test_what_kernels_take():
    assert fitting("Q4_1", (3, 64)).name == "Q4_1" and fitting("F32", (1, 32)).name == "F32"
    for kind, shape in (("F32", (4, 40)), ("F32", (4, 0)), ("Q8_0", (2 ** 21, 1024)), ("Q6_K", (4, 128)), (None, (4, 64)),
                        (affine(4, 128), (8, 64)), ("F16", (2, 4, 32))):
        assert fitting(kind, shape) is None, (kind, shape)
    linear = nn.Linear(64, 8)
    assert kind_of(linear, linear).name == "F32"
    for other in (nn.QuantizedLinear(64, 8, mode="mxfp4", group_size=32), nn.RMSNorm(64)):
        assert kind_of(other, other) is None and stored.adopt(other, mx.float32) is None
    packed = linear.to_quantized(32, 4)
    assert kind_of(packed, packed).name == "affine4_32_float"
    assert kind_of(packed, {**packed, "biases": packed.biases.astype(mx.float16)}) is None


@HOST
def test_subclasses_of_linear_layers_stay(backend):
    fused = lm_module("afm7").FusedLinear(64, [8, 8])
    assert kind_of(fused, fused) is None
    packed = fused.to_quantized(32, 4)
    assert isinstance(packed, nn.QuantizedLinear) and kind_of(packed, packed) is None


# -- the layers themselves -------------------------------------------------------------------------------------------

def weights_of(module):
    return module.weight if "scales" not in module else mx.dequantize(
        module.weight, module.scales, module.biases, group_size=module.group_size, bits=module.bits)


@pytest.mark.parametrize("held, dtype", [
    pytest.param(held, dtype, marks=[pytest.mark.slow] * (held not in (dtype, mx.float32, "affine")))
    for held in (mx.float32, mx.float16, mx.bfloat16, "affine") for dtype in DTYPES], ids=str)
@HOST
def test_a_linear_layer_in_every_dtype(held, dtype, backend):
    """bias and activations in a dtype of their own; no row, one row, few and many; a last axis alone."""
    mx.random.seed(3)
    layer = nn.Linear(64, 50)
    layer.weight = layer.weight.astype(held if held in DTYPES else mx.float32)
    layer = layer.to_quantized(32, 4) if held == "affine" else layer
    ours = stored.adopt(layer, dtype)
    assert ours.weight.dtype == dtype and close(np.array(ours.weight.astype(mx.float32)),
                                                np.array(weights_of(layer).astype(mx.float32)), DTYPES[dtype])
    for shape in ((0, 64), (1, 64), (2, 0, 64), (64,), (1, 3, 64), (4, 5, 64)):
        x = mx.random.normal(shape).astype(dtype)
        y = ours(x)
        wanted = x.astype(mx.float32) @ weights_of(layer).astype(mx.float32).T + layer.bias
        assert y.dtype == dtype and y.shape == wanted.shape
        assert not y.size or close(np.array(y.astype(mx.float32)), np.array(wanted), DTYPES[dtype])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@HOST
def test_an_embedding_and_its_output_in_every_dtype(bits, dtype, backend):
    layer = nn.Embedding(90, 64).to_quantized(32, bits)
    ours = stored.adopt(layer, dtype)
    assert type(ours) is StoredEmbedding and ours(IDS).dtype == dtype and ours(IDS).shape == (1, 6, 64)
    assert close(np.array(ours(IDS).astype(mx.float32)), np.array(weights_of(layer)[IDS]), DTYPES[dtype])
    for rows in (1, 7):
        x = mx.random.normal((1, rows, 64)).astype(dtype)
        y = ours.as_linear(x)
        wanted = x.astype(mx.float32) @ weights_of(layer).T
        assert y.dtype == dtype and close(np.array(y.astype(mx.float32)), np.array(wanted), DTYPES[dtype])
