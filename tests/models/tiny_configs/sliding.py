"""Tiny configurations of decoders with sliding, chunked, shared or looped attention layers, dense feed-forward."""

from ._common import LLAMA3_ROPE, VOCAB, WINDOW, YARN_ROPE, kinds, llama_like

_GEMMA3 = llama_like("gemma3_text", num_hidden_layers=4, head_dim=32, sliding_window=WINDOW, sliding_window_pattern=2,
                     query_pre_attn_scalar=20.0, rope_local_base_freq=500.0,
                     rope_scaling={"rope_type": "linear", "factor": 2.0})
# Six layers, the last two reuse K and V of layers 2 (sliding) and 3 (full).
_GEMMA4 = llama_like(
    "gemma4_text", num_hidden_layers=6, head_dim=16, global_head_dim=32, num_kv_shared_layers=2,
    sliding_window=WINDOW, layer_types=kinds(6, "s", "s", "s", "f")[:4] + kinds(2, "s", "f"),
    vocab_size_per_layer_input=VOCAB, hidden_size_per_layer_input=8, num_global_key_value_heads=2,
    attention_k_eq_v=True, tie_word_embeddings=True)
_GEMMA3N = llama_like(
    "gemma3n", num_hidden_layers=6, num_kv_shared_layers=2, intermediate_size=96, vocab_size_per_layer_input=VOCAB,
    sliding_window=WINDOW, rope_local_base_freq=500.0, final_logit_softcapping=9.0,
    layer_types=kinds(4, "s", "f") + kinds(2, "s", "f"),
    activation_sparsity_pattern=[0.5, 0.5, 0.0, 0.0, 0.0, 0.0], hidden_size_per_layer_input=8, altup_num_inputs=2,
    altup_coef_clip=100.0, altup_correct_scale=True, altup_active_idx=0, laurel_rank=4)

CONFIGS = {
    "afm7": {"model_type": "afm7", "vocab_size": VOCAB, "hidden_dim": 64, "num_layers": 4, "num_kv_reuse_layers": 2,
             "num_heads": 4, "num_kv_heads": 2, "hidden_dim_scale_factor": 1.5},
    "cohere2": llama_like("cohere2", num_hidden_layers=4, sliding_window=WINDOW, sliding_window_pattern=2,
                          layer_norm_eps=1e-5, logit_scale=0.5),
    "exaone4": llama_like("exaone4", num_hidden_layers=4, sliding_window=WINDOW, sliding_window_pattern="LLG",
                          rope_scaling=LLAMA3_ROPE),
    "gear": llama_like("gear", num_hidden_layers=4, layer_types=kinds(4, "m", "s", "f"), sliding_window=WINDOW,
                       rope_local_base_freq=500.0, final_logit_softcapping=9.0, query_pre_attn_scalar=20.0),
    "gemma3_text": _GEMMA3,
    "gemma3n": {"model_type": "gemma3n", "text_config": _GEMMA3N},
    "gemma4_text": _GEMMA4,
    "iquestloopcoder": llama_like("iquestloopcoder", loop_num=2, loop_window_size=WINDOW),
    "llama": llama_like("llama", num_hidden_layers=3, layer_types=kinds(3, "f", "s"), sliding_window=WINDOW,
                        rope_scaling=LLAMA3_ROPE),
    "ministral3": llama_like(
        "ministral3", num_hidden_layers=3, layer_types=kinds(3, "f", "s"), sliding_window=WINDOW,
        rope_parameters={"rope_theta": 5000.0, "llama_4_scaling_beta": 0.3, **YARN_ROPE}),
    "muse_glimmer": llama_like("muse_glimmer", num_hidden_layers=4, sliding_window=WINDOW,
                               layer_types=kinds(4, "s", "f"), final_logit_softcapping=9.0),
    "olmo3": llama_like("olmo3", num_hidden_layers=4, layer_types=kinds(4, "s", "f"), sliding_window=WINDOW,
                        rope_scaling=YARN_ROPE),
    "plamo3": llama_like("plamo3", num_hidden_layers=4, sliding_window=WINDOW, sliding_window_pattern=2),
    "spark2_5": llama_like(
        "spark2_5", num_hidden_layers=4, layer_types=kinds(4, "s", "f"), sliding_window=WINDOW,
        rope_parameters={"sliding_attention": {"rope_theta": 500.0},
                         "full_attention": {"rope_theta": 9000.0, "partial_rotary_factor": 0.5}}),
}
