"""Small tokenizers on disk, made by the libraries themselves: sentencepiece models, GGUF vocabularies, folders."""

import functools
import io
import json
from pathlib import Path

import sentencepiece
import tokenizers
from gguf import GGUFWriter

from mlxr.weights.gguf_header import read_header

MULTILINGUAL = (
    "Hello World's I'll DON'T camelCase HTTPServer 1234567 3.14159   spaces\t\ttabs\n\n\nlines \r\n mixed  \n  end. "
    "naïve café Ünïcödé ÀÉ e\u0301 русский ТЕКСТ Ελληνικά 日本語テキスト 한국어 中文,字。 العربية ١٢٣ हिन्दी שלום "
    "👩‍👩‍👧 😀🇳🇴 $100 a/b/c //path !!! #tag @user foo_bar x=y+z\n    def f(x):\n\treturn {x: 'y'}  # code\n"
    "Wow!!\n\nso a b c d it goes.  \n\n \n  ok 's 'S 'LL "
    "don’t “quotes” … — ǅ ﬁ \u00a0nbsp \u200bzero \ufffd \x00\x7f trailing   "
)

_CORPUS = """The cat sat on the mat. A quick brown fox jumps over the lazy dog, and the dog sleeps on.
It was the best of times, it was the worst of times; some said so in 1859.
def main(): return 42  # the answer to everything
Der schnelle braune Fuchs springt über den faulen Hund. Où est la bibliothèque? Là-bas.
Быстрая коричневая лиса прыгает через ленивую собаку.
これは小さなコーパスです。 小さいですが役に立ちます。"""


@functools.lru_cache
def sentencepiece_model(**options) -> bytes:
    """A trained BPE model file with byte fallback, 420 pieces, <|im_end|> control and <tool> user-defined."""
    out = io.BytesIO()
    settings = dict(
        vocab_size=420, model_type="bpe", byte_fallback=True, character_coverage=0.98, add_dummy_prefix=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, control_symbols="<|im_start|>,<|im_end|>",
        user_defined_symbols="<tool>", pad_id=-1, minloglevel=2, num_threads=1,
    )
    lines = iter(_CORPUS.splitlines() * 4)
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=out, **{**settings, **options})
    return out.getvalue()


def write_vocabulary(path: Path, model: str, tokens: list, *, types, merges=None, scores=None, **keys) -> Path:
    """A GGUF file with a vocabulary and no tensors. keys: further tokenizer.ggml.* values, chat_template, name."""
    writer = GGUFWriter(path, "llama")
    for name in ("context_length", "embedding_length", "block_count"):  # llama.cpp asks for them
        writer.add_uint32(f"llama.{name}", 8)
    writer.add_tokenizer_model(model)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if merges is not None:
        writer.add_token_merges(merges)
    if scores is not None:
        writer.add_token_scores(scores)
    for name, value in keys.items():
        key = {"chat_template": "tokenizer.chat_template", "name": "general.name"}.get(name, f"tokenizer.ggml.{name}")
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_string(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def sentencepiece_gguf(path: Path, model: bytes, **keys) -> Path:
    """The vocabulary of a sentencepiece model as converters write it."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    tokens, scores, types = [], [], []
    for index in range(processor.vocab_size()):
        tokens.append(processor.id_to_piece(index))
        scores.append(processor.get_score(index))
        kinds = {2: processor.is_unknown, 3: processor.is_control, 5: processor.is_unused, 6: processor.is_byte}
        types.append(next((kind for kind, holds in kinds.items() if holds(index)), 1))
    for index, token in enumerate(tokens):
        if token == "<tool>":
            types[index] = 4
    return write_vocabulary(path, "llama", tokens, types=types, scores=scores, **keys)


def gemma4_gguf(path: Path, model: bytes, **keys) -> Path:
    """A sentencepiece model's vocabulary with merges in place of scores: all ways to make a piece of two, in order."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    tokens = [processor.id_to_piece(index) for index in range(processor.vocab_size())]
    kinds = {2: processor.is_unknown, 3: processor.is_control, 6: processor.is_byte}
    types = [next((kind for kind, holds in kinds.items() if holds(index)), 1) for index in range(len(tokens))]
    ids = {token: index for index, token in enumerate(tokens)}
    merges = []
    for index, token in enumerate(tokens):
        if types[index] == 1:
            halves = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
            known = [half for half in halves if half[0] in ids and half[1] in ids]
            merges += [" ".join(half) for half in sorted(known, key=lambda half: (ids[half[0]], ids[half[1]]))]
    return write_vocabulary(path, "gemma4", tokens, types=types, merges=merges, **keys)


@functools.lru_cache(maxsize=1)
def bpe_vocabulary(gguf: Path) -> dict:
    """tokens, types and merges of a GGUF file's BPE vocabulary, as write_vocabulary takes them."""
    metadata = read_header(gguf).metadata
    return {
        "tokens": metadata["tokenizer.ggml.tokens"][:],
        "types": metadata["tokenizer.ggml.token_type"].tolist(),
        "merges": metadata["tokenizer.ggml.merges"][:],
    }


@functools.lru_cache
def merging_everything(text: str) -> dict:
    """A BPE vocabulary, as above, whose merges cross all borders in this text: ids show where it was split."""
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    pieces = [text[start : start + 12] for shift in range(0, 12, 2) for start in range(shift, len(text), 12)]
    bpe.train_from_iterator(pieces, tokenizers.trainers.BpeTrainer(
        vocab_size=20_000, min_frequency=1, initial_alphabet=alphabet, show_progress=False))
    content = json.loads(bpe.to_str())["model"]
    tokens = sorted(content["vocab"], key=content["vocab"].get) + ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in content["merges"]]
    return {"tokens": tokens, "types": [1] * (len(tokens) - 4) + [3] * 4, "merges": merges}


def tokenizer_json(gguf: Path, **changes) -> dict:
    """What tokenizer.json of the SmolLM2 family holds, with the vocabulary of its GGUF file."""
    parts = bpe_vocabulary(gguf)
    added = [
        {"id": index, "content": parts["tokens"][index], "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for index, kind in enumerate(parts["types"]) if kind == 3
    ]
    digits = {"type": "Digits", "individual_digits": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, level]}, "post_processor": None,
        "decoder": level,
        "model": {"type": "BPE", "vocab": {token: index for index, token in enumerate(parts["tokens"])},
                  "merges": parts["merges"]},
        **changes,
    }


def write_folder(path: Path, **files) -> Path:
    """A folder of JSON files: tokenizer={...} becomes tokenizer.json. Bytes go to tokenizer.model, text to *.jinja."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if isinstance(content, bytes):
            (path / f"{name}.model").write_bytes(content)
        elif isinstance(content, str):
            (path / f"{name}.jinja").write_text(content, encoding="utf-8")
        else:
            (path / f"{name}.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path
