"""The registry of page formats: each module of this package gives an encoding of K, one of V, or both.

A module has a class K, a class V, or SPEC: what its name stands for. Where it has K alone, REST names the format whose V
goes with it when the name stands by itself.
"""

import functools
import importlib
import pkgutil
import re
import types

from ...errors import ConfigError
from ..format import PageFormat

_SHARED = ("plain", "affine", "calibrated", "lloyd")      # what formats are made of
NAMES = tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _SHARED))


_registered = {}                   # formats from outside of this package: name -> what stands for their module


def register(name, k, v):
    """Make a page format from outside of this package known under a name. k, v: classes of Encoding.

    Raises ConfigError for a name that is taken, or is no plain word.
    """
    if name in NAMES or name in _registered or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ConfigError(f"{name!r} cannot be the name of a page format: it is taken, or not of a-z, 0-9 and _")
    _registered[name] = types.SimpleNamespace(K=k, V=v)


def module(name):
    """The module of a format. Raises ConfigError, naming those there are."""
    return _registered.get(name) or _module(name)


@functools.lru_cache(None)
def _module(name):
    if name not in NAMES:
        raise ConfigError(f"unknown page format {name!r}; there are {', '.join((*NAMES, *_registered))}")
    return importlib.import_module(f"{__name__}.{name}")


def names(kind):
    """Of the formats that have an encoding of "k" or of "v"."""
    return tuple(n for n in NAMES if hasattr(module(n), kind.upper()))


def encoding(kind, name, options=None):
    """The encoding of "k" or "v" of that name, with options {name: number}. Raises ConfigError."""
    found = getattr(module(name), kind.upper(), None)
    if found is None:
        raise ConfigError(f"page format {name!r} does not encode {kind.upper()} by itself; these do: "
                          f"{', '.join(names(kind))}")
    known = [f.name for f in found.options()]
    for option in options or {}:
        if option not in known:
            raise ConfigError(f"page format {name!r} has no option {option!r}; it has {', '.join(known) or 'none'}")
    return found(**(options or {}))


def page_format(text):
    """The PageFormat that a text names: NAME, or k:NAME,v:NAME, each NAME with options as in mixed:ratio=0.5,low=4.

    Raises ConfigError: an unknown name, what a format does not have, K or V missing or given twice.
    """
    return _page_format(str(text).strip())


@functools.lru_cache(None)
def _page_format(text):
    named = []                                       # [kind or "", name, options]
    for token in text.split(","):
        kind, name, option = re.fullmatch(r"\s*(?:([kv]):)?\s*([^:=\s]*)\s*:?\s*(.*?)\s*", token).groups()
        if not kind and not option.startswith("=") and not name:
            raise ConfigError(f"--kv {text!r}: a name is missing; {_HOW}")
        if not kind and option.startswith("="):      # an option of the format named before it
            name, option = "", name + option
        if name:
            named.append([kind or "", name, {}])
        if option:
            if not named:
                raise ConfigError(f"--kv {text!r}: the option {option!r} stands before any format; {_HOW}")
            named[-1][2].update(_option(text, option))
    if len(named) == 1 and not named[0][0]:
        parts = _whole(*named[0][1:])
    elif sorted(n[0] for n in named) == ["k", "v"]:
        parts = {kind: encoding(kind, name, options) for kind, name, options in named}
    else:
        raise ConfigError(f"--kv {text!r}: give one format, or one for K and one for V; {_HOW}")
    return PageFormat(parts["k"], parts["v"], text)


_HOW = "write for example q4, k:q8,v:q4 or mixed:ratio=0.5,low=4"


def _option(text, option):
    name, _, value = option.partition("=")
    try:
        number = float(value)
        return {name.strip(): int(number) if number.is_integer() else number}
    except (ValueError, OverflowError):
        raise ConfigError(f"--kv {text!r}: {option!r} is not of the form NAME=NUMBER; {_HOW}") from None


def _whole(name, options):
    """{"k": encoding, "v": encoding} of a format that stands by itself."""
    of = module(name)
    if hasattr(of, "SPEC"):
        if options:
            raise ConfigError(f"page format {name!r} has no options; it is {of.SPEC}")
        made = page_format(of.SPEC)
        return {"k": made.k, "v": made.v}
    rest = getattr(of, "REST", {})
    # An option may be K's alone, or V's: then the other goes without.
    own = {kind: {f.name for f in getattr(of, kind.upper()).options()} for kind in ("k", "v") if kind not in rest}
    known = set().union(*own.values())
    given = {kind: {n: v for n, v in options.items() if n in own[kind] or n not in known} for kind in own}
    return {kind: encoding(kind, rest[kind]) if kind in rest else encoding(kind, name, given[kind]) for kind in ("k", "v")}
