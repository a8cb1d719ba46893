"""What is in a model, from its headers and the shapes of its graph; no weight is read."""

import math

from .config import EngineConfig
from .engine import context_limit
from .memory import token_bytes
from .models import seam, zoo
from .models.build import make_model
from .models.modes import mode_of
from .pages.format import effective_bits
from .pages.spec import parse_kv
from .weights.checkpoint import open_checkpoint
from .weights.locate import locate

_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads", "attention_heads")


def inspect_model(name, kv="f16", page_size=64):
    """Facts about a model as a dict of JSON types; bytes and counts.

    Raises ConfigError for a page format or size that there is not, and what finding and reading a model raises.
    """
    spec = parse_kv(EngineConfig(kv=kv, page_size=page_size).kv)
    checkpoint = open_checkpoint(locate(name))
    config = checkpoint.config
    architecture = zoo.architecture_name(config)
    mode, note = mode_of(architecture)
    tensors = [{"name": t.name, "type": t.type, "shape": list(t.shape), "bytes": t.nbytes}
               for t in checkpoint.tensors.values()]
    seam.install()
    shape = seam.probe(make_model(config))
    specs = [s for s in shape.specs if s]
    formats = spec.layers(len(specs))
    text = {**config, **config.get("text_config", {})}
    heads = next((text[n] for n in _HEADS if isinstance(text.get(n), int)), specs[0].kv_heads if specs else 0)
    per_token = token_bytes(specs, formats, page_size)
    wide = [seam.LayerSpec(heads, s.dk, s.dv) for s in specs]
    parameters = _parameters(checkpoint, config)
    return {
        "path": str(checkpoint.path), "kind": checkpoint.kind, "architecture": architecture, "mode": mode, "note": note,
        "parameters": parameters, "tensor_count": len(tensors), "weights_bytes": checkpoint.nbytes,
        "bits_per_weight": 8 * checkpoint.nbytes / max(1, parameters), "types": _by_type(tensors),
        "quantization": config.get("quantization") or config.get("quantization_config"),
        "vocabulary": shape.vocabulary, "context": context_limit(config, None), "layers": len(specs), "heads": heads,
        "kv_heads": specs[0].kv_heads if specs else 0, "head_dim": specs[0].dk if specs else 0,
        "gqa_ratio": heads / specs[0].kv_heads if specs else 0, "page_format": kv, "kv_bytes_per_token": per_token,
        "kv_bytes_per_token_mha": token_bytes(wide, formats, page_size),
        "kv_bits": effective_bits(specs, formats, page_size), "recurrent": shape.recurrent, "tensors": tensors,
    }


def _parameters(checkpoint, config):
    """Weights in all. MLX's packed codes hold several in a 32-bit word; their scales and biases are no weights."""
    quantization = config.get("quantization") or {}
    count, corrected = 0, config["caldera"]["right"] if "caldera" in config else ()
    for t in checkpoint.tensors.values():
        layer, _, leaf = t.name.rpartition(".")
        packed = layer + ".scales" in checkpoint.tensors
        if packed and leaf in ("scales", "biases") or layer.rpartition(".")[0] in corrected and not layer.endswith(".layer"):
            continue
        own = quantization.get(layer)
        bits = (own if isinstance(own, dict) else quantization).get("bits", 4)
        count += t.nbytes * 8 // bits if packed and leaf == "weight" else math.prod(t.shape)
    return count


def _by_type(tensors):
    sizes = {}
    for t in tensors:
        sizes[t["type"]] = sizes.get(t["type"], 0) + t["bytes"]
    return sizes
