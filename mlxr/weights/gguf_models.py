"""GGUF architectures: how their metadata becomes a Hugging Face config, and their tensor names parameter names.

A new architecture is one entry in ARCHITECTURES.
"""

import math
import re
from dataclasses import dataclass, field

from ..errors import UnsupportedModel, WeightsError

_LAYER = re.compile(r"blk\.(0|[1-9]\d{0,4})\.(.+)\.(weight|bias)")
_GLOBAL = re.compile(r"([a-z_]+)\.(weight|bias)")
ROPE_FACTORS = "rope_freqs.weight"  # not a parameter: what each rope frequency is divided by

_GLOBAL_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
_QK_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}


@dataclass(frozen=True)
class Architecture:
    """What sets one GGUF architecture apart."""

    model_type: str                 # the module of mlx-lm
    layer_names: dict = field(default_factory=lambda: _LAYER_NAMES)
    # Rows of Q and K are stored with the two halves of each head interleaved; they are put back when blocks are read.
    # The alternative, rope_traditional=True, would give the model a second rope layout, and its KV cache another
    # channel order than the same model has from safetensors. Rows move as whole blocks, so nothing is requantized.
    interleaved_heads: bool = False
    explicit_biases: bool = False   # the config says attention_bias and mlp_bias
    refuses: tuple = ()             # metadata suffixes of variants that are another model in mlx-lm


ARCHITECTURES = {
    "llama": Architecture("llama", interleaved_heads=True, explicit_biases=True, refuses=("expert_count",)),
    "qwen2": Architecture("qwen2", refuses=("expert_count",)),
    "qwen3": Architecture("qwen3", layer_names={**_LAYER_NAMES, **_QK_NORMS}, refuses=("expert_count",)),
}


class _Metadata:
    """Typed access to one architecture's keys."""

    def __init__(self, header, name):
        self.header, self.name = header, name

    def count(self, suffix, default=None):
        """A positive integer below 2^31. Raises WeightsError when it is not one, or absent without a default."""
        value = self.header.get(f"{self.name}.{suffix}", int, default)
        if value is None:
            raise WeightsError(f"{self.header.mapped.path.name} lacks the metadata key {self.name}.{suffix}")
        if not 0 < value < 2**31:
            raise WeightsError(f"{self.header.mapped.path.name}: {self.name}.{suffix} cannot be {value}")
        return value

    def number(self, suffix, default=None):
        """A positive finite float, or the default when absent."""
        value = self.header.get(f"{self.name}.{suffix}", float, default)
        if value is not None and not 0 < value < math.inf:
            raise WeightsError(f"{self.header.mapped.path.name}: {self.name}.{suffix} cannot be {value}")
        return value

    def text(self, suffix):
        return self.header.get(f"{self.name}.{suffix}", str)


def architecture(header):
    """(name, Architecture) of a GGUF file. Raises UnsupportedModel, naming what is supported."""
    name = header.get("general.architecture", str)
    if name is None:
        raise WeightsError(f"{header.mapped.path.name} lacks the metadata key general.architecture")
    if header.get("split.count", int, 1) > 1:
        raise UnsupportedModel(f"{header.mapped.path.name} is one part of {header.metadata['split.count']}; split GGUF "
                               "files are not read: merge them with llama-gguf-split --merge")
    known = ARCHITECTURES.get(name)
    if known is None:
        raise UnsupportedModel(f"GGUF architecture {name[:40]!r} is not supported; "
                               f"supported: {', '.join(ARCHITECTURES)}")
    for suffix in known.refuses:
        if header.get(f"{name}.{suffix}", int, 0):
            raise UnsupportedModel(f"GGUF architecture {name!r} with {suffix} {header.metadata[f'{name}.{suffix}']} "
                                   "is not supported")
    return name, known


def parameter_name(stored, arch):
    """The parameter's Hugging Face name for a GGUF tensor name, or None where the model has no such parameter."""
    if m := _LAYER.fullmatch(stored):
        layer, stem, kind = m.groups()
        return f"model.layers.{int(layer)}.{arch.layer_names[stem]}.{kind}" if stem in arch.layer_names else None
    if m := _GLOBAL.fullmatch(stored):
        return f"{_GLOBAL_NAMES[m[1]]}.{m[2]}" if m[1] in _GLOBAL_NAMES else None
    return None


def head_rows(parameter, config, arch):
    """Heads of a projection whose rows are interleaved in the file, or None where rows are in order."""
    if not arch.interleaved_heads:
        return None
    module = parameter.rpartition(".")[0]
    if module.endswith("self_attn.q_proj"):
        return config["num_attention_heads"]
    return config["num_key_value_heads"] if module.endswith("self_attn.k_proj") else None


def make_config(header):
    """A Hugging Face style config dict from GGUF metadata. Raises WeightsError or UnsupportedModel."""
    name, arch = architecture(header)
    meta, tensors = _Metadata(header, name), header.tensors
    heads, width = meta.count("attention.head_count"), meta.count("embedding_length")
    if f"{name}.attention.key_length" not in header.metadata and width % heads:
        raise WeightsError(f"{header.mapped.path.name}: {name}.embedding_length {width} is no multiple "
                           f"of {heads} heads")
    head_dim = meta.count("attention.key_length", max(1, width // heads))
    if meta.count("attention.value_length", head_dim) != head_dim or \
            meta.count("rope.dimension_count", head_dim) != head_dim:
        raise UnsupportedModel(f"GGUF architecture {name!r} with different sizes of key, value and rope "
                               "is not supported")
    if head_dim % 2:
        raise WeightsError(f"{header.mapped.path.name}: the head size {head_dim} is odd")
    config = {
        "model_type": arch.model_type,
        "hidden_size": width,
        "num_hidden_layers": _layers(header, meta),
        "intermediate_size": meta.count("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": meta.count("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "rms_norm_eps": _required(meta, "attention.layer_norm_rms_epsilon"),
        "vocab_size": _vocabulary(header),
        "max_position_embeddings": meta.count("context_length"),
        "rope_theta": meta.number("rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(header, meta),
        "tie_word_embeddings": "output.weight" not in tensors,
        **_token_ids(header),
    }
    if heads % config["num_key_value_heads"]:
        raise WeightsError(f"{header.mapped.path.name}: {heads} query heads cannot share "
                           f"{config['num_key_value_heads']} key-value heads")
    if arch.explicit_biases:
        config["attention_bias"] = "blk.0.attn_q.bias" in tensors
        config["mlp_bias"] = "blk.0.ffn_up.bias" in tensors
    return config


def _required(meta, suffix):
    value = meta.number(suffix)
    if value is None:
        raise WeightsError(f"{meta.header.mapped.path.name} lacks the metadata key {meta.name}.{suffix}")
    return value


def _layers(header, meta):
    """The number of layers, which must agree with the tensors: a wrong one would build a model of any size."""
    declared = meta.count("block_count")
    layers = {int(m[1]) for m in map(_LAYER.fullmatch, header.tensors) if m}
    if len(layers) != declared or max(layers) != declared - 1:
        raise WeightsError(f"{header.mapped.path.name}: {meta.name}.block_count is {declared}, "
                           f"but there are tensors of {len(layers)} layers")
    return declared


def _vocabulary(header):
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.dims) != 2:
        raise WeightsError(f"{header.mapped.path.name} has no two-dimensional tensor token_embd.weight")
    return embedding.dims[1]


def _token_ids(header):
    def token(kind):
        return header.get(f"tokenizer.ggml.{kind}_token_id", int)

    eos = [token(kind) for kind in ("eos", "eot", "eom")]
    ids = {"eos_token_id": list(dict.fromkeys(i for i in eos if i is not None)),
           "bos_token_id": token("bos"), "pad_token_id": token("padding")}
    return {key: value for key, value in ids.items() if value not in (None, [])}


def _rope_scaling(header, meta):
    """The rope_scaling dict, or None. Raises UnsupportedModel for a kind that mlx-lm's rope does not know."""
    if ROPE_FACTORS in header.tensors:
        return _llama3(header, meta)
    kind = meta.text("rope.scaling.type")
    factor = meta.number("rope.scaling.factor", meta.number("rope.scale_linear"))
    if kind == "none" or factor is None or (kind in (None, "linear") and factor == 1.0):
        return None
    if kind in (None, "linear"):
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        raise UnsupportedModel(f"rope scaling {kind[:40]!r} is not supported in GGUF; linear, yarn and llama3 are")
    for suffix in ("yarn_ext_factor", "yarn_attn_factor", "attn_factor"):
        if header.get(f"{meta.name}.rope.scaling.{suffix}", float, 1.0) not in (1.0, -1.0):
            raise UnsupportedModel(f"yarn rope scaling with {suffix} other than 1 is not supported")
    return {"rope_type": "yarn", "factor": factor,
            "original_max_position_embeddings": meta.count("rope.scaling.original_context_length"),
            "beta_fast": meta.number("rope.scaling.yarn_beta_fast", 32.0),
            "beta_slow": meta.number("rope.scaling.yarn_beta_slow", 1.0)}


def _llama3(header, meta):
    """Llama 3's scaling. The file holds the finished factors, which the loader installs; these values name their kind.

    1, 4 and 8192 are what every published model of this kind was made with; the factor is the largest divisor.
    """
    t = header.tensors[ROPE_FACTORS]
    if t.type != "F32" or len(t.dims) != 1:
        raise WeightsError(f"{header.mapped.path.name}: {ROPE_FACTORS} must be a one-dimensional F32 tensor")
    factors = header.mapped.bytes(t.offset, t.nbytes).view("<f4")
    largest = float(factors.max())
    if not (factors > 0).all() or largest == math.inf:
        raise WeightsError(f"{header.mapped.path.name}: {ROPE_FACTORS} must hold positive numbers")
    return {"rope_type": "llama3", "factor": largest, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": meta.count("rope.scaling.original_context_length", 8192)}
