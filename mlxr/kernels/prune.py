"""What a kernel uses of the lanes dialect on Metal: the rest is left out, for MLX hashes the whole text at every launch."""

import functools
import re

_WORD = re.compile(r"[A-Za-z_]\w*")
_NAME = (                                    # of an item, tried in this order
    re.compile(r"#define (\w+)"),
    re.compile(r"typedef .*?(\w+);$"),
    re.compile(r"(?:template <.*?> )?(?:using|struct) (\w+)"),
    re.compile(r"(\w+)\("),
)


@functools.lru_cache(None)
def items(text):
    """[(name, item, words)] of a stripped text's declarations, macros and typedefs; name is None for an #include."""
    found, lines = [], []
    for line in text.splitlines(keepends=True):
        lines.append(line)
        item = "".join(lines)
        if item.startswith("#"):
            whole = not item.endswith("\\\n")
        else:
            whole = item.endswith((";\n", "}\n")) and item.count("{") == item.count("}")
        if whole:
            name = None if item.startswith("#include") else next(m[1] for p in _NAME if (m := p.search(item)))
            found.append((name, item, frozenset(_WORD.findall(item))))
            lines = []
    if lines:
        raise ValueError(f"no end of: {lines[0].strip()}")
    return found


def used(dialect, text):
    """The items of `dialect` that `text` names, and what those name in turn, in their order; and its #includes."""
    reached, new = set(), set(_WORD.findall(text))
    while new:
        reached |= new
        new = {word for name, _, words in items(dialect) if name in new for word in words} - reached
    return "".join(item for name, item, _ in items(dialect) if name is None or name in reached)
