"""Random GGUF models of every architecture: logits as llama.cpp's, and as mlx-lm's on weights that gguf-py decoded.

With F32 weights llama.cpp computes in fp32 too, and its logits must be ours to 1e-5: that judges names, shapes, rope,
scales and norms. With blocks it rounds activations to 8 bits, which costs a percent or two, and where two experts score
nearly alike that can choose another one: for mixtures the worst tenth of the positions is left out.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import gguf
import mlx.core as mx
import numpy as np
import pytest
from helpers import random_gguf
from helpers.ggml_blocks import quantize
from mlx.utils import tree_unflatten

from mlxr import LLM
from mlxr.config import EngineConfig
from mlxr.engine import load_engine
from mlxr.errors import UnsupportedModel, WeightsError
from mlxr.models import build
from mlxr.models.build import load_model
from mlxr.models.experts import StoredExperts
from mlxr.models.stored import StoredMatrix
from mlxr.models.zoo import instantiate, lm_module
from mlxr.scheduler import Work
from mlxr.sequence import SamplingParams, Sequence
from mlxr.tokenizer import load_tokenizer
from mlxr.weights.checkpoint import open_checkpoint
from mlxr.weights.gguf import file_rows
from mlxr.weights.gguf_models import ARCHITECTURES
from mlxr.weights.quants import REGISTRY

TOKENS = [int(t) for t in np.random.default_rng(5).integers(0, 256, 60)]
ALL = list(random_gguf.VARIANTS)
LARGE = "deepseek2 lite"                    # 27 layers
FIRST = sorted({v.split()[0]: v for v in reversed(ALL)}.values())
# mlx-lm computes the exact GELU, llama.cpp its approximation by tanh (which is what the model was trained with); gelu_approx
# and softcaps of Gemma go through llama.cpp's fp16 tables.
LOOSE = {"starcoder2": 1e-3, "gemma2": 3e-4, "gemma3": 3e-4}
SLOW = pytest.mark.slow


def logits_of_llama_cpp(path):
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is the judge here: install mlxr[bench]")
    with open(os.devnull, "w") as sink, contextlib.redirect_stderr(sink):
        peer = llama_cpp.Llama(str(path), n_ctx=random_gguf.CONTEXT, n_batch=64, n_ubatch=64, logits_all=True, verbose=False,
                               type_k=0, type_v=0, n_threads=1)
    peer.eval(TOKENS)
    return np.array(peer.scores[:len(TOKENS)])


def logits_of_the_engine(path):
    """By the whole engine: tokens on fp32 pages, kernels on blocks."""
    engine = load_engine(str(path), EngineConfig(kv="f32", context=128, dtype="float32"))
    pages = engine.scheduler.allocator.take(0)
    sequence = Sequence(TOKENS, SamplingParams(), len(TOKENS) + 1)
    return np.array(engine.runner.logits([Work(sequence, 0, len(TOKENS), False, -1, 0, pages, every=True)]))


def logits_of_mlx_lm(path, held):
    """By mlx-lm's class, on what gguf-py decoded. held: as random_gguf.write returns it."""
    checkpoint = open_checkpoint(path)
    model = instantiate(checkpoint.config)
    arrays = dict(parameters(checkpoint, held))
    if hasattr(model, "sanitize"):
        arrays = model.sanitize(arrays)
    model.update(tree_unflatten(list(arrays.items())))
    if checkpoint.rope_factors() is not None:
        for _, module in model.named_modules():
            if "_freqs" in module:
                size = checkpoint.config["head_dim"]
                base = checkpoint.config["rope_theta"] ** (np.arange(0, size, 2) / size)
                module._freqs = mx.array((base * held["rope_freqs.weight"]).astype(np.float32))
    return np.array(model(mx.array([TOKENS]))[0])


def parameters(checkpoint, held):
    c = checkpoint.config
    for name, t in checkpoint.tensors.items():
        w = held[t.stored_name]
        if checkpoint.architecture in ("llama", "granite", "smollm3") and name.split(".")[-2] in ("q_proj", "k_proj"):
            w = w[file_rows(len(w), c["num_attention_heads" if "q_proj" in name else "num_key_value_heads"])]
        if checkpoint.architecture.startswith("gemma") and "norm" in name:
            w = w - 1
        if "kv_b_proj" in name and "_k_b" in t.stored_name:
            values = held[t.stored_name.replace("_k_b", "_v_b")]
            w = np.concatenate([w.transpose(0, 2, 1), values], axis=1).reshape(-1, c["kv_lora_rank"])
        yield name, mx.array(np.ascontiguousarray(w.reshape(t.shape), np.float32))


def relative(ours, theirs, worst=0.0):
    """Relative L2 over the positions but the worst part of them."""
    each = np.linalg.norm(ours - theirs, axis=-1) / np.linalg.norm(theirs, axis=-1)
    kept = np.sort(each)[:round(len(each) * (1 - worst))]
    return float(np.sqrt((kept ** 2).mean()))


def has_experts(variant):
    return "expert_count" in random_gguf.VARIANTS[variant]().fields


@pytest.mark.parametrize("variant", FIRST + [pytest.param(v, marks=SLOW) for v in ALL if v not in FIRST])
def test_f32_logits_are_llama_cpps(tmp_path, variant):
    path = tmp_path / "m.gguf"
    random_gguf.write(path, variant)
    ours = np.array(load_model(open_checkpoint(path))(mx.array([TOKENS]))[0])
    theirs = logits_of_llama_cpp(path)
    limit = LOOSE.get(variant.split()[0], 1e-5)
    assert relative(ours, theirs) <= limit
    assert (ours.argmax(-1) == theirs.argmax(-1)).all() or limit > 1e-5


@SLOW
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K"])
@pytest.mark.parametrize("variant", [v for v in ALL if v != LARGE])
def test_logits_on_blocks_are_near_llama_cpps(tmp_path, variant, kind):
    path = tmp_path / "m.gguf"
    random_gguf.write(path, variant, kind)
    ours, theirs = logits_of_the_engine(path), logits_of_llama_cpp(path)
    assert relative(ours, theirs, worst=0.1 * has_experts(variant)) <= 3e-2
    assert (ours.argmax(-1) == theirs.argmax(-1)).mean() >= 0.9


# In every run: test_build has all architectures without kernels, test_stored all with kernels of other weights.
EACH = [*((v, "Q8_0") for v in FIRST if v.split()[0] in ("deepseek2", "gemma3", "gpt-oss", "phi3", "qwen3moe")), ("llama", "Q4_0")]


@pytest.mark.parametrize("variant, kind", EACH + [
    pytest.param(v, k, marks=SLOW) for v in ALL for k in ("F32", "Q8_0", "Q6_K", "Q4_0", "Q5_1") if v != LARGE and (v, k) not in EACH])
def test_engine_logits_are_mlx_lms_on_decoded_weights(tmp_path, variant, kind):
    path = tmp_path / "m.gguf"
    held = random_gguf.write(path, variant, kind)
    assert relative(logits_of_the_engine(path), logits_of_mlx_lm(path, held)) <= 1e-4


# Types that llama.cpp runs matrices of; the others (Q8_K) are for activations.
@SLOW
@pytest.mark.parametrize("kind", [k for k in REGISTRY if k not in ("Q8_K",)])
@pytest.mark.parametrize("variant", ["llama", "qwen3moe"])
def test_every_type_against_both(tmp_path, variant, kind):
    path = tmp_path / "m.gguf"
    held = random_gguf.write(path, variant, kind, embedding="Q8_0")
    ours = logits_of_the_engine(path)
    assert relative(ours, logits_of_mlx_lm(path, held)) <= 1e-4
    assert relative(ours, logits_of_llama_cpp(path), worst=0.1 * has_experts(variant)) <= 3e-2


def test_experts_in_mxfp4_stay_mxfp4_in_mlx(tmp_path, monkeypatch):
    """Where MLX computes the layers, as on Metal."""
    monkeypatch.setattr(build, "on_kernels", lambda *_: False)
    held = random_gguf.write(tmp_path / "m.gguf", "gpt-oss", "MXFP4", embedding="Q8_0")
    layer = load_model(open_checkpoint(tmp_path / "m.gguf")).model.layers[0].mlp.experts
    assert layer.gate_proj.mode == "mxfp4" and layer.gate_proj.weight.dtype == mx.uint32
    for name in ("gate", "up", "down"):
        module = layer[f"{name}_proj"]
        decoded = mx.dequantize(module.weight, module.scales, group_size=32, bits=4, mode="mxfp4", dtype=mx.float32)
        assert np.array_equal(np.array(decoded), held[f"blk.0.ffn_{name}_exps.weight"])
        assert np.array_equal(np.array(module.bias), held[f"blk.0.ffn_{name}_exps.bias"])


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_0", "MXFP4"])
def test_mlxs_experts_are_those_of_the_file(tmp_path, monkeypatch, kind):
    held = random_gguf.write(tmp_path / "m.gguf", "qwen3moe", kind, embedding="Q8_0")
    monkeypatch.setattr(build, "on_kernels", lambda *_: False)
    ours = np.array(load_model(open_checkpoint(tmp_path / "m.gguf"), "float32")(mx.array([TOKENS]))[0])
    assert relative(ours, logits_of_mlx_lm(tmp_path / "m.gguf", held)) <= 1e-4


@pytest.mark.skipif(not build.on_kernels(), reason="kernels are not compiled here")
@pytest.mark.parametrize("kind", ["Q8_0", "Q6_K", "F16"])
@pytest.mark.parametrize("tokens", [1, 5, 40])
def test_experts_on_their_blocks(kind, tokens):
    """Against MLX's own layer on decoded weights; 40 tokens are sorted by expert, and some experts get none."""
    rng = np.random.default_rng(tokens)
    glu = lm_module("switch_layers").SwitchGLU(256, 512, 6, bias=True)
    ours = lm_module("switch_layers").SwitchGLU(256, 512, 6, bias=True)
    number = gguf.GGMLQuantizationType[kind]
    for name in ("gate_proj", "up_proj", "down_proj"):
        shape = glu[name].weight.shape
        blocks = quantize(rng.standard_normal(shape).astype(np.float32) * 0.06, kind)
        glu[name].weight = mx.array(gguf.dequantize(blocks, number).reshape(shape).astype(np.float32))
        glu[name].bias = mx.array(rng.standard_normal(shape[:2]).astype(np.float32))
        weights = mx.array(blocks.view(np.float16 if kind == "F16" else np.uint8).reshape(shape[0] * shape[1], -1))
        ours[name] = StoredExperts(StoredMatrix(kind, weights, shape[2]), shape, glu[name].bias)
    x = mx.array(rng.standard_normal((1, tokens, 256)).astype(np.float32))
    chosen = mx.array(np.stack([rng.permutation(5)[:2] for _ in range(tokens)])[None])    # never the last expert
    assert relative(np.array(ours(x, chosen))[0], np.array(glu(x, chosen))[0]) <= 1e-5


def test_a_mixture_takes_its_files_memory(tmp_path):
    random_gguf.write(tmp_path / "m.gguf", "qwen3moe", "Q6_K")
    model = load_model(open_checkpoint(tmp_path / "m.gguf"))
    layer = model.model.layers[0].mlp.switch_mlp.down_proj
    stored = sum(a.nbytes for a in layer.parameters()["stored"])
    assert stored == random_gguf.EXPERTS * 256 * 210            # blocks of 256 weights in 210 bytes; rows of one block


def test_generating_with_experts_on_their_blocks(tmp_path):
    """Step by step, as whole prompts do."""
    random_gguf.write(tmp_path / "m.gguf", "qwen3moe", "Q5_0")
    model = load_model(open_checkpoint(tmp_path / "m.gguf"))
    with LLM(str(tmp_path / "m.gguf"), kv="f32", context=128) as llm:
        output = llm.generate([TOKENS[:20]], SamplingParams(max_tokens=8, temperature=0, ignore_eos=True))[0]
    tokens = TOKENS[:20]
    for token in output.token_ids:
        assert int(mx.argmax(model(mx.array([tokens]))[0, -1])) == token
        tokens = [*tokens, token]


def test_a_variant_of_every_architecture():
    assert {v.split()[0] for v in ALL} == set(ARCHITECTURES)


@pytest.mark.parametrize("part", [1, 2, 3])
def test_a_split_model_is_the_whole_one(tmp_path, part):
    whole = random_gguf.write(tmp_path / "w.gguf", "llama", "Q8_0")
    random_gguf.write(tmp_path / "m-00001-of-00003.gguf", "llama", "Q8_0", parts=3)
    split, one = open_checkpoint(tmp_path / f"m-0000{part}-of-00003.gguf"), open_checkpoint(tmp_path / "w.gguf")
    assert split.config == one.config and set(split.names()) == set(one.names()) and split.nbytes == one.nbytes
    assert len({t.file for t in split.tensors.values()}) == 3 and whole
    for name in one.names():
        assert np.array_equal(split.blocks(name), one.blocks(name))
    text = "the thing in there"
    assert load_tokenizer(tmp_path / f"m-0000{part}-of-00003.gguf").encode(text) == load_tokenizer(
        tmp_path / "w.gguf").encode(text)


def test_split_models_that_are_not_whole(tmp_path):
    random_gguf.write(tmp_path / "m-00001-of-00003.gguf", "llama", "Q8_0", parts=3)
    third = tmp_path / "m-00003-of-00003.gguf"
    content = third.read_bytes()
    third.unlink()
    with pytest.raises(WeightsError, match="m-00003-of-00003.gguf is missing: the model is split into 3 files"):
        open_checkpoint(tmp_path / "m-00001-of-00003.gguf")
    third.write_bytes((tmp_path / "m-00002-of-00003.gguf").read_bytes())
    with pytest.raises(WeightsError, match="m-00003-of-00003.gguf is part 1 of 3 by its metadata, not 2 of 3"):
        open_checkpoint(tmp_path / "m-00001-of-00003.gguf")
    third.write_bytes(content[:len(content) // 2])
    with pytest.raises(WeightsError, match="m-00003-of-00003.gguf.*truncated"):
        open_checkpoint(tmp_path / "m-00001-of-00003.gguf")
    os.rename(tmp_path / "m-00001-of-00003.gguf", tmp_path / "other.gguf")
    with pytest.raises(WeightsError, match="one of 3 files; its name must end in -00001-of-00003.gguf"):
        open_checkpoint(tmp_path / "other.gguf")


@pytest.mark.parametrize("variant, fields, match", [
    ("qwen3moe", {"qwen3moe.rope.scaling.type": "yarn", "qwen3moe.rope.scaling.factor": 4.0,
                  "qwen3moe.rope.scaling.original_context_length": 64}, r"rope scaling 'yarn' \(known for it: none\)"),
    ("deepseek2", {"deepseek2.expert_weights_norm": True}, "normalised expert weights"),
    ("phi3 longrope", {"phi3.rope.scaling.attn_factor": 1.0}, "attn_factor 1 "),
    ("olmo2", {"olmo2.attention.sliding_window": 64}, "sliding_window 64"),
])
def test_variants_that_the_classes_do_not_compute(tmp_path, variant, fields, match):
    random_gguf.write(tmp_path / "m.gguf", variant, "Q8_0", fields=fields)
    with pytest.raises(UnsupportedModel, match=match):
        open_checkpoint(tmp_path / "m.gguf")


def test_the_command_writes_a_model(tmp_path):
    tool = Path(__file__).resolve().parents[2] / "tools" / "random_gguf"
    out = tmp_path / "m.gguf"
    subprocess.run([sys.executable, tool, "qwen2", out, "--type", "Q4_0"], check=True, capture_output=True)
    checkpoint = open_checkpoint(out)
    assert checkpoint.architecture == "qwen2" and checkpoint.tensor("model.embed_tokens.weight").type == "Q4_0"
    wrong = subprocess.run([sys.executable, tool, "rwkv", out], capture_output=True, text=True)
    assert wrong.returncode == 2 and "qwen3moe" in wrong.stderr
