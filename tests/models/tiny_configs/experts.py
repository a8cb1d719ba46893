"""Tiny configurations of mixtures of experts with plain (not latent) attention."""

from ._common import LLAMA3_ROPE, ROUTED, VOCAB, WINDOW, YARN_ROPE, kinds, llama_like

# Experts as Qwen's family names them.
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40, "norm_topk_prob": True}
_LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
_BAILING = {**_EXPERTS, "num_shared_experts": 1, "first_k_dense_replace": 1, "use_qk_norm": True, "n_group": 1,
            "topk_group": 1, "score_function": "sigmoid", "moe_router_enable_expert_bias": True}

CONFIGS = {
    "Klear": llama_like("Klear", mlp_only_layers=[0], decoder_sparse_step=1, n_shared_experts=1, **_EXPERTS),
    "afmoe": llama_like("afmoe", num_hidden_layers=4, layer_types=kinds(4, "s", "f"), num_dense_layers=1,
                        num_shared_experts=1, sliding_window=WINDOW, **_EXPERTS),
    "bailing_moe": llama_like("bailing_moe", without=["head_dim"], partial_rotary_factor=0.5, **_BAILING),
    "dbrx": {"model_type": "dbrx", "vocab_size": VOCAB, "d_model": 64, "n_layers": 2, "n_heads": 4,
             "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
             "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 5000.0}},
    "deepseek": llama_like("deepseek", moe_intermediate_size=40, n_routed_experts=4, n_shared_experts=1,
                           num_experts_per_tok=2, first_k_dense_replace=1),
    "dots1": llama_like("dots1", **{**ROUTED, "scoring_func": "noaux_tc"}),
    "ernie4_5_moe": llama_like("ernie4_5_moe", use_bias=False, moe_num_experts=4, moe_layer_start_index=1,
                               moe_intermediate_size=40, moe_k=2, moe_num_shared_experts=1),
    "exaone_moe": llama_like("exaone_moe", num_hidden_layers=4, layer_types=kinds(4, "s", "f"), sliding_window=WINDOW,
                             is_moe_layer=[False, True, True, True], num_shared_experts=1, **_EXPERTS),
    "glm4_moe": llama_like("glm4_moe", rope_scaling=None, use_qk_norm=True, partial_rotary_factor=0.5, **ROUTED),
    "gpt_oss": llama_like("gpt_oss", num_hidden_layers=3, layer_types=kinds(3, "s", "f"), sliding_window=WINDOW,
                          rope_scaling=YARN_ROPE, **_LOCAL),
    "granitemoe": llama_like("granitemoe", logits_scaling=2.0, attention_multiplier=0.2, embedding_multiplier=3.0,
                             residual_multiplier=0.7, **_LOCAL),
    "hunyuan": llama_like("hunyuan", num_hidden_layers=4, moe_topk=2, num_experts=4, num_shared_expert=1,
                          use_mixed_mlp_moe=True, use_qk_norm=True, use_cla=True, cla_share_factor=2,
                          rope_scaling={"type": "dynamic", "factor": 1.0, "alpha": 50.0}),
    "laguna": llama_like("laguna", num_hidden_layers=4, layer_types=kinds(4, "f", "s"), sliding_window=WINDOW,
                         num_attention_heads_per_layer=[4, 6, 4, 6], shared_expert_intermediate_size=40,
                         rope_parameters={"full_attention": {"rope_theta": 9000.0, **YARN_ROPE},
                                          "sliding_attention": {"rope_theta": 500.0}}, **_EXPERTS),
    "llama4": {"model_type": "llama4", "text_config": llama_like(
        "llama4_text", num_hidden_layers=4, attention_chunk_size=WINDOW, interleave_moe_layer_step=2,
        intermediate_size_mlp=80, num_local_experts=4, num_experts_per_tok=1, rope_scaling=LLAMA3_ROPE,
        use_qk_norm=True, floor_scale=6, attn_scale=0.3)},
    "mellum": llama_like("mellum", num_hidden_layers=4, layer_types=kinds(4, "s", "f"), sliding_window=WINDOW,
                         rope_parameters={"full_attention": {"rope_theta": 9000.0, **YARN_ROPE},
                                          "sliding_attention": {"rope_theta": 500.0}}, **_EXPERTS),
    "mimo_v2_flash": llama_like(
        "mimo_v2_flash", num_hidden_layers=4, layernorm_epsilon=1e-5, hybrid_layer_pattern=[0, 1, 1, 0],
        add_swa_attention_sink_bias=True, add_full_attention_sink_bias=False, sliding_window_size=WINDOW,
        swa_rope_theta=500.0, swa_num_attention_heads=4, swa_num_key_value_heads=4, head_dim=32, v_head_dim=16,
        swa_head_dim=32, swa_v_head_dim=16, partial_rotary_factor=0.5, attention_value_scale=0.7,
        **{**ROUTED, "moe_layer_freq": [0, 1, 1, 1], "n_shared_experts": None}),
    "minimax": llama_like("minimax", shared_intermediate_size=0, rotary_dim=8, **_LOCAL),
    "mixtral": llama_like("mixtral", without=["head_dim"], **_LOCAL),
    "olmoe": llama_like("olmoe", without=["head_dim"], num_experts=4, num_experts_per_tok=2),
    "phimoe": llama_like("phimoe", without=["head_dim"], original_max_position_embeddings=64,
                         rope_scaling={"type": "longrope", "long_factor": [1.5] * 8, "short_factor": [1.0] * 8,
                                       "long_mscale": 1.1, "short_mscale": 1.0}, **_LOCAL),
    "phixtral": {"model_type": "phixtral", "num_vocab": VOCAB, "model_dim": 64, "num_heads": 4, "num_layers": 2,
                 "rotary_dim": 8},
    "qwen2_moe": llama_like("qwen2_moe", without=["head_dim"], num_experts=4, num_experts_per_tok=2,
                            moe_intermediate_size=40, shared_expert_intermediate_size=48),
    "qwen3_moe": llama_like("qwen3_moe", decoder_sparse_step=1, mlp_only_layers=[0], **_EXPERTS),
    "solar_open": llama_like("solar_open", partial_rotary_factor=1.0, use_qk_norm=True, **ROUTED),
    "step3p5": llama_like(
        "step3p5", num_hidden_layers=4, num_attention_groups=2, sliding_window=WINDOW, layer_types=kinds(4, "f", "s"),
        attention_other_setting={"num_attention_heads": 6, "num_attention_groups": 2},
        partial_rotary_factors=[0.5, 1.0, 0.5, 1.0], moe_num_experts=4, moe_top_k=2, moe_intermediate_size=40,
        share_expert_dim=40, moe_layers_enum="1,2,3", rope_scaling=LLAMA3_ROPE, yarn_only_types=["full_attention"],
        swiglu_limits=[0.0, 4.0, 4.0, 4.0], swiglu_limits_shared=[0.0, 4.0, 4.0, 4.0]),
}
