"""Tiny configurations of multi-head latent attention, plain and sparse."""

from ._common import MLA, ROUTED, YARN_ROPE, llama_like

_INDEX = {"index_head_dim": 16, "index_n_heads": 2, "index_topk": 10}
_LONGCAT = {
    "attention_method": "MLA", "zero_expert_type": "identity", "ffn_hidden_size": 96, "moe_topk": 2,
    "expert_ffn_hidden_size": 40, "n_routed_experts": 4, "zero_expert_num": 2, "num_layers": 2,
    "routed_scaling_factor": 1.3, "mla_scale_q_lora": True, "mla_scale_kv_lora": True, "router_bias": True}
_DEEPSEEK_V3 = llama_like("deepseek_v3", num_hidden_layers=3, rope_scaling={"mscale_all_dim": 1.0, **YARN_ROPE},
                          **MLA, **ROUTED)

CONFIGS = {
    "deepseek_v2": llama_like("deepseek_v2", num_hidden_layers=3, rope_scaling={
        "factor": 3.0, "original_max_position_embeddings": 24, "type": "yarn", "mscale": 1.0, "mscale_all_dim": 0.7},
        **MLA, **{**ROUTED, "topk_method": "greedy"}),
    "deepseek_v3": _DEEPSEEK_V3,
    "deepseek_v32": llama_like("deepseek_v32", num_hidden_layers=3, **MLA, **ROUTED, **_INDEX),
    # Layers: window only; source of compressed K, V and index; two that share them.
    "deepseek_v41": llama_like(
        "deepseek_v41", num_hidden_layers=4, head_dim=32, q_lora_rank=24, qk_rope_head_dim=8, o_groups=2,
        o_lora_rank=16, moe_intermediate_size=40, n_routed_experts=4, num_experts_per_tok=2, sliding_window=8,
        compress_ratios=[0, 4, 4, 4], kv_source_layer_ids=[1], index_source_layer_ids=[1, 3],
        candidate_source_layer_id=1, candidate_topk_blocks=3, candidate_block_size=2, index_n_heads=2,
        index_head_dim=32, index_topk=4, hc_mult=2, hc_sinkhorn_iters=3, rms_norm_eps=1e-6),
    "glm4_moe_lite": llama_like("glm4_moe_lite", num_hidden_layers=3, **MLA, **ROUTED),
    "glm_moe_dsa": llama_like("glm_moe_dsa", num_hidden_layers=3, rope_parameters={"rope_theta": 5000.0}, **MLA,
                              **ROUTED, **_INDEX),
    "kimi_k25": {"model_type": "kimi_k25", "text_config": _DEEPSEEK_V3},
    "kimi_vl": {"model_type": "kimi_vl", "text_config": {**_DEEPSEEK_V3, "rope_scaling": None}},
    "longcat_flash": llama_like("longcat_flash", without=["num_key_value_heads"], **{**MLA, **_LONGCAT}),
    "longcat_flash_ngram": llama_like("longcat_flash_ngram", ngram_vocab_size_ratio=3, emb_neighbor_num=3,
                                      emb_split_num=2, **{**MLA, **_LONGCAT}),
    "minicpm3": llama_like("minicpm3", dim_model_base=32, scale_depth=1.1, scale_emb=3, rope_scaling={
        "type": "longrope", "long_factor": [1.5] * 4, "short_factor": [1.0] * 4,
        "original_max_position_embeddings": 64}, **MLA),
    "minimax_m3_vl": {"model_type": "minimax_m3_vl", "text_config": llama_like(
        "minimax_m3", num_hidden_layers=3, dense_intermediate_size=96, intermediate_size=40,
        shared_intermediate_size=40, num_local_experts=4, num_experts_per_tok=2,
        mlp_layer_types=["dense", "sparse", "sparse"],
        sparse_attention_config={"sparse_num_index_heads": 2, "sparse_index_dim": 16, "sparse_block_size": 4,
                                 "sparse_topk_blocks": 3, "sparse_local_block": 1,
                                 "sparse_attention_freq": [0, 1, 1]})},
    "mistral4": llama_like("mistral4", num_hidden_layers=3, rope_parameters={
        "rope_theta": 5000.0, "llama_4_scaling_beta": 0.3, **YARN_ROPE}, **{**MLA, "head_dim": 20}, **ROUTED),
    "youtu_llm": llama_like("youtu_llm", **MLA),
}
