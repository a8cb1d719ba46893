"""Sizes that most tiny configurations share."""

VOCAB = 128
WINDOW = 12   # sliding window, in tokens: shorter than every test's prompt
LLAMA3_ROPE = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 32}
YARN_ROPE = {"rope_type": "yarn", "factor": 3.0, "original_max_position_embeddings": 24, "beta_fast": 8, "beta_slow": 1}

_LLAMA_LIKE = {
    "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": VOCAB, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512, "rope_theta": 5000.0, "tie_word_embeddings": False,
    "attention_bias": False, "mlp_bias": False,
}


def llama_like(model_type, without=(), **changes):
    """The usual field names of a decoder, with an architecture's own on top.

    `without` names fields to leave out where a present one would mean something else.
    """
    config = {"model_type": model_type, **_LLAMA_LIKE, **changes}
    return {k: v for k, v in config.items() if k not in without}


# Multi-head latent attention: q 4 heads x (12 + 8), latent 24.
MLA = {"kv_lora_rank": 24, "q_lora_rank": 20, "qk_rope_head_dim": 8, "qk_nope_head_dim": 12, "v_head_dim": 16,
       "num_key_value_heads": 4}
# Experts as DeepSeek's family names them; the first layer is dense.
ROUTED = {"moe_intermediate_size": 40, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2,
          "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.3, "norm_topk_prob": True,
          "moe_layer_freq": 1, "first_k_dense_replace": 1, "scoring_func": "sigmoid", "topk_method": "noaux_tc"}
# The recurrent layers of gated delta nets.
LINEAR = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 32,
          "linear_value_head_dim": 16, "linear_conv_kernel_dim": 4}


def kinds(count, *pattern):
    """A list of `count` layer types, repeating the pattern of s(liding), f(ull), l(inear), c(onv), m(ixer)."""
    names = {"s": "sliding_attention", "f": "full_attention", "l": "linear_attention", "c": "conv", "m": "conv_mixer"}
    return [names[pattern[i % len(pattern)]] for i in range(count)]
