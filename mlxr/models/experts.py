"""The experts of a GGUF mixture, in MLX's quantized formats where those have the same numbers: no dequantized copy."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..errors import WeightsError
from .zoo import lm_module

MXFP4 = "MXFP4"


def is_experts(module):
    """Whether a module is mlx-lm's stack of linear layers, one an expert."""
    return type(module).__name__ == "SwitchLinear" and type(module).__module__.endswith("models.switch_layers")


def has_form(block):
    """Whether a type of GGUF blocks has a form in which MLX multiplies the chosen experts."""
    return bool(block.affine_bits) or block.name == MXFP4


def affine_experts(module, shape, parts, bits):
    """The layer of affine parts (codes, scales, biases), each [experts * out, ...], for a SwitchLinear.

    shape: [experts, out, in].
    """
    parts = [p.reshape(*shape[:2], -1) for p in parts]
    return _layer(module, parts, 32, bits, "affine")


def mxfp4_experts(module, checkpoint, name, block):
    """The layer of MXFP4 blocks for a SwitchLinear: MLX's mxfp4 has the same codes and exponents, in another order."""
    shape, codes, scales = checkpoint.tensor(name).shape, [], []
    rows = shape[1]
    for at in range(0, checkpoint.rows(name), rows):             # an expert at a time
        blocks = checkpoint.blocks(name, at, at + rows)
        if not block.finite(blocks):
            raise WeightsError(f"{name} has scales that are not finite numbers; the file is damaged")
        parts = block.split(blocks)
        codes.append(mx.array(nibbles(parts[..., 1:])))
        scales.append(mx.array(np.ascontiguousarray(parts[..., 0])))
        mx.eval(codes[-1], scales[-1])
    return _layer(module, [mx.stack(codes), mx.stack(scales), None], 32, 4, "mxfp4")


def nibbles(packed):
    """uint8 [rows, blocks, 16], byte i with weights i and i + 16 -> uint32 [rows, blocks * 4], weight 0 lowest."""
    flat = np.concatenate([packed & 15, packed >> 4], axis=-1)
    return np.ascontiguousarray(flat[..., ::2] | flat[..., 1::2] << 4).view(np.uint32).reshape(packed.shape[0], -1)


def _layer(module, parts, group_size, bits, mode):
    cls = lm_module("switch_layers").QuantizedSwitchLinear
    layer = cls.__new__(cls)                # its __init__ quantizes random weights of this size
    nn.Module.__init__(layer)
    layer.group_size, layer.bits, layer.mode, layer.global_scale = group_size, bits, mode, None
    layer.weight, layer.scales, layer.biases = parts
    if "bias" in module:
        layer.bias = module.bias
    layer.freeze()
    mx.eval([p for p in parts if p is not None])
    return layer
