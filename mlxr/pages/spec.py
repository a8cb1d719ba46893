"""What --kv says: a page format, layers that stay in f16, and first tokens that do."""

import re
from dataclasses import dataclass

from ..errors import ConfigError
from .format import PageFormat
from .formats import page_format

_LAYERS = re.compile(r"-?\d+|-?\d*:-?\d*(:-?\d*)?")      # a Python index or slice


@dataclass(frozen=True)
class KVSpec:
    """format: of the layers that `skip` does not name. skip: Python indices and slices of layers that stay in f16.
    sink: first tokens of every sequence that are kept in f16, in whole pages (see pages/held.py)."""

    text: str
    format: PageFormat
    skip: tuple = ()
    sink: int = 0

    def layers(self, count):
        """The PageFormat of each of `count` layers that store K and V. Raises ConfigError where a skip names none."""
        formats, plain = [self.format] * count, page_format("f16")
        for text in self.skip:
            if ":" in text:
                named = range(count)[slice(*(int(n) if n else None for n in text.split(":")))]
            else:
                named = [int(text)] if -count <= int(text) < count else []
            if not named:
                raise ConfigError(f"--kv {self.text!r}: skip={text} names none of this model's {count} layers with a KV cache")
            for i in named:
                formats[i] = plain
        return formats


def parse_kv(text):
    """The KVSpec of a --kv text: a page format (see formats.page_format), `skip=0:2,-2:` for layers in f16, and `sink=64` for
    first tokens in f16.

    Raises ConfigError, which says what there is.
    """
    parts, skip, skipping, sink = [], [], False, 0
    for token in str(text).strip().split(","):
        word = token.strip()
        if word.startswith("sink="):
            sink = check_sink(word.removeprefix("sink=").strip(), f"--kv {text!r}: sink=")
            skipping = False
            continue
        if word.startswith("skip="):
            skipping, word = True, word.removeprefix("skip=").strip()
            if not _LAYERS.fullmatch(word):
                raise ConfigError(f"--kv {text!r}: skip={word} is no layer or slice of layers; write for example skip=0:2,-2:")
        if skipping and _LAYERS.fullmatch(word):
            if word.count(":") == 2 and word.rpartition(":")[2].lstrip("-0") == "" != word.rpartition(":")[2]:
                raise ConfigError(f"--kv {text!r}: skip={word} has a step of 0")
            skip.append(word)
        else:
            skipping = False
            parts.append(token)
    if not parts:
        raise ConfigError(f"--kv {text!r}: name a page format before skip= and sink=")
    return KVSpec(str(text).strip(), page_format(",".join(parts)), tuple(skip), sink)


def check_sink(value, what):
    """Tokens, a whole number of at least 0, from its text. Raises ConfigError, beginning with `what`."""
    if not re.fullmatch(r"\d{1,9}", value):
        raise ConfigError(f"{what}{value} is no number of tokens; write for example 64")
    return int(value)
