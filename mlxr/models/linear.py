"""Quantized linear and embedding layers: MLX's own, plus a fast way for many rows on a CPU.

MLX's quantized product on a CPU runs at some 3 GFLOP/s whatever the number of rows. From 4 rows on it is faster to
dequantize the weight in slices and multiply in fp32 (measured: 576 x 576 weights, 8 rows: 1.9 ms against 0.65 ms;
64 rows: 15 ms against 0.9 ms; 49152 x 576, 64 rows: 1.3 s against 0.15 s). No dequantized copy is kept.
"""

import mlx.core as mx
import mlx.nn as nn

MANY_ROWS = 4     # from here on a CPU dequantizes and multiplies
_SLICE = 1 << 19  # weights dequantized at once: 2 MB; MLX runs ahead by some 40 slices, so they must be small


def on_cpu():
    """Whether MLX computes on the CPU."""
    return mx.default_device().type == mx.DeviceType.cpu


def sliced_matmul(x, weight, scales, biases, group_size, bits, mode):
    """x [..., in] times the transpose of a quantized weight [out, in]: dequantized a slice at a time, in fp32.

    Result [..., out] in x's dtype. Memory beyond it: the result again while slices are joined, and at most some 80 MB.
    """
    step = max(1, _SLICE // x.shape[-1])
    x32, parts = x.astype(mx.float32), []
    for at in range(0, weight.shape[0], step):
        end = at + step
        w = mx.dequantize(weight[at:end], scales[at:end], None if biases is None else biases[at:end],
                          group_size=group_size, bits=bits, mode=mode)
        parts.append(x32 @ w.astype(mx.float32).T)
    return (parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=-1)).astype(x.dtype)


def quantized_product(layer, x):
    """x [..., in] times the transpose of a quantized layer's weight, by whichever way is faster here."""
    if x.size >= MANY_ROWS * x.shape[-1] and on_cpu():
        return sliced_matmul(x, layer["weight"], layer["scales"], layer.get("biases"), layer.group_size, layer.bits,
                             layer.mode)
    return mx.quantized_matmul(x, layer["weight"], scales=layer["scales"], biases=layer.get("biases"), transpose=True,
                               group_size=layer.group_size, bits=layer.bits, mode=layer.mode)


class QuantLinear(nn.QuantizedLinear):
    """A linear layer on codes, scales and biases in one of MLX's quantized formats; all attributes as MLX's.

    weight uint32 [out, in * bits / 32]; scales and biases [out, in / group_size]; bias [out] or None.
    """

    def __init__(self, weight, scales, biases=None, bias=None, *, group_size=32, bits=4, mode="affine"):
        nn.Module.__init__(self)
        self.group_size, self.bits, self.mode = group_size, bits, mode
        self.weight, self.scales, self.biases = weight, scales, biases
        if bias is not None:
            self.bias = bias
        self.freeze()

    def __call__(self, x):
        x = quantized_product(self, x)
        return x + self["bias"] if "bias" in self else x


class QuantEmbedding(nn.QuantizedEmbedding):
    """An embedding on codes, scales and biases, and the output layer tied to it; attributes as MLX's."""

    def __init__(self, weight, scales, biases=None, *, group_size=32, bits=4, mode="affine"):
        nn.Module.__init__(self)
        self.group_size, self.bits, self.mode = group_size, bits, mode
        self.weight, self.scales, self.biases = weight, scales, biases
        self.num_embeddings, self.dims = weight.shape[0], weight.shape[1] * 32 // bits
        self.freeze()

    def as_linear(self, x):
        return quantized_product(self, x)


def adopt(module):
    """The layer of this file that does the same as an MLX layer, sharing its arrays; other modules as they are."""
    how = dict(group_size=getattr(module, "group_size", 0), bits=getattr(module, "bits", 0),
               mode=getattr(module, "mode", "affine"))
    if type(module) is nn.QuantizedLinear:
        return QuantLinear(module["weight"], module["scales"], module.get("biases"), module.get("bias"), **how)
    if type(module) is nn.QuantizedEmbedding:
        return QuantEmbedding(module["weight"], module["scales"], module.get("biases"), **how)
    return module
