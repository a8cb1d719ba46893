"""Tiny configurations of recurrent architectures: state space, linear attention, convolutions, with and without
attention layers between."""

from ._common import LINEAR, MLA, VOCAB, WINDOW, kinds, llama_like

_MAMBA2 = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_n_groups": 2,
           "mamba_conv_bias": True, "mamba_proj_bias": False}
_BAILING = {"moe_intermediate_size": 40, "num_experts": 4, "num_experts_per_tok": 2, "num_shared_experts": 1,
            "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "layer_group_size": 2, "group_norm_size": 2,
            "routed_scaling_factor": 1.3, "norm_topk_prob": True, "score_function": "sigmoid",
            "moe_router_enable_expert_bias": True, "use_qk_norm": True, "num_hidden_layers": 4}
_KDA = {"num_heads": 4, "head_dim": 16, "short_conv_kernel_size": 4, "kda_layers": [1, 3], "full_attn_layers": [2, 4]}
_KIMI_EXPERTS = {"num_experts": 4, "moe_intermediate_size": 40, "num_experts_per_token": 2, "num_shared_experts": 1,
                 "first_k_dense_replace": 1, "routed_scaling_factor": 1.3}
_QWEN_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "decoder_sparse_step": 1, "moe_intermediate_size": 40,
                 "shared_expert_intermediate_size": 40, "norm_topk_prob": True}
QWEN3_5_TEXT = llama_like("qwen3_5_text", num_hidden_layers=4, full_attention_interval=2, head_dim=32,
                          rope_parameters={"type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.5},
                          **LINEAR)
QWEN3_5_MOE_TEXT = {**QWEN3_5_TEXT, **_QWEN_EXPERTS}
LFM2 = llama_like("lfm2", num_hidden_layers=4, norm_eps=1e-5, conv_bias=True, conv_L_cache=3, block_dim=64,
                  block_ff_dim=96, block_multiple_of=16, block_ffn_dim_multiplier=1.0, block_auto_adjust_ff_dim=False,
                  layer_types=kinds(4, "c", "f"))

CONFIGS = {
    "baichuan_m1": llama_like("baichuan_m1", num_hidden_layers=3, sliding_window=WINDOW, sliding_window_layers=[1],
                              conv_window=2, num_swa_attention_heads=4, num_swa_key_value_heads=4),
    "bailing_hybrid": llama_like("bailing_hybrid", **MLA, **_BAILING),
    "bailing_moe_linear": llama_like("bailing_moe_linear", partial_rotary_factor=0.5, **_BAILING),
    "bailing_moe_v3": llama_like(
        "bailing_hybrid", architectures=["BailingMoeV3ForCausalLM"], moe_shared_expert_intermediate_size=40,
        short_conv_kernel_size=4, kda_lower_bound=-5.0, **MLA, **_BAILING),
    "falcon_h1": llama_like("falcon_h1", mamba_d_ssm=64, key_multiplier=0.8, lm_head_multiplier=0.7,
                            embedding_multiplier=2.0, **_MAMBA2),
    "granitemoehybrid": llama_like(
        "granitemoehybrid", num_hidden_layers=4, embedding_multiplier=3.0, attention_multiplier=0.2,
        logits_scaling=2.0, residual_multiplier=0.7, layer_types=["mamba", "attention", "mamba", "attention"],
        num_local_experts=4, num_experts_per_tok=2, shared_intermediate_size=40, **_MAMBA2),
    "jamba": llama_like("jamba", num_hidden_layers=4, attn_layer_offset=1, attn_layer_period=2, expert_layer_offset=1,
                        expert_layer_period=2, mamba_d_conv=4, mamba_d_state=8, mamba_expand=2, num_experts=4,
                        num_experts_per_tok=2),
    "kimi_k3": {"model_type": "kimi_k3", "text_config": llama_like(
        "kimi_linear", num_hidden_layers=4, hidden_act="situ", activation_situ_beta=2.0,
        activation_situ_linear_beta=3.0, attn_res_block_size=2, mla_use_output_gate=True,
        linear_attn_config={**_KDA, "use_full_rank_gate": True, "gate_lower_bound": -5.0},
        routed_expert_hidden_size=48, latent_moe_use_norm=True, **MLA, **_KIMI_EXPERTS)},
    "kimi_linear": llama_like("kimi_linear", num_hidden_layers=4, linear_attn_config=_KDA, model_max_length=512,
                              **MLA, **_KIMI_EXPERTS),
    "lfm2": LFM2,
    "lfm2_moe": llama_like("lfm2_moe", num_hidden_layers=4, moe_intermediate_size=40, num_experts=4,
                           num_experts_per_tok=2, norm_topk_prob=True, use_expert_bias=True, num_dense_layers=1,
                           norm_eps=1e-5, conv_bias=False, conv_L_cache=3, layer_types=kinds(4, "c", "f")),
    "mamba": {"model_type": "mamba", "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "state_size": 8,
              "num_hidden_layers": 2, "conv_kernel": 4, "use_bias": True, "use_conv_bias": True, "time_step_rank": 4},
    "mamba2": {"model_type": "mamba2", "num_heads": 4, "head_dim": 16, "vocab_size": VOCAB, "hidden_size": 64,
               "intermediate_size": 64, "state_size": 16, "num_hidden_layers": 2, "layer_norm_epsilon": 1e-5,
               "conv_kernel": 4, "n_groups": 2, "use_bias": True, "use_conv_bias": True,
               "tie_word_embeddings": False, "time_step_limit": [0.001, 50.0], "time_step_rank": "auto"},
    "nemotron_h": llama_like(
        "nemotron_h", mamba_num_heads=4, mamba_head_dim=16, mamba_proj_bias=False, ssm_state_size=16, conv_kernel=4,
        n_groups=2, layer_norm_epsilon=1e-5, use_bias=False, use_conv_bias=True,
        hybrid_override_pattern=["M", "*", "-", "M", "E", "*"], moe_intermediate_size=40,
        moe_shared_expert_intermediate_size=40, n_group=1, topk_group=1, n_routed_experts=4, n_shared_experts=1,
        num_experts_per_tok=2, norm_topk_prob=True, routed_scaling_factor=1.3),
    "olmo_hybrid": llama_like("olmo_hybrid", num_hidden_layers=4, layer_types=kinds(4, "l", "f"),
                              linear_allow_neg_eigval=True, **LINEAR),
    "plamo2": llama_like("plamo2", num_hidden_layers=4, hidden_size_per_head=16, attention_window_size=512,
                         mamba_d_state=16, mamba_d_conv=4, mamba_num_heads=4, mamba_step=2),
    "qwen3_5": {"model_type": "qwen3_5", "text_config": QWEN3_5_TEXT},
    "qwen3_5_moe": {"model_type": "qwen3_5_moe", "text_config": QWEN3_5_MOE_TEXT},
    "qwen3_next": llama_like("qwen3_next", num_hidden_layers=4, full_attention_interval=2, head_dim=32,
                             partial_rotary_factor=0.5, mlp_only_layers=[0], **LINEAR, **_QWEN_EXPERTS),
    "recurrent_gemma": llama_like("recurrent_gemma", num_hidden_layers=3, conv1d_width=4, logits_soft_cap=9.0,
                                  attention_window_size=WINDOW, block_types=["recurrent", "attention", "recurrent"]),
    "rwkv7": {"model_type": "rwkv7", "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "norm_eps": 1e-5,
              "head_dim": 16, "num_hidden_layers": 2, "a_low_rank_dim": 8, "v_low_rank_dim": 8,
              "gate_low_rank_dim": 8, "decay_low_rank_dim": 8},
}
