"""What is fuzzed: readers of untrusted files, each given bytes. Anything but a one-line MlxrError is a failure.

tools/fuzz runs these under atheris, which is led by coverage, or, where atheris is not installed, by plain mutation.
"""

import json
import os
import struct
import tempfile
from pathlib import Path

import mlxr  # noqa: F401  (before MLX)

from mlxr.errors import MlxrError
from mlxr.inspection_gguf import inspect_file
from mlxr.tokenizer import load_tokenizer
from mlxr.tokenizer.chat_template import ChatTemplate
from mlxr.weights import gguf_header, safetensors
from mlxr.weights.checkpoint import open_checkpoint

from . import random_gguf
from .gguf_files import Tiny, write_tiny
from .tokenizer_files import gemma4_gguf, sentencepiece_gguf, sentencepiece_model

_SCRATCH = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))


def _file(content, name):
    gguf_header._read.cache_clear()               # it is kept by path, size and time, and these are all alike
    path = _SCRATCH / name
    path.write_bytes(content)
    return path


def gguf(content):
    """Header, config, names and places of a GGUF file; every tensor's first and last row is read."""
    checkpoint = open_checkpoint(_file(content, "m.gguf"))
    for name in checkpoint.names():
        if not checkpoint.is_joined(name):
            rows = checkpoint.rows(name)
            assert checkpoint.blocks(name, rows - 1, rows).shape[0] == 1
            int(checkpoint.blocks(name, 0, 1).sum())


def tokenizer(content):
    """The vocabulary in a GGUF file, and a short text through it and back."""
    found = load_tokenizer(_file(content, "t.gguf"))
    found.decode(found.encode("in the  thé 😀\n<s>"))
    for template in found.chat_templates.values():
        chat_template(template.encode("utf-8", "replace"))


def inspection(content):
    """All that `mlxr inspect` does: besides the above, mlx-lm's class is built from the config, without its weights."""
    json.dumps(inspect_file(_file(content, "i.gguf")), allow_nan=False)


def safetensors_file(content):
    """The header of a safetensors file."""
    for tensor in safetensors.read_header(_file(content, "m.safetensors")).values():
        assert tensor.offset + tensor.nbytes <= len(content)


def chat_template(content):
    """A chat template, rendered for two messages."""
    source = content.decode("utf-8", "replace")
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    ChatTemplate(source).render({"messages": messages, "add_generation_prompt": True, "bos_token": "<s>", "tools": None})


TARGETS = {"gguf": gguf, "tokenizer": tokenizer, "inspection": inspection, "safetensors": safetensors_file,
           "template": chat_template}


def check(target, content):
    """Run one input; whatever is not an error of ours, in one line, goes up to the fuzzer."""
    try:
        TARGETS[target](content)
    except MlxrError as e:
        assert "\n" not in str(e) and len(str(e)) < 2000, f"a message of {len(str(e))} characters: {str(e)[:200]!r}"


def seeds(target):
    """A few sound inputs to begin with, each of some kilobytes."""
    if target in ("gguf", "inspection"):
        models = [_small(name) for name in random_gguf.VARIANTS if "lite" not in name] + [_tiny()]
        return [content for content in models if len(content) < 40_000]
    if target == "tokenizer":
        return [_tiny(random_gguf.vocabulary()), *_vocabularies()]
    if target == "safetensors":
        header = json.dumps({"__metadata__": {"format": "pt"}, "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
                             "b": {"dtype": "BF16", "shape": [], "data_offsets": [24, 26]}}).encode()
        return [struct.pack("<Q", len(header)) + header + bytes(26), struct.pack("<Q", 2) + b"{}"]
    return [b"{% for m in messages %}{{ '<|' + m['role'] + '|>' + m.content | trim }}{% endfor %}",
            b"{%- set ns = namespace(x=0) -%}{% for i in range(3) %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x * 'ab' }}",
            b"{% macro f(a, b=2) %}{{ a ~ b }}{% endmacro %}{{ f('x') }}{{ messages | tojson(indent=2) }}{{ raise_exception('no') }}"]


def _tiny(fields=None):
    path = _SCRATCH / "seed.gguf"
    write_tiny(path, Tiny(layers=1, hidden=32, heads=2, kv_heads=1, head_dim=16, ff=32, vocab=8, fields=fields or {}))
    return path.read_bytes()


def _small(variant):
    """The same with all widths a sixteenth or so, which keeps every relation between them."""
    path, kept = _SCRATCH / "seed.gguf", {}
    for name, value in {"WIDTH": 32, "FF": 32, "EXPERT_FF": 32, "HEADS": 2, "KV_HEADS": 1, "HEAD": 16, "EXPERTS": 2,
                        "VOCABULARY": 8, "_NOPE": 16, "_ROPE": 8, "_VALUE": 16, "_RANK": 32, "_Q_RANK": 32}.items():
        kept[name] = getattr(random_gguf, name)
        setattr(random_gguf, name, value)
    vocabulary, random_gguf.vocabulary = random_gguf.vocabulary, dict
    try:
        random_gguf.write(path, variant, "Q4_0")
    finally:
        random_gguf.vocabulary = vocabulary
        for name, value in kept.items():
            setattr(random_gguf, name, value)
    return path.read_bytes()


def _vocabularies():
    path = _SCRATCH / "seed.gguf"
    yield sentencepiece_gguf(path, sentencepiece_model()).read_bytes()
    yield gemma4_gguf(path, sentencepiece_model()).read_bytes()


# Values that break what checks them badly: huge counts, all ones, the type numbers of strings and arrays.
WORDS = [b"\xff" * 8, b"\0" * 8, struct.pack("<Q", 2**63), struct.pack("<Q", 2**40), struct.pack("<Q", 2**31),
         struct.pack("<I", 8), struct.pack("<I", 9), struct.pack("<I", 1), struct.pack("<Q", 1), b"\x7f\xff\xff\xff",
         struct.pack("<f", float("nan")), struct.pack("<f", float("inf"))]


def mutate(content, random):
    """A changed copy, for fuzzing without atheris: bytes replaced, inserted, deleted, copied, or the end cut off."""
    out = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4, 8))):
        at, kind = random.randrange(len(out) + 1), random.randrange(6)
        word = random.choice(WORDS) if random.random() < 0.5 else random.randbytes(random.randint(1, 8))
        if kind <= 2:
            out[at:at + len(word)] = word
        elif kind == 3:
            out[at:at] = word
        elif kind == 4:
            del out[at:at + random.randint(1, 16)]
        else:
            source = random.randrange(len(out) + 1)
            out[at:at + 32] = out[source:source + 32]
    return bytes(out if random.random() < 0.9 else out[:random.randrange(len(out) + 1)])
