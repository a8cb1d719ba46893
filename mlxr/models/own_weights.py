"""Which layers a model's code computes with past the layer's own call: those stay MLX's, with an array of weights."""

import ast
import functools
import sys
from pathlib import Path


def own_weights(model):
    """Names (last parts of paths) of layers whose `.weight` the model's forward code reads, or any of its code sets."""
    files = {getattr(sys.modules.get(type(m).__module__), "__file__", None) for _, m in model.named_modules()
             if not type(m).__module__.startswith("mlx.")}
    return frozenset().union(*(_of_file(f) for f in files if f))


@functools.lru_cache(None)
def _of_file(file):
    names = set()
    for function in ast.walk(ast.parse(Path(file).read_text())):
        if isinstance(function, ast.FunctionDef) and function.name not in ("sanitize", "shard"):
            names.update(_layer(n) for n in ast.walk(function) if _is_weight(n) and
                         (function.name == "__call__" or isinstance(n.ctx, ast.Store)))
    return frozenset(names)


def _is_weight(node):
    """Whether this is <something>.<layer>.weight."""
    return isinstance(node, ast.Attribute) and node.attr == "weight" and isinstance(node.value, ast.Attribute)


def _layer(node):
    return node.value.attr
