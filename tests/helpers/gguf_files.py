"""Small GGUF files with random weights, written by gguf-py, and malformed ones, written byte by byte."""

import struct
from dataclasses import dataclass, field

import gguf
import numpy as np

from mlxr.weights.quants import REGISTRY

from .blocks import random_blocks


@dataclass
class Tiny:
    """The shape of a small model, and what its file says about it."""

    arch: str = "llama"
    layers: int = 2
    hidden: int = 64
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    ff: int = 96
    vocab: int = 128
    quant: str = "Q4_1"          # of the matrices
    embedding: str = "Q8_0"
    tied: bool = True
    attention_bias: bool = False
    rope_factors: np.ndarray | None = None
    fields: dict = field(default_factory=dict)  # more metadata; None removes a key
    seed: int = 0


def tiny_weights(tiny):
    """The model's parameters as a Hugging Face checkpoint has them: name -> float32 array."""
    rng = np.random.default_rng(tiny.seed)
    w = {"model.embed_tokens.weight": (tiny.vocab, tiny.hidden), "model.norm.weight": (tiny.hidden,)}
    if not tiny.tied:
        w["lm_head.weight"] = (tiny.vocab, tiny.hidden)
    q, kv = tiny.heads * tiny.head_dim, tiny.kv_heads * tiny.head_dim
    for i in range(tiny.layers):
        at = f"model.layers.{i}."
        w |= {at + "input_layernorm.weight": (tiny.hidden,), at + "post_attention_layernorm.weight": (tiny.hidden,),
              at + "mlp.gate_proj.weight": (tiny.ff, tiny.hidden), at + "mlp.up_proj.weight": (tiny.ff, tiny.hidden),
              at + "mlp.down_proj.weight": (tiny.hidden, tiny.ff), at + "self_attn.o_proj.weight": (tiny.hidden, q),
              at + "self_attn.q_proj.weight": (q, tiny.hidden), at + "self_attn.k_proj.weight": (kv, tiny.hidden),
              at + "self_attn.v_proj.weight": (kv, tiny.hidden)}
        if tiny.arch == "qwen2" or tiny.attention_bias:
            w |= {at + "self_attn.q_proj.bias": (q,), at + "self_attn.k_proj.bias": (kv,),
                  at + "self_attn.v_proj.bias": (kv,)}
        if tiny.attention_bias:
            w[at + "self_attn.o_proj.bias"] = (tiny.hidden,)
        if tiny.arch == "qwen3":
            w |= {at + "self_attn.q_norm.weight": (tiny.head_dim,), at + "self_attn.k_norm.weight": (tiny.head_dim,)}
    return {name: (rng.standard_normal(shape) * 0.2 + ("norm" in name)).astype(np.float32) for name, shape in w.items()}


_MODULES = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
            "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
            "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate",
            "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def stored_name(name):
    module, _, kind = name.rpartition(".")
    if module in _TOP:
        return f"{_TOP[module]}.{kind}"
    _, _, layer, module = module.split(".", 3)
    return f"blk.{layer}.{_MODULES[module]}.{kind}"


def interleave(w, heads):
    """Rows as llama's conversion to GGUF stores Q and K: (head, half, i) becomes (head, i, half)."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def write_tiny(path, tiny=None):
    """Write the file; returns the weights it holds after their rounding: Hugging Face name -> float32."""
    tiny = tiny or Tiny()
    writer = gguf.GGUFWriter(path, tiny.arch)
    for key, value in tiny_fields(tiny).items():
        if value is not None:
            _add_field(writer, key, value)
    held = {}
    for name, w in tiny_weights(tiny).items():
        kind = "F32" if w.ndim == 1 else tiny.embedding if "embed" in name or "lm_head" in name else tiny.quant
        number = gguf.GGMLQuantizationType[kind]
        heads = {"q_proj": tiny.heads, "k_proj": tiny.kv_heads}.get(name.split(".")[-2])
        swap = tiny.arch == "llama" and heads
        data = gguf.quantize(interleave(w, heads) if swap else w, number)
        writer.add_tensor(stored_name(name), data, raw_dtype=number)
        held[name] = gguf.dequantize(gguf.quantize(w, number), number).reshape(w.shape)
    if tiny.rope_factors is not None:
        writer.add_tensor("rope_freqs.weight", tiny.rope_factors.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


def write_random(path, tiny):
    """Write a file of those shapes quickly, its matrices in random blocks of any type; nothing is returned."""
    writer = gguf.GGUFWriter(path, tiny.arch)
    for key, value in tiny_fields(tiny).items():
        _add_field(writer, key, value)
    shapes = {n: w.shape for n, w in tiny_weights(Tiny(**{**vars(tiny), "layers": 1})).items()}
    for name, shape in shapes.items():
        for layer in range(tiny.layers) if ".layers." in name else (0,):
            kind = "F32" if len(shape) == 1 else tiny.embedding if "embed" in name or "lm_head" in name else tiny.quant
            data = np.ones(shape, np.float32) if kind == "F32" else random_blocks(REGISTRY[kind], *shape, seed=layer)
            writer.add_tensor(stored_name(name.replace(".0.", f".{layer}.")), data, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tiny_fields(tiny):
    a = tiny.arch
    return {f"{a}.block_count": tiny.layers, f"{a}.embedding_length": tiny.hidden, f"{a}.feed_forward_length": tiny.ff,
            f"{a}.attention.head_count": tiny.heads, f"{a}.attention.head_count_kv": tiny.kv_heads,
            f"{a}.attention.key_length": tiny.head_dim, f"{a}.attention.layer_norm_rms_epsilon": 1e-5,
            f"{a}.context_length": 256, f"{a}.rope.freq_base": 10000.0, "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.bos_token_id": 1, **tiny.fields}


def _add_field(writer, key, value):
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def text(s):
    """A GGUF string, as bytes."""
    raw = s if isinstance(s, bytes) else s.encode()
    return struct.pack("<Q", len(raw)) + raw


def entry(name="t", dims=(32,), number=0, offset=0, n_dims=None):
    """One row of a tensor table, as bytes."""
    return (text(name) + struct.pack("<I", len(dims) if n_dims is None else n_dims)
            + b"".join(struct.pack("<Q", d) for d in dims) + struct.pack("<IQ", number, offset))


def raw_gguf(fields=(), tensors=(), data=b"", *, magic=b"GGUF", version=3, n_tensors=None, n_fields=None, alignment=32):
    """A GGUF file's bytes from the bytes of its parts; counts may be wrong on purpose."""
    head = magic + struct.pack("<IQQ", version, len(tensors) if n_tensors is None else n_tensors,
                               len(fields) if n_fields is None else n_fields) + b"".join(fields) + b"".join(tensors)
    return head + bytes(-len(head) % alignment) + data
