"""Linear and embedding layers that compute straight on stored weights, through our kernels."""

import mlx.core as mx
import mlx.nn as nn

from .. import _blas
from ..errors import KernelError
from ..kernels import low_rank, q_matmul, q_rows
from ..kernels.stored import TYPES, affine, arrays, stored
from ..kernels.twins import dequantize

_PLAIN_ROWS = 3   # more rows than these go to OpenBLAS
MOST_WEIGHTS = 1 << 31   # in one matrix: kernels number them in 32 bits within a threadgroup's rows, and arrays of them
KIND_OF = {mx.float32: "F32", mx.float16: "F16", mx.bfloat16: "BF16"}


class StoredMatrix:
    """The weights of a layer as they are stored. kind: a kernels.stored.Stored; arrays: its arrays; shape: [out, in].

    dtype: of activations, and so of weights that are decoded. low: a kernels.low_rank.Correction of them, or None.
    """

    def __init__(self, kind, weights, width, dtype=mx.float32, low=None):
        self.kind = stored(kind)
        self.arrays = arrays(weights, self.kind)
        self.shape = self.arrays[0].shape[0], width
        self.dtype, self.low = dtype, low

    @property
    def held(self):
        """All arrays of it, those of the correction too."""
        return [*self.arrays, *(self.low.left + self.low.right if self.low else ())]

    def decoded(self):
        """[out, in]: all weights. Some models compute with a layer's weights themselves."""
        w = dequantize(self.arrays, self.kind, self.shape[1])
        return (w + self.low.decoded(self.shape[1]) if self.low else w).astype(self.dtype)

    def corrected(self, left, right):
        """These weights plus those of left [out, rank] times right [rank, in], StoredMatrix both; None where kernels do not
        read a left of that type."""
        rank = right.shape[0]
        if not low_rank.fits(left.kind, rank):
            return None
        low = low_rank.Correction(left.arrays, left.kind, right.arrays, right.kind, rank)
        return StoredMatrix(self.kind, self.arrays, self.shape[1], self.dtype, low)

    def product(self, x, **options):
        """x [..., in] times the transpose: [..., out] in x's dtype. options: those of q_gemv.apply."""
        if not x.size:                           # an expert that no token was sent to
            return mx.zeros((*x.shape[:-1], self.shape[0]), x.dtype)
        if self.kind.name == "F32" and _blas.LOADED and not (options or self.low) and x.size > _PLAIN_ROWS * x.shape[-1]:
            # OpenBLAS is the faster way for many rows of plain fp32
            return (x.astype(mx.float32) @ self.arrays[0].T).astype(x.dtype)
        return q_matmul.apply(x, self.arrays, self.kind, low=self.low, **options)


class StoredLinear(nn.Module):
    """A linear layer on a StoredMatrix. bias: [out] or None."""

    def __init__(self, matrix, bias=None):
        super().__init__()
        object.__setattr__(self, "matrix", matrix)
        self.stored = matrix.held                # so that parameters() counts them
        if bias is not None:
            self.bias = bias
        self.freeze()

    @property
    def weight(self):
        return self.matrix.decoded()

    def __call__(self, x):
        if "bias" not in self:
            return self.matrix.product(x)
        return self.matrix.product(x, bias=self.bias.astype(x.dtype))

    def _extra_repr(self):
        return f"{self.matrix.shape[1]} to {self.matrix.shape[0]}, {self.matrix.kind.name}"


class StoredEmbedding(nn.Module):
    """An embedding on a StoredMatrix, and the output layer tied to it."""

    def __init__(self, matrix):
        super().__init__()
        object.__setattr__(self, "matrix", matrix)
        self.stored = list(matrix.arrays)
        self.freeze()

    @property
    def weight(self):
        return self.matrix.decoded()

    def __call__(self, ids):
        return q_rows.apply(ids, self.matrix.arrays, self.matrix.kind, self.matrix.shape[1], self.matrix.dtype)

    def as_linear(self, x):
        return self.matrix.product(x)

    def _extra_repr(self):
        return f"{self.matrix.shape[0]}, {self.matrix.shape[1]}, {self.matrix.kind.name}"


def kind_of(module, weights):
    """How kernels read the weights of one of MLX's layers as they are stored: a Stored; None where they cannot.

    weights: {"weight", and for a quantized layer "scales" and "biases": array}, of which types and shapes are read.
    """
    weight = weights.get("weight")
    if type(module) in (nn.Linear, nn.Embedding):
        return fitting(KIND_OF.get(weight.dtype), weight.shape)
    if type(module) not in (nn.QuantizedLinear, nn.QuantizedEmbedding) or module.mode != "affine":
        return None
    scales, biases = weights.get("scales"), weights.get("biases")
    if weight.dtype != mx.uint32 or scales is None or biases is None or scales.dtype != biases.dtype:
        return None
    try:
        kind = affine(module.bits, module.group_size, scales.dtype)
    except KernelError:
        return None
    return fitting(kind, (weight.shape[0], weight.shape[1] * 32 // module.bits))


def fitting(kind, shape):
    """The Stored of a type of weights, where kernels take a matrix of that shape; else None."""
    if kind is None or isinstance(kind, str) and kind not in TYPES or len(shape) != 2:
        return None
    kind = stored(kind)
    return kind if shape[1] and shape[1] % kind.block == 0 and shape[0] * shape[1] < MOST_WEIGHTS else None


def stored_layer(module, kind, weights, width, dtype):
    """The layer for one of MLX's, on its stored weights. dtype: of an embedding's rows."""
    matrix = StoredMatrix(kind, weights, width, dtype)
    if isinstance(module, (nn.Embedding, nn.QuantizedEmbedding)):
        return StoredEmbedding(matrix)
    return StoredLinear(matrix, module.get("bias"))


def adopt(module, dtype):
    """The layer of this file for one of MLX's, sharing its arrays; None for any other that kind_of does not know.

    dtype: as choose_dtype says.
    """
    kind = kind_of(module, module)
    if kind is None:
        return None
    dtype = dtype or module.get("scales", module.weight).dtype
    weights = tuple(module[n] for n in ("weight", "scales", "biases") if n in module)
    width = module.weight.shape[1] * 32 // module.bits if len(weights) > 1 else module.weight.shape[1]
    return stored_layer(module, kind, weights, width, dtype)


def kinds_in(modules):
    """Names of the types of weights that layers among these modules are stored in, sorted."""
    found = set()
    for module in modules:
        for value in vars(module).values():
            found |= {m.kind.name for m in (value if isinstance(value, list) else [value]) if isinstance(m, StoredMatrix)}
    return sorted(found)


def join(matrices):
    """Matrices of the same input as few as can be: those that are `joinable` become one, rows after rows. A list."""
    if not joinable(matrices):
        return list(matrices)
    whole = [mx.concatenate(parts) for parts in zip(*(m.arrays for m in matrices))]
    low = matrices[0].low and matrices[0].low.joined([m.low for m in matrices])
    mx.eval(whole, low.left if low else [])
    return [StoredMatrix(matrices[0].kind, whole, matrices[0].shape[1], low=low)]


def joinable(matrices):
    """Whether matrices can be one: of one kind, all of them with corrections of the same R, or none."""
    first = matrices[0]
    return all(m.kind == first.kind and (m.low is first.low or m.low and first.low and m.low.joins(first.low)) for m in matrices)


def join_biases(biases, sizes, joined, dtype):
    """The biases of matrices that were joined: a list as long as `joined`, of arrays or None."""
    if all(b is None for b in biases):
        return [None] * len(joined)
    if len(joined) == len(biases):
        return [None if b is None else b.astype(dtype) for b in biases]
    return [mx.concatenate([mx.zeros((n,), dtype) if b is None else b.astype(dtype) for b, n in zip(biases, sizes)])]
