"""How many bytes a checkpoint's weights will take in memory, from its headers: what build.load_model makes of each tensor."""

import math

import mlx.core as mx

from . import build, low_rank


def held_bytes(checkpoint, model, dtype=None, cache="none"):
    """Bytes of the parameters that build.load_model(checkpoint, dtype, cache=cache) would hold on this backend. Nothing is read.

    model: of build.make_model or gguf_model, with lazy weights; a safetensors model gets its quantized layers.
    Raises what load_model raises for names, shapes and dtypes that do not fit.
    """
    target = build.choose_dtype(checkpoint, dtype)
    if checkpoint.kind == "gguf":
        ways = build.gguf_ways(model, checkpoint)
        return sum(_gguf_bytes(checkpoint, t, ways[t.name], target) for t in checkpoint.tensors.values())
    weights = build.fitted(model, checkpoint)
    kept = {f"{path}.{name}" for path in build.stored_layers(model, weights) for name in ("weight", "scales", "biases")}
    casts = getattr(model, "cast_predicate", None) or (lambda name: True)
    cast = {name for name, w in weights.items() if name not in kept and target is not None
            and mx.issubdtype(w.dtype, mx.floating) and casts(name)}
    sizes = {name: w.size * (target.size if name in cast else w.dtype.size) for name, w in weights.items()}
    return sum(sizes.values()) + low_rank.more_bytes(model, cache, sizes, target)


def _gguf_bytes(checkpoint, t, way, target):
    count, block = math.prod(t.shape), checkpoint.block_type(t.name)
    if way == build.BLOCKS:
        return t.nbytes
    if way == build.FLOATS:
        own = block.type_size if block.float_dtype and not checkpoint.is_joined(t.name) else 4
        return count * (target.size if target is not None else own)
    if not block.affine_bits:                                  # MXFP4 experts: codes, and an exponent a block
        return count // 2 + count // block.block_size
    scales = 4 if target is None else target.size
    return count * block.affine_bits // 8 + 2 * scales * count // 32
