"""A GGUF file's vocabulary as the files of a Hugging Face folder: tokenizer.json or tokenizer.model, and settings."""

import json
from pathlib import Path

from tokenizers import decoders, processors

from .gguf import _Reader
from .sentencepiece import USER_DEFINED
from .stream import SPACE_MARK
from ..weights.gguf_header import read_header
from ..weights.gguf_split import first_part


def export_gguf(path: Path, folder: Path) -> list[str]:
    """Write the tokenizer of a GGUF file into a folder; returns the names of the files.

    Raises TokenizerError for a vocabulary that load_gguf would refuse.
    """
    path = first_part(path)
    reader = _Reader(read_header(path).metadata)
    vocabulary = reader.vocabulary(path.name)
    settings = {
        **vocabulary.template_tokens, "add_bos_token": bool(vocabulary.prefix), "add_eos_token": bool(vocabulary.suffix),
        "clean_up_tokenization_spaces": False, "model_max_length": 1 << 30,
    }
    templates = vocabulary.chat_templates
    if templates:
        listed = [{"name": name, "template": source} for name, source in templates.items()]
        settings["chat_template"] = templates["default"] if list(templates) == ["default"] else listed
    if reader.model == "llama":
        name, content = "tokenizer.model", reader.proto()
        strip = reader.strip_after()
        settings |= {"tokenizer_class": "LlamaTokenizer", "legacy": True, "added_tokens_decoder": {
            str(index): {"content": reader.tokens[index], "special": kind != USER_DEFINED, "normalized": False,
                         "lstrip": False, "rstrip": reader.tokens[index] in strip, "single_word": False}
            for index, kind in reader.marked.items() if reader.tokens[index]}}
    else:
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        name, content = "tokenizer.json", _fast(reader, vocabulary).to_str().encode()
    (folder / name).write_bytes(content)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, ensure_ascii=False, indent=1), encoding="utf-8")
    return [name, "tokenizer_config.json"]


def _fast(reader, vocabulary):
    """The tokenizers library's object, with its decoder and what it puts around a text."""
    fast = vocabulary.encoder.fast
    fast.decoder = decoders.ByteLevel() if reader.model == "gpt2" else decoders.Sequence(
        [decoders.Replace(SPACE_MARK, " "), decoders.ByteFallback(), decoders.Fuse()])
    around = [*vocabulary.prefix, *vocabulary.suffix]
    if around:
        parts = [f"{reader.tokens[i]}:0" for i in vocabulary.prefix] + ["$A:0"]
        parts += [f"{reader.tokens[i]}:0" for i in vocabulary.suffix]
        fast.post_processor = processors.TemplateProcessing(
            single=parts, special_tokens=[(reader.tokens[i], i) for i in dict.fromkeys(around)])
    return fast
