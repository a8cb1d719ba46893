"""Sizes of some models, as their config.json says them on the Hugging Face hub, for plans without a file or a network."""

CONFIGS = {
    "llama-3-8b": dict(
        model_type='llama', hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, vocab_size=128256, max_position_embeddings=8192,
        rms_norm_eps=1e-05, rope_theta=500000.0, tie_word_embeddings=False, torch_dtype='bfloat16'),
    "qwen3-4b": dict(
        model_type='qwen3', hidden_size=2560, intermediate_size=9728, num_hidden_layers=36,
        num_attention_heads=32, num_key_value_heads=8, head_dim=128, vocab_size=151936,
        max_position_embeddings=40960, rms_norm_eps=1e-06, rope_theta=1000000.0, tie_word_embeddings=True,
        torch_dtype='bfloat16'),
    "tinyllama-1.1b": dict(
        model_type='llama', hidden_size=2048, intermediate_size=5632, num_hidden_layers=22,
        num_attention_heads=32, num_key_value_heads=4, vocab_size=32000, max_position_embeddings=2048,
        rms_norm_eps=1e-05, rope_theta=10000.0, tie_word_embeddings=False, torch_dtype='bfloat16'),
    "smollm2-135m": dict(
        model_type='llama', hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, vocab_size=49152, max_position_embeddings=8192,
        rms_norm_eps=1e-05, rope_theta=100000.0, tie_word_embeddings=True, torch_dtype='bfloat16'),
    "smollm2-360m": dict(
        model_type='llama', hidden_size=960, intermediate_size=2560, num_hidden_layers=32,
        num_attention_heads=15, num_key_value_heads=5, vocab_size=49152, max_position_embeddings=8192,
        rms_norm_eps=1e-05, rope_theta=100000.0, tie_word_embeddings=True, torch_dtype='bfloat16'),
    "smollm2-1.7b": dict(
        model_type='llama', hidden_size=2048, intermediate_size=8192, num_hidden_layers=24,
        num_attention_heads=32, num_key_value_heads=32, vocab_size=49152, max_position_embeddings=8192,
        rms_norm_eps=1e-05, rope_theta=130000.0, tie_word_embeddings=True, torch_dtype='bfloat16'),
}
