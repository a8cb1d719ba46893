"""Quantized checkpoints in safetensors: find which layers are packed, and how, and put quantized layers in place."""

import mlx.core as mx
import mlx.nn as nn

from ..errors import UnsupportedModel, WeightsError
from .zoo import lm_module, takes

# What the other modes of MLX are, by (bits, group size); only affine keeps its scales in a floating dtype.
_MODES = {(4, 16): "nvfp4", (4, 32): "mxfp4", (8, 32): "mxfp8"}
_AFFINE_BITS, _AFFINE_GROUPS = (2, 3, 4, 5, 6, 8), (16, 32, 64, 128)
# compressed-tensors formats that hold what MLX's modes hold
_PACKED = {"nvfp4-pack-quantized": "nvfp4", "mxfp4-pack-quantized": "mxfp4", "pack-quantized": "affine"}


def quantize_layers(model, config, weights):
    """Replace, in `model`, the layers whose weights are packed. `weights` (name -> lazy array) says which those are.

    Raises UnsupportedModel for a quantization that MLX has no layers for, WeightsError where shapes make no sense.
    """
    if config.get("quantize_activations"):
        raise UnsupportedModel("the config asks for quantized activations, which are not supported")
    quantization = config.get("quantization")
    if quantization is None:
        if not config.get("quantization_config"):
            return
        quantization = _from_foreign(config["quantization_config"])
        if quantization == "bitnet":
            lm_module("bitlinear_layers").bitnet_quantize(model, config["quantization_config"])
            return
        if quantization is None:
            return
    if not isinstance(quantization, dict):
        raise WeightsError(f"quantization in config.json must be an object, not {quantization!r}")
    nn.quantize(model, class_predicate=lambda path, module: _how(path, module, quantization, weights))


def _from_foreign(settings):
    """MLX's quantization for a `quantization_config` of other tools: a dict, "bitnet", or None: sanitize() did it."""
    if not isinstance(settings, dict):
        raise WeightsError(f"quantization_config in config.json must be an object, not {settings!r}")
    method = settings.get("quant_method")
    if method in ("mxfp4", "mxfp8"):
        return {"mode": method}
    if method == "bitnet":
        return "bitnet"
    if method == "fp8":
        block = settings.get("weight_block_size")
        return {"mode": "mxfp8"} if settings.get("scale_fmt") == "ue8m0" and block == [32, 32] else None
    if method == "compressed-tensors":
        if settings.get("format") in _PACKED:
            return {"mode": _PACKED[settings["format"]]}
        raise UnsupportedModel(f"compressed-tensors format {settings.get('format')!r} is not supported; "
                               f"supported: {', '.join(_PACKED)}")
    if method == "modelopt":
        nested = settings.get("quantization")
        algorithm = (nested if isinstance(nested, dict) else settings).get("quant_algo")
        if algorithm == "NVFP4":
            return {"mode": "nvfp4"}
        raise UnsupportedModel(f"modelopt's {algorithm!r} is not supported; NVFP4 is")
    if method is None and {"bits", "group_size"} <= settings.keys():
        return settings
    raise UnsupportedModel(f"weights quantized with {method!r} are not supported; take a version of the model that is "
                           "not quantized, or quantized for MLX, or a GGUF file")


def _how(path, module, quantization, weights):
    """False, or the arguments of to_quantized, for one layer."""
    if not hasattr(module, "to_quantized"):
        return False
    stated = quantization.get(path)
    if stated is False or f"{path}.scales" not in weights:
        if stated:
            raise WeightsError(f"the config says that {path} is quantized, but it has no scales")
        return False
    if f"{path}.weight" not in weights:
        raise WeightsError(f"{path} has scales but no weight")
    stated = stated if isinstance(stated, dict) else quantization
    how = _measured(path, module, weights, stated.get("mode", quantization.get("mode", "affine")))
    if f"{path}.global_scale" in weights and takes(module.to_quantized, "global_scale"):
        how["global_scale"] = True
    if how["mode"] == "affine" and not takes(module.to_quantized, "mode"):
        del how["mode"]  # a layer of an architecture's own that knows no other
    return how


def _measured(path, module, weights, mode):
    """bits, group_size and mode, read off the shapes: what a config states for all layers is wrong for some files."""
    columns = module.weight.shape[-1]
    packed, scales = weights[f"{path}.weight"], weights[f"{path}.scales"]
    groups = scales.shape[-1] if scales.ndim else 0
    bits, odd = divmod(packed.shape[-1] * 32 if packed.ndim else 0, columns)
    if odd or packed.dtype != mx.uint32 or not groups or columns % groups:
        raise WeightsError(f"{path} has a packed weight {packed.dtype} {list(packed.shape)} and scales "
                           f"{list(scales.shape)}, which do not make rows of {columns}")
    size = columns // groups
    if scales.dtype == mx.uint8:
        mode = _MODES.get((bits, size))
    elif bits not in _AFFINE_BITS or size not in _AFFINE_GROUPS or mode != "affine":
        mode = None
    if mode is None:
        raise WeightsError(f"{path} is quantized to {bits} bits in groups of {size} with {scales.dtype} scales, "
                           "which MLX has no format for")
    return {"group_size": size, "bits": bits, "mode": mode}
