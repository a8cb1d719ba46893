"""GGUF architectures: which parameter of which mlx-lm class each tensor is. A new architecture is one entry here.

Names are those of gguf-py's tables and of mlx-lm's modules; how metadata becomes a config is in gguf_config.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from . import gguf_config as config
from ..errors import UnsupportedModel, WeightsError

LAYER = re.compile(r"blk\.(0|[1-9]\d{0,4})\.([a-z0-9_]+)\.(weight|bias)")
_GLOBAL = re.compile(r"([a-z_]+)\.(weight|bias)")


class How(Enum):
    """What is done to a tensor on its way to the model; most are taken as they are."""

    # Rows are stored with the two halves of each head interleaved; they are put back when blocks are read. The
    # alternative, rope_traditional=True, would give the model a second rope layout, and its KV cache another channel
    # order than the same model has from safetensors. Rows move as whole blocks, so nothing is requantized.
    HEADS = "query heads interleaved"
    KV_HEADS = "key heads interleaved"
    PLUS_ONE = "stored with 1 added"       # Gemma's norms: the class adds it again
    ROW = "a vector for a matrix of one row"
    BARE = "a parameter with no .weight behind its name"
    K_PART = "the key part of kv_b, [heads, rank, nope]"
    V_PART = "the value part of kv_b, [heads, v, rank]"


class Target(NamedTuple):
    """Where a tensor goes: the module's path (inside its layer, for a layer's tensors), and what is done to it."""

    module: str
    how: How | None = None

    def parameter(self, kind):
        """The parameter's path. kind: "weight" or "bias"."""
        return self.module if self.how is How.BARE else f"{self.module}.{kind}"


class Ties(Enum):
    """What becomes of a model without an output matrix."""

    CONFIG = "the config says tie_word_embeddings"
    SANITIZE = "the class finds out in sanitize()"
    COPY = "the class always has an output matrix: the embedding is read twice"


def _targets(**names):
    return {stem: to if isinstance(to, Target) else Target(to) for stem, to in names.items()}


_GLOBALS = _targets(token_embd="model.embed_tokens", output_norm="model.norm", output="lm_head")
_GLOBALS_PLUS_ONE = {**_GLOBALS, "output_norm": Target("model.norm", How.PLUS_ONE)}
_ATTENTION = _targets(attn_q="self_attn.q_proj", attn_k="self_attn.k_proj", attn_v="self_attn.v_proj",
                      attn_output="self_attn.o_proj")
_INTERLEAVED = {**_ATTENTION, "attn_q": Target("self_attn.q_proj", How.HEADS),
                "attn_k": Target("self_attn.k_proj", How.KV_HEADS)}
_NORMS = _targets(attn_norm="input_layernorm", ffn_norm="post_attention_layernorm")
_QK_NORMS = _targets(attn_q_norm="self_attn.q_norm", attn_k_norm="self_attn.k_norm")
_MLP = _targets(ffn_gate="mlp.gate_proj", ffn_up="mlp.up_proj", ffn_down="mlp.down_proj")
_AFTER_NORMS = _targets(post_attention_norm="post_attention_layernorm", post_ffw_norm="post_feedforward_layernorm")
_GEMMA_NORMS = {stem: Target(module, How.PLUS_ONE) for stem, module in {
    "attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm", "post_ffw_norm": "post_feedforward_layernorm",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}.items()}


def _experts(block, switch="switch_mlp", gate="gate"):
    """The router and the stacked experts [experts, out, in] of a block."""
    return _targets(ffn_gate_inp=f"{block}.{gate}", ffn_gate_exps=f"{block}.{switch}.gate_proj",
                    ffn_up_exps=f"{block}.{switch}.up_proj", ffn_down_exps=f"{block}.{switch}.down_proj")


def _shared(module):
    return _targets(ffn_gate_shexp=f"mlp.{module}.gate_proj", ffn_up_shexp=f"mlp.{module}.up_proj",
                    ffn_down_shexp=f"mlp.{module}.down_proj")


_DENSE = {**_NORMS, **_ATTENTION, **_MLP}
_DENSE_INTERLEAVED = {**_NORMS, **_INTERLEAVED, **_MLP}
_LATENT = _targets(
    attn_q="self_attn.q_proj", attn_q_a="self_attn.q_a_proj", attn_q_a_norm="self_attn.q_a_layernorm",
    attn_q_b="self_attn.q_b_proj", attn_kv_a_mqa="self_attn.kv_a_proj_with_mqa",
    attn_kv_a_norm="self_attn.kv_a_layernorm", attn_kv_b="self_attn.kv_b_proj", attn_output="self_attn.o_proj",
    attn_k_b=Target("self_attn.kv_b_proj", How.K_PART), attn_v_b=Target("self_attn.kv_b_proj", How.V_PART))

LINEAR, YARN, LLAMA3, LONGROPE = "linear", "yarn", "llama3", "longrope"


@dataclass(frozen=True)
class Architecture:
    """What sets one GGUF architecture apart."""

    model_type: str                       # the module of mlx-lm
    layers: dict                          # stem of a layer's tensor -> Target
    globals: dict = field(default_factory=lambda: _GLOBALS)
    ropes: tuple = (LINEAR, YARN)         # the kinds of rope scaling that the class computes
    ties: Ties = Ties.CONFIG
    own_head_dim: bool = True             # False where the class takes hidden_size / heads
    partial_rope: bool = False            # whether rope may turn a part of a head
    explicit_biases: bool = False         # the config says attention_bias and mlp_bias
    epsilon: str = "attention.layer_norm_rms_epsilon"
    more: Callable = config.nothing       # (metadata, config so far) -> more of the config
    refuses: tuple = ("expert_count",)    # metadata of variants that are another model in mlx-lm
    with_experts: "Architecture | None" = None  # what it is when expert_count says that there are some


_ALL_ROPES = (LINEAR, YARN, LLAMA3)
_MIXTRAL = Architecture(
    "mixtral", {**_NORMS, **_INTERLEAVED, **_experts("block_sparse_moe")}, ropes=(), own_head_dim=False,
    more=config.mixtral, refuses=())

ARCHITECTURES = {
    "llama": Architecture("llama", _DENSE_INTERLEAVED, ropes=_ALL_ROPES, explicit_biases=True, with_experts=_MIXTRAL),
    "qwen2": Architecture("qwen2", _DENSE, own_head_dim=False),
    "qwen3": Architecture("qwen3", {**_DENSE, **_QK_NORMS}),
    "qwen2moe": Architecture(
        "qwen2_moe", {**_NORMS, **_ATTENTION, **_experts("mlp"), **_shared("shared_expert"),
                      "ffn_gate_inp_shexp": Target("mlp.shared_expert_gate", How.ROW)},
        ropes=(), ties=Ties.COPY, own_head_dim=False, more=config.qwen2moe, refuses=()),
    "qwen3moe": Architecture("qwen3_moe", {**_NORMS, **_ATTENTION, **_QK_NORMS, **_experts("mlp")}, ropes=(),
                             more=config.qwen3moe, refuses=()),
    "gemma2": Architecture("gemma2", {**_ATTENTION, **_MLP, **_GEMMA_NORMS}, globals=_GLOBALS_PLUS_ONE, ropes=(),
                           more=config.gemma2),
    "gemma3": Architecture("gemma3_text", {**_ATTENTION, **_MLP, **_GEMMA_NORMS}, globals=_GLOBALS_PLUS_ONE,
                           ties=Ties.SANITIZE, more=config.gemma3),
    "phi3": Architecture(
        "phi3", {**_NORMS, **_targets(attn_qkv="self_attn.qkv_proj", attn_output="self_attn.o_proj",
                                      ffn_up="mlp.gate_up_proj", ffn_down="mlp.down_proj")},
        ropes=(LINEAR, LONGROPE), own_head_dim=False, partial_rope=True, more=config.phi3),
    "granite": Architecture("granite", _DENSE_INTERLEAVED, ropes=_ALL_ROPES, own_head_dim=False, explicit_biases=True,
                            more=config.granite),
    "olmo2": Architecture("olmo2", {**_ATTENTION, **_MLP, **_QK_NORMS, **_AFTER_NORMS}, ropes=_ALL_ROPES,
                          explicit_biases=True, refuses=("expert_count", "attention.sliding_window")),
    "starcoder2": Architecture(
        "starcoder2", {**_NORMS, **_ATTENTION, **_targets(ffn_up="mlp.c_fc", ffn_down="mlp.c_proj")}, ropes=(),
        own_head_dim=False, epsilon="attention.layer_norm_epsilon", more=config.starcoder2),
    "smollm3": Architecture("smollm3", _DENSE_INTERLEAVED, ropes=_ALL_ROPES, explicit_biases=True),
    "deepseek2": Architecture(
        "deepseek_v2", {**_NORMS, **_LATENT, **_MLP, **_experts("mlp"), **_shared("shared_experts")}, ropes=(YARN,),
        ties=Ties.COPY, more=config.deepseek2, refuses=()),
    "gpt-oss": Architecture(
        "gpt_oss", {**_NORMS, **_ATTENTION, **_experts("mlp", "experts", "router"),
                    "post_attention_norm": Target("post_attention_layernorm"),
                    "attn_sinks": Target("self_attn.sinks", How.BARE)},
        ties=Ties.COPY, more=config.gpt_oss, refuses=()),
}


def architecture(header):
    """(name, Architecture) of a GGUF file. Raises UnsupportedModel, naming what is supported."""
    name = header.get("general.architecture", str)
    if name is None:
        raise WeightsError(f"{header.mapped.path.name} lacks the metadata key general.architecture")
    known = ARCHITECTURES.get(name)
    if known is None:
        raise UnsupportedModel(f"GGUF architecture {name[:40]!r} is not supported; "
                               f"supported: {', '.join(ARCHITECTURES)}")
    if known.with_experts and header.get(f"{name}.expert_count", int, 0):
        known = known.with_experts
    for suffix in known.refuses:
        if header.get(f"{name}.{suffix}", int, 0):
            raise UnsupportedModel(f"GGUF architecture {name!r} with {suffix} {header.metadata[f'{name}.{suffix}']} "
                                   "is not supported")
    return name, known


def target_of(stored, arch):
    """(the parameter's Hugging Face name, its Target) for a GGUF tensor name; None where the model has no such one."""
    if m := LAYER.fullmatch(stored):
        layer, stem, kind = m.groups()
        to = arch.layers.get(stem)
        return to and (f"model.layers.{int(layer)}.{to.parameter(kind)}", to)
    if m := _GLOBAL.fullmatch(stored):
        to = arch.globals.get(m[1])
        return to and (to.parameter(m[2]), to)
    return None


def make_config(header):
    """A Hugging Face style config dict from GGUF metadata. Raises WeightsError or UnsupportedModel."""
    name, arch = architecture(header)
    layers = {int(m[1]) for m in map(LAYER.fullmatch, header.tensors) if m}
    return config.make_config(header, name, arch, layers)
