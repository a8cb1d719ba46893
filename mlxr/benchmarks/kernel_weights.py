"""Random stored weights of any size for the kernel benchmark, as our kernels read them and as MLX does."""

import re
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..errors import ConfigError
from ..kernels.stored import Stored, affine, arrays, stored
from ..kernels.twins import dequantize
from ..weights.quants import REGISTRY

BLOCKS = tuple(name for name, block in REGISTRY.items() if block.block_size > 1)
KINDS = *BLOCKS, "F16", "affine4_64"
_DISTINCT = 1 << 20    # weights that are drawn; larger matrices repeat them


@dataclass
class Weights:
    """A matrix [n, k]. arrays: as kernels take them. affine: (codes, scales, biases) and how, for MLX; None elsewhere.

    MLX multiplies with the affine form where MLX's loader makes it of the file; other blocks it dequantizes first.
    """

    kind: Stored
    arrays: tuple
    width: int
    affine: tuple | None = None
    group: int = 0
    bits: int = 0

    @property
    def nbytes(self):
        return sum(a.nbytes for a in self.arrays)

    @property
    def mlx(self):
        return "mx.quantized_matmul" if self.affine else "dequantize, matmul" if self.kind.name in BLOCKS else "matmul"

    @property
    def mlx_lookup(self):
        return "mx.dequantize of rows" if self.affine else "dequantize rows" if self.kind.name in BLOCKS else "rows"

    def rows(self, which):
        """The arrays of some rows."""
        return tuple(a[which] for a in self.arrays)

    def copy(self):
        """The same numbers elsewhere in memory, for our kernels alone."""
        copied = tuple(mx.array(np.array(a, copy=True)) if a.dtype != mx.bfloat16 else a + 0 for a in self.arrays)
        mx.eval(copied)
        return Weights(self.kind, copied, self.width)

    def mlx_product(self, x):
        """x [b, k] times the transpose, by MLX's own operations."""
        if self.affine is None:
            return x @ dequantize(self.arrays, self.kind, self.width).astype(x.dtype).T
        codes, scales, biases = self.affine
        return mx.quantized_matmul(x, codes, scales, biases, transpose=True, group_size=self.group, bits=self.bits)

    def mlx_rows(self, ids):
        if self.affine is None:
            return dequantize(self.rows(ids), self.kind, self.width)
        return mx.dequantize(*(a[ids] for a in self.affine), group_size=self.group, bits=self.bits)


def make_weights(name, n, k):
    """Random Weights [n, k] of a kind in KINDS, or of affineBITS_GROUP, with scales in float or _half or _bfloat16_t.

    Raises ConfigError for another, and for columns that are no whole blocks.
    """
    packed = re.fullmatch(r"affine(\d)_(\d+)(?:_(float|half|bfloat16_t))?", name)
    if name not in KINDS and not packed:
        raise ConfigError(f"there are no weights of kind {name!r} to measure; there are {', '.join(KINDS)}")
    rng, distinct = np.random.default_rng(0), max(1, min(n, _DISTINCT // k))

    def whole(a):
        """n rows of a few: [distinct, ...] over and over."""
        return mx.contiguous(mx.concatenate([a] * -(-n // distinct))[:n])

    if name == "F16":
        w = whole(mx.array(rng.standard_normal((distinct, k), np.float32)).astype(mx.float16))
        made = Weights(stored("F16"), arrays(w, "F16"), k)
    elif packed:
        bits, group, scales = int(packed[1]), int(packed[2]), {"half": mx.float16, "bfloat16_t": mx.bfloat16}.get(packed[3], mx.float32)
        codes, *factors = mx.quantize(mx.array(rng.standard_normal((distinct, k), np.float32)), group_size=group, bits=bits)
        parts = tuple(whole(p) for p in (codes, *(f.astype(scales) for f in factors)))
        made = Weights(affine(bits, group, scales), parts, k, parts, group, bits)
    else:
        block = REGISTRY[name]
        if k % block.block_size:
            raise ConfigError(f"{name} has blocks of {block.block_size} weights: rows of {k} do not fit")
        blocks = _blocks(rng, block, distinct, k)
        how = {}
        if block.affine_bits and block.affine_halves:
            how = dict(affine=tuple(whole(mx.array(p)) for p in block.to_affine(blocks)), group=32, bits=block.affine_bits)
        made = Weights(stored(name), arrays(whole(mx.array(blocks)), name), k, **how)
    mx.eval(made.arrays, made.affine or ())
    return made


def _blocks(rng, block, n, k):
    """uint8 [n, bytes of a row]: random codes, scales of some hundredths, minima below zero."""
    raw = rng.integers(0, 256, (n, k // block.block_size, block.type_size), np.uint8)
    for at, low, high in zip(block.scales_at, (0.005, -0.1), (0.02, -0.04)):
        raw[..., at:at + 2] = rng.uniform(low, high, raw.shape[:2]).astype(np.float16)[..., None].view(np.uint8)
    if block.name == "MXFP4":
        raw[..., 0] = rng.integers(120, 124, raw.shape[:2])
    elif block.name == "Q8_K":
        raw[..., :4] = rng.uniform(0.005, 0.02, raw.shape[:2]).astype(np.float32)[..., None].view(np.uint8)
    return raw.reshape(n, -1)
