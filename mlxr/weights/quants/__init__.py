"""GGUF block types, one file each. A new type is a new file here; REGISTRY finds it."""

import importlib
import pkgutil

from .block import TYPES, Block

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

REGISTRY = dict(sorted(TYPES.items()))  # "Q4_1" -> class
BY_NUMBER = {cls.number: cls for cls in REGISTRY.values()}  # ggml's type number -> class

__all__ = ["BY_NUMBER", "Block", "REGISTRY"]
