"""From a GGUF file's metadata to a Hugging Face style config, as mlx-lm's classes read it."""

import math

from .gguf_rope import rope_scaling
from ..errors import UnsupportedModel, WeightsError


class Metadata:
    """Typed access to one architecture's keys. `arch` is its entry in gguf_models."""

    def __init__(self, header, name, arch):
        self.header, self.name, self.arch = header, name, arch

    @property
    def file(self):
        return self.header.mapped.path.name

    def has(self, suffix):
        return f"{self.name}.{suffix}" in self.header.metadata

    def count(self, suffix, default=None):
        """A positive integer below 2^31. Raises WeightsError when it is not one, or absent without a default."""
        value = self.header.get(f"{self.name}.{suffix}", int, default)
        if value is None:
            raise WeightsError(f"{self.file} lacks the metadata key {self.name}.{suffix}")
        if not 0 < value < 2**31:
            raise WeightsError(f"{self.file}: {self.name}.{suffix} cannot be {value}")
        return value

    def number(self, suffix, default=None):
        """A positive finite float, or the default when absent."""
        value = self.header.get(f"{self.name}.{suffix}", float, default)
        if value is not None and not 0 < value < math.inf:
            raise WeightsError(f"{self.file}: {self.name}.{suffix} cannot be {value}")
        return value

    def required(self, suffix):
        value = self.number(suffix)
        if value is None:
            raise WeightsError(f"{self.file} lacks the metadata key {self.name}.{suffix}")
        return value

    def text(self, suffix):
        return self.header.get(f"{self.name}.{suffix}", str)

    def refuse(self, what):
        raise UnsupportedModel(f"{self.file}: GGUF architecture {self.name!r} with {what} is not supported")


def make_config(header, name, arch, layers):
    """The config of a file. layers: the numbers of the layers that have tensors.

    Raises WeightsError for metadata that cannot be, UnsupportedModel for what the class does not compute.
    """
    meta, tensors = Metadata(header, name, arch), header.tensors
    heads, width = meta.count("attention.head_count"), meta.count("embedding_length")
    if not meta.has("attention.key_length") and width % heads:
        raise WeightsError(f"{meta.file}: {name}.embedding_length {width} is no multiple of {heads} heads")
    head_dim = meta.count("attention.key_length", max(1, width // heads))
    config = {
        "model_type": arch.model_type,
        "hidden_size": width,
        "num_hidden_layers": _layers(meta, layers),
        "intermediate_size": meta.count("feed_forward_length", meta.header.get(
            f"{name}.expert_feed_forward_length", int)),
        "num_attention_heads": heads,
        "num_key_value_heads": meta.count("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "rms_norm_eps": meta.required(arch.epsilon),
        "vocab_size": _vocabulary(header),
        "max_position_embeddings": meta.count("context_length"),
        "rope_theta": meta.number("rope.freq_base", 10000.0),
        "tie_word_embeddings": "output.weight" not in tensors,
        **_token_ids(header),
    }
    if heads % config["num_key_value_heads"]:
        raise WeightsError(f"{meta.file}: {heads} query heads cannot share {config['num_key_value_heads']} "
                           "key-value heads")
    if arch.explicit_biases:
        config["attention_bias"] = "blk.0.attn_q.bias" in tensors
        config["mlp_bias"] = "blk.0.ffn_up.bias" in tensors
    config["rope_scaling"] = rope_scaling(meta, config)
    config.update(arch.more(meta, config))
    _check_heads(meta, config)
    return config


def _check_heads(meta, config):
    if meta.arch.model_type == "deepseek_v2":
        return               # its heads have parts of their own sizes
    head_dim, arch = config["head_dim"], meta.arch
    turned = meta.count("rope.dimension_count", head_dim)
    if meta.count("attention.value_length", head_dim) != head_dim or \
            turned != head_dim and not (arch.partial_rope and turned < head_dim):
        meta.refuse("different sizes of key, value and rope")
    if head_dim % 2 or turned % 2:
        raise WeightsError(f"{meta.file}: the head size {head_dim if head_dim % 2 else turned} is odd")
    if not arch.own_head_dim and head_dim * config["num_attention_heads"] != config["hidden_size"]:
        meta.refuse(f"heads of {head_dim}, which is not embedding_length / head_count,")


def _layers(meta, layers):
    """The number of layers, which must agree with the tensors: a wrong one would build a model of any size."""
    declared = meta.count("block_count")
    if len(layers) != declared or max(layers) != declared - 1:
        raise WeightsError(f"{meta.file}: {meta.name}.block_count is {declared}, "
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


# -- what single architectures have besides: each takes (Metadata, the config so far) and returns more of it ----------

def nothing(meta, config):
    return {}


def _experts(meta):
    """(experts, experts used for a token)"""
    experts, used = meta.count("expert_count"), meta.count("expert_used_count")
    if used > experts:
        raise WeightsError(f"{meta.file}: {used} of {experts} experts cannot be used")
    return experts, used


def mixtral(meta, config):
    experts, used = _experts(meta)
    return {"num_local_experts": experts, "num_experts_per_tok": used}


def qwen2moe(meta, config):
    experts, used = _experts(meta)
    return {"num_experts": experts, "num_experts_per_tok": used,
            "moe_intermediate_size": meta.count("expert_feed_forward_length", config["intermediate_size"] // used or 1),
            "shared_expert_intermediate_size": meta.count("expert_shared_feed_forward_length",
                                                          config["intermediate_size"])}


def qwen3moe(meta, config):
    experts, used = _experts(meta)
    return {"num_experts": experts, "num_experts_per_tok": used, "norm_topk_prob": True, "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "moe_intermediate_size": meta.count("expert_feed_forward_length", config["intermediate_size"] // used or 1)}


def _gemma_scalar(meta, config, largest):
    """What Gemma divides scores by the root of: the head size, but for the largest model of a family (by its layers)."""
    if config["num_hidden_layers"] == largest:
        return config["hidden_size"] / config["num_attention_heads"]
    return float(config["head_dim"])


def gemma2(meta, config):
    return {"query_pre_attn_scalar": _gemma_scalar(meta, config, 46),
            "attn_logit_softcapping": meta.number("attn_logit_softcapping", 50.0),
            "final_logit_softcapping": meta.number("final_logit_softcapping", 30.0)}


def gemma3(meta, config):
    pattern = meta.count("attention.sliding_window_pattern", 6)
    if config["num_hidden_layers"] < pattern:
        meta.refuse(f"fewer than {pattern} layers")
    if meta.has("final_logit_softcapping") or meta.has("attn_logit_softcapping"):
        meta.refuse("logit softcapping")
    return {"query_pre_attn_scalar": _gemma_scalar(meta, config, 62), "sliding_window_pattern": pattern,
            "sliding_window": meta.count("attention.sliding_window"),
            "rope_local_base_freq": meta.number("rope.freq_base_swa", 10000.0)}


def phi3(meta, config):
    turned = meta.count("rope.dimension_count", config["head_dim"])
    return {"partial_rotary_factor": turned / config["head_dim"],
            "original_max_position_embeddings": meta.count("rope.scaling.original_context_length",
                                                           config["max_position_embeddings"])}


def granite(meta, config):
    return {"attention_multiplier": meta.number("attention.scale", config["head_dim"] ** -0.5),
            "embedding_multiplier": meta.number("embedding_scale", 1.0),
            "residual_multiplier": meta.number("residual_scale", 1.0),
            "logits_scaling": meta.required("logit_scale")}


def starcoder2(meta, config):
    return {"norm_epsilon": config["rms_norm_eps"]}


def gpt_oss(meta, config):
    experts, used = _experts(meta)
    kinds = ["sliding_attention", "full_attention"]
    return {"num_local_experts": experts, "num_experts_per_tok": used,
            "intermediate_size": meta.count("expert_feed_forward_length", config["intermediate_size"]),
            "sliding_window": meta.count("attention.sliding_window"),
            "layer_types": [kinds[i % 2] for i in range(config["num_hidden_layers"])]}


_SOFTMAX = 1  # llama.cpp's number of the function that turns a router's scores into weights


def deepseek2(meta, config):
    """Files have the latent projection whole (attn_kv_b), or in two parts, with the sizes under other names."""
    parts = meta.has("attention.key_length_mla")
    key = meta.count("attention.key_length_mla" if parts else "attention.key_length")
    value = meta.count("attention.value_length_mla" if parts else "attention.value_length")
    turned = meta.count("rope.dimension_count")
    if not turned < key or turned % 2:
        raise WeightsError(f"{meta.file}: rope cannot turn {turned} of {key} channels of a key")
    if meta.header.get(f"{meta.name}.expert_gating_func", int, _SOFTMAX) != _SOFTMAX:
        meta.refuse("experts chosen by other scores than softmax (DeepSeek V3)")
    if meta.header.get(f"{meta.name}.expert_weights_norm", bool, False):
        meta.refuse("normalised expert weights")
    more = {"qk_rope_head_dim": turned, "qk_nope_head_dim": key - turned, "v_head_dim": value,
            "kv_lora_rank": meta.count("attention.kv_lora_rank"), "num_key_value_heads": config["num_attention_heads"],
            "q_lora_rank": meta.count("attention.q_lora_rank") if meta.has("attention.q_lora_rank") else None,
            "rope_scaling": config["rope_scaling"] or {"type": "yarn", "factor": 1.0}}
    if not meta.header.get(f"{meta.name}.expert_count", int, 0):
        return more
    experts, used = _experts(meta)
    groups = meta.count("expert_group_count", 1)
    if experts % groups:
        raise WeightsError(f"{meta.file}: {experts} experts cannot be in {groups} groups")
    return {**more, "n_routed_experts": experts, "num_experts_per_tok": used, "moe_layer_freq": 1,
            "moe_intermediate_size": meta.count("expert_feed_forward_length"),
            "n_shared_experts": meta.count("expert_shared_count") if meta.header.get(
                f"{meta.name}.expert_shared_count", int, 0) else None,
            "routed_scaling_factor": meta.number("expert_weights_scale", 1.0), "n_group": groups,
            "topk_group": meta.count("expert_group_used_count", groups),
            "topk_method": "group_limited_greedy" if groups > 1 else "greedy",
            "first_k_dense_replace": meta.header.get(f"{meta.name}.leading_dense_block_count", int, 0)}
