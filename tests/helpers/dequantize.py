"""A GGUF model as a Hugging Face folder: dequantized to fp32 by gguf-py, for whoever wants safetensors."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import gguf
import mlx.core as mx
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from mlxr.home import cache_home
from mlxr.models.zoo import instantiate
from mlxr.weights.gguf import GGUFCheckpoint, file_rows

_VERSION = 1  # raise it when what is written changes
_SPECIAL = (3, 4)  # token types: control, user defined


def dequantized_folder(path):
    """The folder for a GGUF file, made at the first call: config.json, model.safetensors, tokenizer files."""
    path = Path(path)
    folder = cache_home() / "tests" / f"{path.stem}-{path.stat().st_size}-fp32-v{_VERSION}"
    if (folder / "config.json").exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    try:
        write_folder(path, scratch)
        os.rename(scratch, folder)
    except OSError:
        if not (folder / "config.json").exists():  # another process may have been faster
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def write_folder(path, folder):
    """Write the Hugging Face files of a GGUF model into an existing folder."""
    reader, checkpoint = gguf.GGUFReader(path), GGUFCheckpoint(path)
    config = dict(checkpoint.config, architectures=["LlamaForCausalLM"], torch_dtype="float32", hidden_act="silu")
    save_file(dict(_tensors(reader, checkpoint)), folder / "model.safetensors", {"format": "pt"})
    if "tokenizer.ggml.tokens" in reader.fields:
        _write_tokenizer(reader, folder)
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def plain_model(path):
    """mlx-lm's class for a GGUF file, with fp32 weights as gguf-py decodes them."""
    checkpoint = GGUFCheckpoint(path)
    model = instantiate(checkpoint.config)
    model.load_weights([(name, mx.array(a)) for name, a in _tensors(gguf.GGUFReader(path), checkpoint)], strict=False)
    return model


def _tensors(reader, checkpoint):
    """(Hugging Face name, fp32 array) of all tensors; dequantized by gguf-py, not by the code under test."""
    by_stored_name = {t.stored_name: t.name for t in checkpoint.tensors.values()}
    heads = {"q_proj": checkpoint.config["num_attention_heads"], "k_proj": checkpoint.config["num_key_value_heads"]}
    for t in reader.tensors:
        if t.name not in by_stored_name:
            continue
        name = by_stored_name[t.name]
        array = gguf.dequantize(t.data, t.tensor_type).reshape(tuple(int(d) for d in reversed(t.shape)))
        module = name.split(".")[-2]
        if checkpoint.architecture == "llama" and module in heads:
            array = array[file_rows(array.shape[0], heads[module])]
        yield name, np.ascontiguousarray(array, np.float32)


def _write_tokenizer(reader, folder):
    def field(name, default=None):
        return reader.fields[name].contents() if name in reader.fields else default

    tokens, types = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    assert field("tokenizer.ggml.model") == "gpt2" and field("tokenizer.ggml.pre") == "smollm"
    merges = [tuple(m.split(" ")) for m in field("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False)
                                  for t, kind in zip(tokens, types) if kind in _SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {f"{kind}_token": tokens[field(f"tokenizer.ggml.{key}_token_id")]
             for kind, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
             if field(f"tokenizer.ggml.{key}_token_id") is not None}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
                "chat_template": field("tokenizer.chat_template"), **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
