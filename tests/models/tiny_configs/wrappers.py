"""Tiny configurations of multi-modal models, of which mlx-lm runs the text part."""

from ._common import VOCAB, llama_like
from .hybrid import LFM2
from .sliding import CONFIGS as SLIDING

CONFIGS = {
    "gemma3": {"model_type": "gemma3", "vocab_size": VOCAB, "text_config": SLIDING["gemma3_text"]},
    "gemma4": {"model_type": "gemma4", "vocab_size": VOCAB, "text_config": SLIDING["gemma4_text"]},
    "lfm2-vl": {"model_type": "lfm2-vl", "text_config": LFM2},
    "mistral3": {"model_type": "mistral3", "text_config": SLIDING["ministral3"]},
    "pixtral": {"model_type": "pixtral", "text_config": llama_like("llama")},
    "qwen2_vl": {"model_type": "qwen2_vl", "text_config": llama_like("qwen2", without=["head_dim"])},
    "qwen3_vl": {"model_type": "qwen3_vl", "text_config": llama_like("qwen3")},
    "qwen3_vl_moe": {"model_type": "qwen3_vl_moe", "text_config": llama_like(
        "qwen3_moe", decoder_sparse_step=1, mlp_only_layers=[0], num_experts=4, num_experts_per_tok=2,
        moe_intermediate_size=40, norm_topk_prob=True)},
}
