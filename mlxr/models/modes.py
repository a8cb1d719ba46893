"""How each architecture runs: the table that tests/models/test_architectures.py proves and the README shows."""

import mlx.core as mx

PAGED = "paged"          # a ragged batch of tokens, straight on pages
SERIAL = "serial"        # straight on pages, one sequence at a time
GATHERED = "gathered"    # one sequence at a time, its pages gathered into dense K and V
REFUSED = "refused"      # cannot run

_NAMES = {
    PAGED: """
        Klear afm7 afmoe apertus bailing_moe bitnet cohere cohere2 dbrx deepseek deepseek_v2 dots1 ernie4_5
        ernie4_5_moe exaone exaone4 exaone_moe gemma gemma3 gemma3_text gemma3n gemma4 gemma4_text glm glm4
        glm4_moe gpt2 gpt_neox gpt_oss gptj granite granitemoe helium hunyuan hunyuan_v1_dense internlm2
        iquestloopcoder laguna lille-130m llama llama4_text mellum mimo mimo_v2_flash minicpm minicpm3 minimax
        ministral3 mistral3 mixtral muse_glimmer nanbeige nanochat nemotron nemotron-nas olmo2 olmo3 olmoe
        openelm phi phi3 phimoe phixtral pixtral plamo3 qwen qwen2 qwen2_moe qwen2_vl qwen3 qwen3_moe qwen3_vl
        qwen3_vl_moe seed_oss smollm3 solar_open spark2_5 stablelm starcoder2 step3p5 talkie telechat3 youtu_llm""",
    # A recurrent state, or positions that the model needs as one int.
    SERIAL: """
        baichuan_m1 bailing_moe_linear falcon_h1 gear gpt_bigcode granitemoehybrid internlm3 jamba lfm2 lfm2-vl
        lfm2_moe mamba mamba2 nemotron_h olmo_hybrid qwen3_5 qwen3_5_moe qwen3_next recurrent_gemma rwkv7""",
    # Arithmetic of their own on K, V or the mask.
    GATHERED: """
        bailing_hybrid bailing_moe_v3 deepseek_v3 deepseek_v32 gemma2 glm4_moe_lite glm_moe_dsa kimi_k25 kimi_k3
        kimi_linear kimi_vl llama4 longcat_flash longcat_flash_ngram minimax_m3_vl mistral4 plamo plamo2""",
}

# Architectures that were seen to run through the seam as stock mlx-lm does: name -> mode.
MODES = {name: mode for mode, names in _NAMES.items() for name in names.split()}

# Why an architecture is refused: name -> reason.
REFUSALS = {
    "deepseek_v41": "it keeps compressed K and V in a cache of its own, which cannot be paged",
    "muse_spark": "its fused kernels exist for Metal only, so that it could not be compared with mlx-lm",
    "olmo": "mlx-lm's definition of it needs the package ai2-olmo and fails on prompts",
    "phi3small": "mlx-lm's definition of it lets a prompt's tokens see later ones",
    "prism_hadamard_qwen35": "its packs of rotated 2-bit weights could not be compared with mlx-lm",
}

# mlx-lm computes these with Metal kernels that have no other form.
METAL_ONLY = frozenset({"bitnet"})


def mode_of(name):
    """(mode, note) of an architecture; the note, or None, is what the user should be told."""
    if name in REFUSALS:
        return REFUSED, REFUSALS[name]
    if name in METAL_ONLY and not mx.metal.is_available():
        return REFUSED, "mlx-lm computes its layers with a Metal kernel, and there is no Metal here"
    mode = MODES.get(name)
    if mode is None:
        return GATHERED, f"architecture {name!r} was never tested on pages: it runs gathered, one sequence at a time"
    if mode == GATHERED:
        return mode, f"architecture {name!r} computes on K and V itself: it runs gathered, one sequence at a time"
    return mode, None


def settle(mode, model):
    """The mode for a built model of an architecture with that mode.

    Dynamic NTK scaling takes the base of the rotary embedding from one sequence's length.
    """
    if mode == PAGED and any(type(m).__name__ == "DynamicNTKScalingRoPE" for m in model.modules()):
        return SERIAL
    return mode
