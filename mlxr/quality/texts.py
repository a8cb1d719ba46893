"""The text of a validation, the user's or the one that the package ships, cut into windows of tokens."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ..errors import RequestError

PACKAGE = Path(__file__).parents[1]
SHIPPED = Path(__file__).parent / "texts" / "jargon.txt"     # its first line says what it is


@dataclass(frozen=True)
class Text:
    """Real text. name: of its file, or of what is shipped. digest: SHA-256 of it, in hex, the first 16 digits. holds: digests of
    texts that it is put together from."""

    name: str
    content: str
    holds: tuple = ()

    @property
    def digest(self):
        return hashlib.sha256(self.content.encode()).hexdigest()[:16]


def shipped_text():
    """Parts of the Jargon File 4.0.0, which is in the public domain: 186 kB of English prose and lexicon entries."""
    return Text("the Jargon File (shipped)", SHIPPED.read_text(encoding="utf-8").partition("\n")[2])


def calibration_text():
    """What a calibration reads where no text is named: the shipped one, then as many characters of this package's own source. What
    is fitted to prose alone serves program text less well."""
    prose, source = shipped_text(), ""
    for file in sorted(PACKAGE.rglob("*.py")):
        source += file.read_text(encoding="utf-8") + "\n\n"
        if len(source) >= len(prose.content):
            break
    return Text(f"{prose.name}, and mlxr's source", prose.content + "\n\n" + source[:len(prose.content)], (prose.digest,))


class Passages:
    """A text's tokens under a model's tokenizer. What the tokenizer puts before a text goes before every passage."""

    def __init__(self, tokenizer, text):
        self.text = text
        self.start = list(tokenizer.encode(""))
        self.tokens = list(tokenizer.encode(text.content, add_special=False))

    def windows(self, length, count):
        """Up to `count` windows of `length` tokens each, spread evenly over the text; they do not overlap.

        Raises RequestError when not even one fits, or not two where two or more are wanted.
        """
        own = length - len(self.start)
        fit = len(self.tokens) // own if own > 0 else 0
        least = min(2, count)
        if fit < least:
            raise RequestError(f"{self.text.name} is too short: it has {len(self.tokens)} tokens, and {least} window"
                               f"{'s' if least > 1 else ''} of {length} need {least * own}; give a longer --text, or "
                               "smaller --contexts")
        n = min(fit, count)
        starts = [round(i * (len(self.tokens) - own) / max(1, n - 1)) for i in range(n)]
        return [self.start + self.tokens[s:s + own] for s in starts]
