"""The experts of a GGUF mixture without a dequantized copy: on their blocks by our kernels, or in MLX's quantized formats."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..errors import WeightsError
from ..kernels import library, q_matmul
from ..kernels.recording import read
from . import stored
from .zoo import lm_module

MXFP4 = "MXFP4"


def is_experts(module):
    """Whether a module is mlx-lm's stack of linear layers, one an expert."""
    return type(module).__name__ == "SwitchLinear" and type(module).__module__.endswith("models.switch_layers")


def has_form(block):
    """Whether a type of GGUF blocks has a form in which MLX multiplies the chosen experts."""
    return bool(block.affine_bits) or block.name == MXFP4


class StoredExperts(nn.Module):
    """mlx-lm's SwitchLinear on stored blocks: each expert's rows of one matrix [experts * out, in].

    Which experts a token goes to must be known before their kernels are launched: each call waits for the router, and
    steps of such a model are not recorded (recording.read).
    """

    def __init__(self, matrix, shape, bias=None):
        """matrix: a StoredMatrix; shape: (experts, out, in); bias [experts, out] or None."""
        super().__init__()
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "shape", tuple(shape))
        object.__setattr__(self, "parts", {})            # expert -> the arrays of its rows: views, nothing copied
        self.stored = list(matrix.arrays)                # so that parameters() counts them
        if bias is not None:
            self.bias = bias
        self.freeze()

    def __call__(self, x, indices, sorted_indices=False):
        """x [..., 1, in], broadcast to indices [...]: [..., 1, out]."""
        _, out, width = self.shape
        flat = mx.broadcast_to(x, (*indices.shape, 1, width)).reshape(-1, width)
        y = self._rehearsed(flat) if library.rehearsing() else self._product(flat, read(indices).reshape(-1))
        y = y.reshape(*indices.shape, 1, out)
        return y + mx.expand_dims(self["bias"][indices], -2).astype(y.dtype) if "bias" in self else y

    def _product(self, flat, ids):
        """flat [n, in], ids int [n]: [n, out]; the rows of each expert together."""
        order = np.argsort(ids, kind="stable")
        ids, x = ids[order], flat[mx.array(order)]
        cuts = [0, *(np.flatnonzero(np.diff(ids)) + 1).tolist(), len(ids)]
        ys = [q_matmul.apply(x[a:b], self._expert(int(ids[a])), self.matrix.kind) for a, b in zip(cuts, cuts[1:])]
        return mx.concatenate(ys)[mx.array(np.argsort(order, kind="stable"))]

    def _expert(self, e):
        if e not in self.parts:
            rows = self.shape[1]
            self.parts[e] = tuple(a[e * rows:(e + 1) * rows] for a in self.matrix.arrays)
            mx.eval(self.parts[e])
        return self.parts[e]

    def _rehearsed(self, flat):
        """What names the kernels of a step that is never computed: those for one row and for all of them."""
        for n in {1, len(flat)}:
            q_matmul.apply(flat[:n], self._expert(0), self.matrix.kind)
        return mx.zeros((len(flat), self.shape[1]), flat.dtype)

    def _extra_repr(self):
        return f"{self.shape[0]} of {self.shape[2]} to {self.shape[1]}, {self.matrix.kind.name}"


def fitting(kind, shape):
    """Whether our kernels read experts [experts, out, in] of a type as they are stored."""
    return len(shape) == 3 and stored.fitting(kind, shape[1:]) is not None


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
