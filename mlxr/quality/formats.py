"""Lists of page formats as a user writes them, and the formats that a validation looks at where none is named."""

import re

from ..errors import ConfigError, MlxrError
from ..pages import formats as registry
from ..pages.spec import parse_kv

REFERENCE = "f32"      # pages that keep K and V as the model computed them: what everything is measured against


def split(texts):
    """Format names from the values of --kv, each a list.

    With ';' in it, a value is split there and nowhere else. Without, it is split at commas, except where what follows
    goes on with the format before it: a piece begins a new one when it is a plain word, starts with `k:`, or starts with
    the name of a format and a colon. So `q8,q4` are two, `k:q8,v:q4` and `q4,skip=0:2,-2:` are one, and
    `k:q8,v:q4,q8` are two. Names are not checked here. Raises ConfigError when nothing is named.
    """
    found = []
    for text in texts:
        if ";" in text:
            found += [piece.strip() for piece in text.split(";")]
            continue
        joined = []
        for piece in (p.strip() for p in text.split(",")):
            if joined and piece and not _begins(piece):
                joined[-1] += "," + piece
            else:
                joined.append(piece)
        found += joined
    named = list(dict.fromkeys(f for f in found if f))
    if not named:
        raise ConfigError("--kv names no page format")
    return named


def _begins(piece):
    head, colon, _ = piece.partition(":")
    return bool(re.fullmatch(r"\w+", piece)) or bool(colon) and (head == "k" or head in registry.NAMES)


def known(name):
    """The page format that a --kv text names. Raises ConfigError, naming those there are."""
    return parse_kv(name).format


def sink(name):
    """First tokens in f16 that a --kv text names."""
    return parse_kv(name).sink


def quantized(page_size):
    """Names of the registry's formats that store fewer than 16 bits an element, fewest first; those that cannot stand by
    themselves, or need a calibration first, are left out."""
    found = []
    for name in registry.NAMES:
        try:
            bits = known(name).bits_per_element(page_size, 128, 128)
        except MlxrError:
            continue
        if bits < 16 and not known(name).needs_calibration:
            found.append((bits, name))
    return [name for _, name in sorted(found)]


def streams(name):
    """{"k": the format that stores K like `name` and V unquantized, "v": the other way round}."""
    spec = parse_kv(name)
    whole, rest = spec.format, "".join(f",skip={s}" for s in spec.skip) + (f",sink={spec.sink}" if spec.sink else "")
    return {"k": f"k:{whole.k.label},v:{REFERENCE}{rest}", "v": f"k:{REFERENCE},v:{whole.v.label}{rest}"}
