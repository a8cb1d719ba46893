"""Stored weights to fp32 in plain MLX operations: what the twins of the kernels share."""

import mlx.core as mx

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
    return _BLOCKS[kind.name](weights[0].view(mx.uint8).reshape(weights[0].shape[0], width // 32, -1)).reshape(
        -1, width
    )


def _half(blocks, at):
    return mx.contiguous(blocks[..., at : at + 2]).view(mx.float16).astype(mx.float32)


def _nibbles(codes):
    return mx.concatenate([codes & 15, codes >> 4], axis=-1).astype(mx.float32)


_BLOCKS = {
    "Q4_0": lambda b: (_nibbles(b[..., 2:]) - 8) * _half(b, 0),
    "Q4_1": lambda b: _nibbles(b[..., 4:]) * _half(b, 0) + _half(b, 2),
    "Q8_0": lambda b: mx.contiguous(b[..., 2:]).view(mx.int8).astype(mx.float32) * _half(b, 0),
}
