"""From token ids to text: bytes of a token, whole-sequence decoding, and streaming without half characters."""

import codecs
from collections.abc import Callable, Iterable

SPACE_MARK = "\u2581"  # sentencepiece writes a space as this character


def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE's characters for the 256 bytes: printable Latin-1 as itself, the others from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(0x100 + index): byte for index, byte in enumerate(others)})
    return alphabet


BYTE_OF_CHARACTER = _byte_alphabet()


def byte_level_bytes(text: str) -> bytes:
    """Bytes of a byte-level BPE piece. A piece with characters outside the alphabet stands for itself."""
    try:
        return bytes([BYTE_OF_CHARACTER[character] for character in text])
    except KeyError:
        return text.encode("utf-8", "replace")


def spaced_bytes(text: str) -> bytes:
    """Bytes of a sentencepiece piece: U+2581 is a space."""
    return text.replace(SPACE_MARK, " ").encode("utf-8", "replace")


def byte_fallback_bytes(text: str) -> bytes:
    """As `spaced_bytes`, and <0x0A> is the byte 10."""
    if len(text) == 6 and text.startswith("<0x") and text[5] == ">":
        try:
            return bytes([int(text[3:5], 16)])
        except ValueError:
            pass
    return spaced_bytes(text)


class TokenBytes:
    """What each id contributes to the text. An id that the vocabulary lacks (a padded row of the logits) adds nothing.

    text_of: id -> text of the token, or None.    convert: text of a normal token -> bytes.
    verbatim: ids whose text stands for itself (special and added tokens).
    """

    def __init__(self, text_of: Callable[[int], str | None], convert: Callable[[str], bytes], verbatim: frozenset[int]):
        self._text_of = text_of
        self._convert = convert
        self._verbatim = verbatim
        self._cache: dict[int, bytes] = {}

    def __getitem__(self, token: int) -> bytes:
        found = self._cache.get(token)
        if found is None:
            text = self._text_of(token) or ""
            found = text.encode("utf-8", "replace") if token in self._verbatim else self._convert(text)
            self._cache[token] = found
        return found


class TextStream:
    """Text of a growing sequence. `add` returns what became certain; `finish` the rest. O(1) a token.

    The pieces together are exactly what decoding all ids at once gives. Bytes that are not UTF-8 come out as U+FFFD.
    """

    def __init__(self, token_bytes: TokenBytes, skipped: frozenset[int], strip_space: bool):
        self._bytes = token_bytes
        self._skipped = skipped
        self._strip_space = strip_space  # drop one space in front of the text: the tokenizer added it when encoding
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        """Text that this id completes: possibly empty, never part of a character."""
        if token in self._skipped:
            return ""
        data = self._bytes[token]
        if self._strip_space and data:
            self._strip_space = False
            data = data.removeprefix(b" ")
        return self._decoder.decode(data)

    def finish(self) -> str:
        """What is left when no more ids come: U+FFFD for an unfinished character, else nothing."""
        return self._decoder.decode(b"", True)


def decode_all(token_bytes: TokenBytes, ids: Iterable[int], skipped: frozenset[int], strip_space: bool) -> str:
    """Text of a whole sequence."""
    data = b"".join([token_bytes[token] for token in ids if token not in skipped])
    if strip_space:
        data = data.removeprefix(b" ")
    return data.decode("utf-8", "replace")
