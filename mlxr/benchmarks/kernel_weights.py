"""Random stored weights of any size for the kernel benchmark, as our kernels read them and as MLX does."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..errors import ConfigError
from ..kernels.stored import Stored, affine, arrays, stored
from ..weights.quants import REGISTRY

KINDS = "Q4_1", "Q4_0", "Q8_0", "F16", "affine4_64"
_DISTINCT = 1 << 20    # weights that are drawn; larger matrices repeat them


@dataclass
class Weights:
    """A matrix [n, k]. arrays: as kernels take them. affine: (codes, scales, biases) and how, for MLX; None for floats."""

    kind: Stored
    arrays: tuple
    affine: tuple | None
    group: int
    bits: int

    @property
    def nbytes(self):
        return sum(a.nbytes for a in self.arrays)

    @property
    def mlx(self):
        return "mx.quantized_matmul" if self.affine else "matmul"

    @property
    def mlx_lookup(self):
        return "mx.dequantize of rows" if self.affine else "rows"

    def rows(self, which):
        """The arrays of some rows."""
        return tuple(a[which] for a in self.arrays)

    def copy(self):
        """The same numbers elsewhere in memory, for our kernels alone."""
        copied = tuple(mx.array(np.array(a, copy=True)) if a.dtype != mx.bfloat16 else a + 0 for a in self.arrays)
        mx.eval(copied)
        return Weights(self.kind, copied, None, self.group, self.bits)

    def mlx_product(self, x):
        """x [b, k] times the transpose, by MLX's own operation."""
        if self.affine is None:
            return x @ self.arrays[0].astype(x.dtype).T if x.dtype != self.arrays[0].dtype else x @ self.arrays[0].T
        codes, scales, biases = self.affine
        return mx.quantized_matmul(x, codes, scales, biases, transpose=True, group_size=self.group, bits=self.bits)

    def mlx_rows(self, ids):
        if self.affine is None:
            return self.arrays[0][ids]
        return mx.dequantize(*(a[ids] for a in self.affine), group_size=self.group, bits=self.bits)


def make_weights(name, n, k):
    """Random Weights [n, k] of a kind in KINDS. Raises ConfigError for another."""
    if name not in KINDS:
        raise ConfigError(f"there are no weights of kind {name!r} to measure; there are {', '.join(KINDS)}")
    rng, distinct = np.random.default_rng(0), max(1, min(n, _DISTINCT // k))

    def whole(a):
        """n rows of a few: [distinct, ...] over and over."""
        return mx.contiguous(mx.concatenate([a] * -(-n // distinct))[:n])

    if name == "F16":
        w = whole(mx.array(rng.standard_normal((distinct, k), np.float32)).astype(mx.float16))
        made = Weights(stored("F16"), arrays(w, "F16"), None, 0, 16)
    elif name == "affine4_64":
        parts = mx.quantize(mx.array(rng.standard_normal((distinct, k), np.float32)), group_size=64, bits=4)
        parts = tuple(whole(p) for p in parts)
        made = Weights(affine(4, 64, mx.float32), parts, parts, 64, 4)
    else:
        block = REGISTRY[name]
        blocks = _blocks(rng, block, distinct, k)
        parts = tuple(whole(mx.array(p)) for p in block.to_affine(blocks))
        made = Weights(stored(name), arrays(whole(mx.array(blocks)), name), parts, 32, block.affine_bits)
    mx.eval(made.arrays, made.affine or ())
    return made


def _blocks(rng, block, n, k):
    """uint8 [n, bytes of a row]: random codes, scales of some hundredths, minima below zero."""
    raw = rng.integers(0, 256, (n, k // block.block_size, block.type_size), np.uint8)
    for at, low, high in zip(block.scales_at, (0.005, -0.1), (0.02, -0.04)):
        raw[..., at:at + 2] = rng.uniform(low, high, raw.shape[:2]).astype(np.float16)[..., None].view(np.uint8)
    return raw.reshape(n, -1)
