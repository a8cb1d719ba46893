"""What `mlxr inspect` says of a GGUF file besides: its metadata, and what computes each tensor. No weight is read."""

import math

import numpy as np

from .errors import TokenizerError, UnsupportedModel, WeightsError
from .inspection import inspect_model
from .models.build import BLOCKS, EXPERTS, FLOATS, QUANTIZED, gguf_model, gguf_ways
from .weights.checkpoint import open_checkpoint
from .weights.gguf_header import Strings
from .weights.gguf_split import read_model
from .weights.locate import locate

WAYS = {BLOCKS: "on its blocks", QUANTIZED: "as MLX's quantized format, the same numbers",
        EXPERTS: "as MLX's quantized experts, the same numbers", FLOATS: "as floats"}
_SHOWN = 8  # items of an array


def inspect_file(name, kv="f16", page_size=64):
    """inspect_model's facts; for a GGUF file also `supported`, `metadata`, and of each tensor `bits` and `runs` (WAYS).

    A sound file that cannot run here is described from its header, with `supported` false and the reason in `note`.
    Raises ConfigError for a page format or size that there is not, ModelNotFound, and WeightsError for a file that is
    not sound.
    """
    path = locate(name)
    if path.is_dir():
        return inspect_model(path, kv, page_size)
    header = read_model(path)
    try:
        facts = {**inspect_model(path, kv, page_size), "supported": True}
        checkpoint = open_checkpoint(path)
        ways = gguf_ways(gguf_model(checkpoint), checkpoint)
        for t in facts["tensors"]:
            t |= {"stored_name": checkpoint.tensor(t["name"]).stored_name, "runs": ways[t["name"]]}
        facts["runs"] = _bytes_by(facts["tensors"], "runs")
    except (UnsupportedModel, WeightsError, TokenizerError) as e:
        facts = _from_header(path, header, str(e))
    for t in facts["tensors"]:
        t["bits"] = 8 * t["bytes"] / math.prod(t["shape"])
    files = {t.mapped.path.name for t in header.tensors.values()}
    return {**facts, "gguf_version": header.version, "files": len(files) or 1,
            "metadata": {key: _plain(value) for key, value in header.metadata.items()}}


def _from_header(path, header, reason):
    """The facts of a file whose model cannot be built. A tensor of an unknown type has no known size: 0 bytes."""
    tensors = [{"name": t.name, "stored_name": t.name, "type": t.type, "shape": list(t.shape), "bytes": t.nbytes,
                "runs": None} for t in header.tensors.values()]
    weights, stored = sum(math.prod(t["shape"]) for t in tensors), sum(t["bytes"] for t in tensors)
    return {"path": str(path), "kind": "gguf", "supported": False, "note": reason, "mode": "refused",
            "architecture": header.metadata.get("general.architecture"), "parameters": weights,
            "tensor_count": len(tensors), "weights_bytes": stored, "bits_per_weight": 8 * stored / max(1, weights),
            "types": _bytes_by(tensors, "type"), "tensors": tensors}


def _bytes_by(tensors, key):
    sizes = {}
    for t in tensors:
        sizes[t[key]] = sizes.get(t[key], 0) + t["bytes"]
    return sizes


def _plain(value):
    """A metadata value in JSON's types: long arrays by their beginning, numbers that JSON lacks as text."""
    if isinstance(value, Strings):
        first = [value.raw(i).decode("utf-8", "replace") for i in range(min(_SHOWN, len(value)))]
        return {"array": "string", "length": len(value), "first": first}
    if isinstance(value, np.ndarray):
        return {"array": value.dtype.name, "length": len(value), "first": [_plain(x) for x in value[:_SHOWN].tolist()]}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
