"""The registry of page formats: each module of this package defines one class named Format."""

import functools
import importlib
import pkgutil

from ...errors import ConfigError

NAMES = tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "plain"))


@functools.lru_cache(None)
def page_format(name):
    """The page format of that name. Raises ConfigError, naming those there are."""
    if name not in NAMES:
        raise ConfigError(f"unknown page format {name!r}; there are {', '.join(NAMES)}")
    return importlib.import_module(f"{__name__}.{name}").Format()
