"""Scaled rotary embeddings in GGUF: linear, yarn, Llama 3's factors and the long and short factors of Phi 3."""

import math

from ..errors import UnsupportedModel, WeightsError

FACTORS = "rope_freqs.weight"  # not a parameter: what each rope frequency is divided by
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
NAMES = (FACTORS, LONG, SHORT)


def rope_scaling(meta, config):
    """The rope_scaling dict of a config, or None.

    Raises UnsupportedModel for a kind that the architecture's class does not compute: it would ignore it.
    """
    scaling = _rope_scaling(meta, config)
    kinds = meta.arch.ropes
    if scaling and scaling["type"] not in kinds:
        meta.refuse(f"rope scaling {scaling['type']!r} (known for it: {', '.join(kinds) or 'none'})")
    return scaling


def _rope_scaling(meta, config):
    if FACTORS in meta.header.tensors:
        return _llama3(meta, config)
    if LONG in meta.header.tensors or SHORT in meta.header.tensors:
        return _longrope(meta, config)
    kind = meta.text("rope.scaling.type")
    factor = meta.number("rope.scaling.factor", meta.number("rope.scale_linear"))
    if kind == "none" or factor is None or (kind in (None, "linear") and factor == 1.0):
        return None
    if kind in (None, "linear"):
        return {"type": "linear", "rope_type": "linear", "factor": factor}
    if kind != "yarn":
        raise UnsupportedModel(f"rope scaling {kind[:40]!r} is not supported in GGUF; linear, yarn and llama3 are")
    for suffix in ("yarn_ext_factor", "yarn_attn_factor", "attn_factor"):
        if meta.header.get(f"{meta.name}.rope.scaling.{suffix}", float, 1.0) not in (1.0, -1.0):
            raise UnsupportedModel(f"yarn rope scaling with {suffix} other than 1 is not supported")
    yarn = {"type": "yarn", "rope_type": "yarn", "factor": factor,
            "original_max_position_embeddings": meta.count("rope.scaling.original_context_length"),
            "beta_fast": meta.number("rope.scaling.yarn_beta_fast", 32.0),
            "beta_slow": meta.number("rope.scaling.yarn_beta_slow", 1.0)}
    if meta.has("rope.scaling.yarn_log_multiplier"):
        # DeepSeek's mscale_all_dim, and its mscale, which is the same in every published model; stored as a tenth
        logarithm = 10 * meta.required("rope.scaling.yarn_log_multiplier")
        yarn |= {"mscale": logarithm, "mscale_all_dim": logarithm}
    return yarn


def factors(header, name, length=None):
    """float32 [n]: a tensor of rope factors, checked. Raises WeightsError."""
    t = header.tensors[name]
    if t.type != "F32" or len(t.dims) != 1 or length not in (None, t.dims[0]):
        raise WeightsError(f"{header.mapped.path.name}: {name} must be a one-dimensional F32 tensor"
                           + (f" of {length}" if length else ""))
    values = t.bytes().view("<f4")
    if not (values > 0).all() or float(values.max()) == math.inf:
        raise WeightsError(f"{header.mapped.path.name}: {name} must hold positive numbers")
    return values


def _llama3(meta, config):
    """Llama 3's scaling. The file holds the finished factors, which the loader installs; these values name their kind.

    1, 4 and 8192 are what every published model of this kind was made with; the factor is the largest divisor.
    """
    return {"type": "llama3", "rope_type": "llama3", "factor": float(factors(meta.header, FACTORS).max()),
            "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": meta.count("rope.scaling.original_context_length", 8192)}


def _longrope(meta, config):
    """Phi 3's: a factor for each frequency. mlx-lm uses the long ones at any length, and derives their scale."""
    missing = [n for n in (LONG, SHORT) if n not in meta.header.tensors]
    if missing:
        raise WeightsError(f"{meta.file} has only one of the two tensors of rope factors; {missing[0]} is missing")
    size = meta.count("rope.dimension_count", config["head_dim"]) // 2
    original = meta.count("rope.scaling.original_context_length")
    stretch = config["max_position_embeddings"] / original
    derived = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 and original > 1 else 1.0
    stated = meta.number("rope.scaling.attn_factor", derived)
    if abs(stated - derived) > 1e-3 * derived:
        meta.refuse(f"rope.scaling.attn_factor {stated:g} (mlx-lm computes with {derived:g})")
    long, short = (factors(meta.header, name, size).tolist() for name in (LONG, SHORT))
    return {"type": "longrope", "rope_type": "longrope", "long_factor": long, "short_factor": short, "factor": stretch,
            "original_max_position_embeddings": original}
