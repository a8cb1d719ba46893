"""Small random GGUF models of every architecture that mlxr reads, written by gguf-py; tools/random_gguf is its command.

The shapes and metadata are written down here once more, in GGUF's own names, so that llama.cpp can be the judge of the
tables in mlxr/weights. Widths are multiples of 256, so that every block type fits.
"""

import gguf
import numpy as np

from .ggml_blocks import quantize

VOCABULARY = 320
WIDTH, FF, EXPERT_FF, HEADS, KV_HEADS, HEAD, EXPERTS, USED = 256, 512, 256, 4, 2, 64, 8, 2
CONTEXT = 512


class Model:
    """What one file holds: `fields` (metadata, without the architecture's prefix) and `tensors` (name -> shape)."""

    def __init__(self, name, layers=2):
        self.name, self.layers, self.fields, self.tensors = name, layers, {}, {}
        self.scales = {}                      # tensor -> standard deviation, where it is not the usual one
        self.put("token_embd", VOCABULARY, WIDTH)
        self.put("output_norm", WIDTH)
        self.fields |= {
            "block_count": layers, "context_length": CONTEXT, "embedding_length": WIDTH, "feed_forward_length": FF,
            "attention.head_count": HEADS, "attention.head_count_kv": KV_HEADS, "rope.freq_base": 10000.0,
            "attention.layer_norm_rms_epsilon": 1e-5}

    def put(self, stem, *shape, bias=False, scale=None):
        self.tensors[stem + ".weight"] = shape
        if scale:
            self.scales[stem + ".weight"] = scale
        if bias:
            self.tensors[stem + ".bias"] = (shape[0],) if len(shape) < 3 else shape[:2]

    def each(self, **stems):
        """In every layer: stem=(out, in)."""
        for i in range(self.layers):
            for stem, shape in stems.items():
                self.put(f"blk.{i}.{stem}", *shape)
        return self

    def norms(self, *stems):
        return self.each(**dict.fromkeys(stems, (WIDTH,)))

    def attention(self, bias=(), head=HEAD, kv_heads=KV_HEADS):
        for i in range(self.layers):
            for stem, out, width in (("attn_q", HEADS * head, WIDTH), ("attn_k", kv_heads * head, WIDTH),
                                     ("attn_v", kv_heads * head, WIDTH), ("attn_output", WIDTH, HEADS * head)):
                self.put(f"blk.{i}.{stem}", out, width, bias=stem in bias)
        return self

    def mlp(self, layers=None):
        for i in layers if layers is not None else range(self.layers):
            for stem, out, width in (("ffn_gate", FF, WIDTH), ("ffn_up", FF, WIDTH), ("ffn_down", WIDTH, FF)):
                self.put(f"blk.{i}.{stem}", out, width)
        return self

    def experts(self, layers=None, bias=False):
        self.fields |= {"expert_count": EXPERTS, "expert_used_count": USED, "expert_feed_forward_length": EXPERT_FF}
        for i in layers if layers is not None else range(self.layers):
            self.put(f"blk.{i}.ffn_gate_inp", EXPERTS, WIDTH, bias=bias, scale=0.5)  # wide: no two experts score alike
            for stem, out, width in (("gate", EXPERT_FF, WIDTH), ("up", EXPERT_FF, WIDTH), ("down", WIDTH, EXPERT_FF)):
                self.put(f"blk.{i}.ffn_{stem}_exps", EXPERTS, out, width, bias=bias)
        return self

    def output(self):
        self.put("output", VOCABULARY, WIDTH)
        return self

    def say(self, **fields):
        """Metadata; __ stands for a dot."""
        self.fields |= {key.replace("__", "."): value for key, value in fields.items()}
        return self


_QKV = ("attn_q", "attn_k", "attn_v")


def _llama(experts=False):
    m = Model("llama").norms("attn_norm", "ffn_norm").attention().say(rope__dimension_count=HEAD)
    if not experts:
        return m.mlp()
    m.experts().output().say(feed_forward_length=EXPERT_FF)
    del m.fields["expert_feed_forward_length"]
    return m


def _qwen3(name):
    m = Model(name).norms("attn_norm", "ffn_norm").attention(head=32).each(attn_q_norm=(32,), attn_k_norm=(32,))
    return m.say(attention__key_length=32, attention__value_length=32)


def _qwen2moe():
    m = Model("qwen2moe").norms("attn_norm", "ffn_norm").attention(_QKV).experts().output()
    m.say(expert_shared_feed_forward_length=FF)
    return m.each(ffn_gate_inp_shexp=(WIDTH,), ffn_gate_shexp=(FF, WIDTH), ffn_up_shexp=(FF, WIDTH),
                  ffn_down_shexp=(WIDTH, FF))


def _gemma(name, layers, **fields):
    m = Model(name, layers).norms("attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm").attention().mlp()
    return m.say(attention__key_length=HEAD, attention__value_length=HEAD, attention__layer_norm_rms_epsilon=1e-6, **fields)


def _phi3():
    return Model("phi3").norms("attn_norm", "ffn_norm").each(
        attn_qkv=((HEADS + 2 * KV_HEADS) * HEAD, WIDTH), attn_output=(WIDTH, WIDTH), ffn_up=(2 * FF, WIDTH),
        ffn_down=(WIDTH, FF)).output().say(rope__dimension_count=HEAD)


def _starcoder2():
    m = Model("starcoder2").attention((*_QKV, "attn_output"))
    del m.fields["attention.layer_norm_rms_epsilon"]
    for i in range(m.layers):
        m.put(f"blk.{i}.attn_norm", WIDTH, bias=True)
        m.put(f"blk.{i}.ffn_norm", WIDTH, bias=True)
        m.put(f"blk.{i}.ffn_up", FF, WIDTH, bias=True)
        m.put(f"blk.{i}.ffn_down", WIDTH, FF, bias=True)
    m.put("output_norm", WIDTH, bias=True)
    return m.say(attention__layer_norm_epsilon=1e-5)


_NOPE, _ROPE, _VALUE, _RANK, _Q_RANK = 64, 32, 64, 256, 256


def _deepseek2(parts=False, lite=False):
    """parts: the latent projection in two tensors, as newer converters write it.

    lite: queries are not latent; llama.cpp knows those models by their 27 layers, of which only the last has experts here.
    """
    layers = 27 if lite else 2
    m = Model("deepseek2", layers).norms("attn_norm", "ffn_norm").mlp(range(layers - 1)).experts([layers - 1]).output()
    m.say(attention__head_count_kv=1 if parts else HEADS, attention__layer_norm_rms_epsilon=1e-6,
          attention__kv_lora_rank=_RANK, rope__dimension_count=_ROPE, leading_dense_block_count=layers - 1, expert_shared_count=2,
          expert_weights_scale=1.5, expert_gating_func=1, vocab_size=VOCABULARY)
    sizes = {"attention.key_length": _NOPE + _ROPE, "attention.value_length": _VALUE}
    if parts:
        sizes = {"attention.key_length": _RANK + _ROPE, "attention.value_length": _RANK,
                 "attention.key_length_mla": _NOPE + _ROPE, "attention.value_length_mla": _VALUE}
    m.fields |= sizes
    queries = HEADS * (_NOPE + _ROPE)
    if not lite:
        m.say(attention__q_lora_rank=_Q_RANK).each(attn_q_a=(_Q_RANK, WIDTH), attn_q_a_norm=(_Q_RANK,),
                                               attn_q_b=(queries, _Q_RANK))
    else:
        m.each(attn_q=(queries, WIDTH))
    m.each(attn_kv_a_mqa=(_RANK + _ROPE, WIDTH), attn_kv_a_norm=(_RANK,), attn_output=(WIDTH, HEADS * _VALUE))
    if parts:
        m.each(attn_k_b=(HEADS, _RANK, _NOPE), attn_v_b=(HEADS, _VALUE, _RANK))
    else:
        m.each(attn_kv_b=(HEADS * (_NOPE + _VALUE), _RANK))
    for stem, shape in (("gate", (2 * EXPERT_FF, WIDTH)), ("up", (2 * EXPERT_FF, WIDTH)), ("down", (WIDTH, 2 * EXPERT_FF))):
        m.put(f"blk.{layers - 1}.ffn_{stem}_shexp", *shape)
    return m


def _gpt_oss():
    m = Model("gpt-oss").norms("attn_norm", "post_attention_norm").attention((*_QKV, "attn_output")).experts(bias=True)
    m.each(attn_sinks=(HEADS,)).output()
    return m.say(attention__sliding_window=32, attention__key_length=HEAD, attention__value_length=HEAD)


def _with_factors(m, name, low=1.0, high=8.0):
    m.tensors[name] = (HEAD // 2,)
    m.scales[name] = (low, high)
    return m


def _longrope():
    m = _with_factors(_with_factors(_phi3(), "rope_factors_long.weight", 1.0, 6.0), "rope_factors_short.weight", 1.0, 1.5)
    return m.say(rope__scaling__original_context_length=64,
                 rope__scaling__attn_factor=float(np.sqrt(1 + np.log(CONTEXT / 64) / np.log(64))))


def _scaled(m, kind, factor=4.0, **fields):
    return m.say(rope__scaling__type=kind, rope__scaling__factor=factor, rope__scaling__original_context_length=64, **fields)


def _attention_biases(m):
    for i in range(m.layers):
        m.put(f"blk.{i}.attn_q", HEADS * HEAD, WIDTH, bias=True)
        m.put(f"blk.{i}.attn_k", KV_HEADS * HEAD, WIDTH, bias=True)
        m.put(f"blk.{i}.attn_v", KV_HEADS * HEAD, WIDTH, bias=True)
        m.put(f"blk.{i}.attn_output", WIDTH, HEADS * HEAD, bias=True)
    return m


_YARN_LOG = dict(rope__scaling__yarn_log_multiplier=0.0707)
_GRANITE = dict(attention__scale=0.1, embedding_scale=6.0, residual_scale=0.3, logit_scale=4.0)
# Name of a variant -> the Model. The first word is the GGUF architecture.
VARIANTS = {
    "llama": _llama,
    "llama untied": lambda: _llama().output(),
    "llama linear": lambda: _scaled(_llama(), "linear"),
    "llama yarn": lambda: _scaled(_llama(), "yarn"),
    "llama factors": lambda: _with_factors(_llama(), "rope_freqs.weight"),
    "llama biases": lambda: _attention_biases(_llama()),
    "llama experts": lambda: _llama(experts=True),
    "qwen2": lambda: Model("qwen2").norms("attn_norm", "ffn_norm").attention(_QKV).mlp(),
    "qwen2 yarn": lambda: _scaled(Model("qwen2").norms("attn_norm", "ffn_norm").attention(_QKV).mlp(), "yarn"),
    "qwen3": lambda: _qwen3("qwen3").mlp(),
    "qwen2moe": _qwen2moe,
    "qwen3moe": lambda: _qwen3("qwen3moe").experts().output(),
    "gemma2": lambda: _gemma("gemma2", 2, attn_logit_softcapping=20.0, final_logit_softcapping=10.0,
                             attention__sliding_window=256),
    "gemma3": lambda: _gemma("gemma3", 7, attention__sliding_window=16).each(attn_q_norm=(HEAD,), attn_k_norm=(HEAD,)),
    "gemma3 linear": lambda: _scaled(_gemma("gemma3", 6, attention__sliding_window=16).each(
        attn_q_norm=(HEAD,), attn_k_norm=(HEAD,)), "linear", 8.0),
    "phi3": _phi3,
    "phi3 partial": lambda: _phi3().say(rope__dimension_count=48),
    "phi3 longrope": _longrope,
    "granite": lambda: Model("granite").norms("attn_norm", "ffn_norm").attention().mlp().say(**_GRANITE),
    "olmo2": lambda: Model("olmo2").norms("post_attention_norm", "post_ffw_norm").attention().mlp().output().each(
        attn_q_norm=(HEADS * HEAD,), attn_k_norm=(KV_HEADS * HEAD,)),
    "starcoder2": _starcoder2,
    "smollm3": lambda: Model("smollm3", 5).norms("attn_norm", "ffn_norm").attention().mlp().say(
        rope__dimension_count=HEAD),
    "deepseek2": _deepseek2,
    "deepseek2 parts": lambda: _deepseek2(parts=True),
    "deepseek2 lite": lambda: _deepseek2(lite=True),
    "deepseek2 yarn": lambda: _scaled(_deepseek2(parts=True), "yarn", 4.0, **_YARN_LOG),
    "gpt-oss": _gpt_oss,
    "gpt-oss yarn": lambda: _scaled(_gpt_oss(), "yarn", 8.0),
}


def _loudness(name):
    """Layers add little to the embedding, as in a trained model: rounding does not grow from layer to layer."""
    return 8.0 if name == "token_embd.weight" else 0.3 if "attn_output" in name or "ffn_down" in name else 1.0


def weights(model, seed=0):
    """name -> float32 array of every tensor."""
    rng = np.random.default_rng(seed)
    out = {}
    for name, shape in model.tensors.items():
        scale = model.scales.get(name)
        if isinstance(scale, tuple):
            w = np.linspace(*scale, shape[0])
        elif name.startswith("rope") or "norm" in name and name.endswith("weight"):
            w = 1 + 0.2 * rng.standard_normal(shape)
        elif len(shape) == 1 or name.endswith("bias"):
            w = 0.3 * rng.standard_normal(shape)
        else:
            w = rng.standard_normal(shape) * (scale or shape[-1] ** -0.5 * _loudness(name))
        out[name] = w.astype(np.float32)
    return out


def kept_plain(name, shape, kind):
    """Whether a tensor stays F32, as llama.cpp keeps it, or because its rows are no whole blocks of the type."""
    return len(shape) == 1 or name.endswith("bias") or "ffn_gate_inp" in name or bool(
        shape[-1] % gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0])


def write(path, variant, kind="F32", seed=0, fields=(), embedding=None, parts=1):
    """Write a random model; returns name -> float32 array of what the file holds, decoded by gguf-py.

    variant: a name in VARIANTS. kind: the type of its matrices. fields: more metadata (full keys). embedding: the type of
    token_embd and output. parts: into how many files it is split; then `path` is the first one's.
    """
    model = VARIANTS[variant]()
    writer = gguf.GGUFWriter(path if parts == 1 else str(path).replace("-00001-of-%05d.gguf" % parts, ".gguf"), model.name,
                             split_max_tensors=-(-len(model.tensors) // parts) if parts > 1 else 0)
    for key, value in {**model.fields, **vocabulary()}.items():
        add_field(writer, key if key.startswith("tokenizer.") else f"{model.name}.{key}", value)
    for key, value in dict(fields).items():
        add_field(writer, key, value)
    held = {}
    for name, w in weights(model, seed).items():
        of = embedding if embedding and name in ("token_embd.weight", "output.weight") else kind
        number = gguf.GGMLQuantizationType["F32" if kept_plain(name, w.shape, of) else of]
        data = quantize(w, number.name)
        writer.add_tensor(name, data, raw_dtype=number)
        held[name] = gguf.dequantize(data, number).reshape(w.shape).astype(np.float32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


def vocabulary():
    """A byte-level BPE vocabulary of 320 tokens: bytes, three merges, special tokens, fillers."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    alphabet = [chr(b) for b in printable] + [chr(0x100 + i) for i in range(len(others))]
    tokens = [*alphabet, "th", "the", "in", "<s>", "</s>"]
    types = [1] * (len(tokens) - 2) + [3, 3]
    fill = VOCABULARY - len(tokens)
    tokens, types = tokens + [f"<unused{i}>" for i in range(fill)], types + [5] * fill
    return {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": types, "tokenizer.ggml.merges": ["t h", "th e", "i n"],
            "tokenizer.ggml.bos_token_id": tokens.index("<s>"), "tokenizer.ggml.eos_token_id": tokens.index("</s>")}


def add_field(writer, key, value):
    """Metadata of the type that its Python value has."""
    adds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    adds.get(type(value), writer.add_array)(key, value)
