"""Sentencepiece encoding, with special tokens split off first, and the model file that a GGUF vocabulary stands for."""

import re
import struct
from collections.abc import Collection, Mapping, Sequence

from sentencepiece import SentencePieceProcessor

from ..errors import TokenizerError
from .stream import SPACE_MARK

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # the same numbers in GGUF and in model files


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def model_proto(
    pieces: Sequence[str], scores: Sequence[float], types: Sequence[int], *, add_dummy_prefix: bool
) -> bytes:
    """A sentencepiece ModelProto of a BPE vocabulary, in protobuf's wire format, so that no protobuf is needed.

    Pieces that the library would refuse (empty, or a second of the same text) get a text that no input matches.
    """
    taken: set[str] = set()
    parts = []
    for index, (text, score, kind) in enumerate(zip(pieces, scores, types, strict=True)):
        if not text or text in taken:
            text, kind = f"\0{index}", UNUSED
        taken.add(text)
        parts.append(_message(1, _message(1, text.encode()) + b"\x15" + struct.pack("<f", score) + _number(3, kind)))
    byte_fallback = sum(kind == BYTE for kind in types) == 256
    parts.append(_message(2, _number(3, 2) + _number(35, byte_fallback)))  # trainer: model_type BPE
    normalizer = _message(1, b"identity") + _number(3, add_dummy_prefix) + _number(4, False) + _number(5, True)
    parts.append(_message(3, normalizer))
    return b"".join(parts)


def without_dummy_prefix(proto: bytes) -> bytes:
    """The same model, but text is encoded without a space in front. Later protobuf fields win over earlier ones."""
    return proto + _message(3, _number(3, False))


def processor(proto: bytes, where: str) -> SentencePieceProcessor:
    """Raises TokenizerError for bytes that are no sentencepiece model."""
    try:
        if not proto:  # which the library takes, to fail at the first text
            raise ValueError("it is empty")
        return SentencePieceProcessor(model_proto=proto)
    except Exception as error:  # the library raises several kinds, RuntimeError among them
        reason = " ".join(str(error).split())[-160:]
        raise TokenizerError(f"{where}: not a usable sentencepiece model: {reason}") from None


def special_pattern(specials: Collection[str], strip_after: Collection[str] = ()) -> re.Pattern | None:
    """Matches any special token, the longest first, those in `strip_after` with the white space behind them."""
    if not specials:
        return None
    names = sorted(specials, key=len, reverse=True)
    return re.compile("(%s)" % "|".join(re.escape(name) + r"\s*" * (name in strip_after) for name in names))


class SentencePieceEncoder:
    """Ids of text with special tokens in it.

    specials: text -> id of what is split off before the library sees the text.
    prefix_after_special: whether text behind a special token begins with a space too, as text at the start does.
    """

    def __init__(self, proto: bytes, specials: Mapping[str, int], *, where: str, prefix_after_special: bool,
                 strip_after: Collection[str] = ()):
        self.processor = processor(proto, where)
        plain = self.processor if prefix_after_special else processor(without_dummy_prefix(proto), where)
        self._after_special = plain
        self._specials = dict(specials)
        self._split = special_pattern(self._specials, strip_after)

    @property
    def adds_space(self) -> bool:
        """Whether encoding puts a space in front of the text."""
        return self.processor.encode("a", out_type=str)[0].startswith(SPACE_MARK)

    def encode(self, text: str) -> list[int]:
        fragments = self._split.split(text) if self._split else [text]
        ids: list[int] = []
        for index, fragment in enumerate(fragments):
            if index % 2:
                ids.append(self._specials[fragment if fragment in self._specials else fragment.rstrip()])
            elif fragment:
                ids += (self._after_special if index else self.processor).encode(fragment)
        return ids
