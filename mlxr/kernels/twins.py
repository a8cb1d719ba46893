"""Stored weights to fp32 in plain MLX operations: what the twins of the kernels share."""

import mlx.core as mx

from ..weights.quants import REGISTRY
from .stored import stored


def dequantize(weights, kind, width):
    """fp32 [N, width] of a matrix's arrays (stored.arrays). Lazy."""
    kind = stored(kind)
    if kind.header == "quants/plain.h":
        return weights[0].astype(mx.float32)
    if kind.header == "quants/affine.h":
        how = dict(kind.defines)
        scales, offsets = (a.astype(mx.float32) for a in weights[1:])
        return mx.dequantize(weights[0], scales, offsets, group_size=how["GROUP"], bits=how["BITS"])
    block = REGISTRY[kind.name]
    parts = weights[0].view(mx.uint8).reshape(weights[0].shape[0], width // block.block_size, block.type_size)
    return block.weights(parts, Numbers).reshape(-1, width)


class Numbers:
    """weights.quants.block.Numbers on MLX's arrays."""

    @staticmethod
    def view(parts, at, to, kind):
        return mx.contiguous(parts[..., at:to]).view(getattr(mx, kind))

    @staticmethod
    def real(codes):
        return codes.astype(mx.float32)

    @staticmethod
    def wide(codes):
        return codes.astype(mx.uint16)

    @staticmethod
    def join(arrays):
        return mx.concatenate(arrays, axis=-1)

    @staticmethod
    def shifts(codes, by, mask):
        return codes[..., None] >> mx.array(list(by), codes.dtype) & mask

    @staticmethod
    def pick(table, codes):
        return mx.array(table)[codes.astype(mx.uint32)]
