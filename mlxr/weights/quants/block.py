"""What every GGUF block type has: its name, its sizes, and how its bytes become numbers."""

import numpy as np

from ...errors import WeightsError

TYPES = {}  # name -> class; filled by the modules of this package as they are imported


class Block:
    """One GGUF tensor type. Subclasses fill the fields, and register themselves by being defined.

    A tensor's bytes are taken as uint8 [rows, row_bytes]; a row is a whole number of blocks.
    """

    name = ""          # as ggml spells it, e.g. "Q4_1"
    number = -1        # ggml's type number
    block_size = 1     # weights in a block
    type_size = 1      # bytes in a block
    affine_bits = None  # 4 or 8 where `to_affine` exists: MLX's affine format with groups of 32
    float_dtype = None  # name of the MLX dtype where the bytes are plain floats
    scales_at = ()      # bytes of a block where its fp16 scales and minima lie

    def __init_subclass__(cls):
        TYPES[cls.name] = cls

    @classmethod
    def row_bytes(cls, columns):
        """Bytes of a row of `columns` weights; `columns` must be a multiple of block_size."""
        return columns // cls.block_size * cls.type_size

    @classmethod
    def split(cls, blocks):
        """uint8 [rows, row_bytes] -> uint8 [rows, blocks in a row, type_size], without a copy where possible.

        Raises WeightsError when the bytes are not a whole number of blocks.
        """
        if blocks.dtype != np.uint8 or blocks.ndim != 2 or blocks.shape[1] % cls.type_size:
            raise WeightsError(f"{cls.name} needs uint8 rows of a multiple of {cls.type_size} bytes, "
                               f"not {blocks.dtype} {blocks.shape}")
        return blocks.reshape(blocks.shape[0], -1, cls.type_size)

    @classmethod
    def finite(cls, blocks):
        """Whether all fp16 scales and minima of uint8 [rows, row_bytes] are finite numbers."""
        parts = cls.split(blocks)
        return all(np.isfinite(half(parts, at)).all() for at in cls.scales_at)

    @classmethod
    def dequantize(cls, blocks):
        """uint8 [rows, row_bytes] -> float32 [rows, columns], bit for bit as ggml's reference does it."""
        raise NotImplementedError

    @classmethod
    def to_affine(cls, blocks):
        """The same weights in MLX's affine format, exactly: weight = code * scale + bias, groups of 32.

        uint8 [rows, row_bytes] -> codes uint32 [rows, columns * affine_bits / 32], scales and biases
        float32 [rows, columns / 32]. Types that affine codes cannot express have affine_bits None.
        """
        raise WeightsError(f"{cls.name} has no exact affine form")


def half(blocks, at):
    """The fp16 numbers at byte `at` of each block: uint8 [..., type_size] -> float32 [...]."""
    return np.ascontiguousarray(blocks[..., at:at + 2]).view(np.float16)[..., 0].astype(np.float32)


def low_high_nibbles(packed):
    """uint8 [..., 16] -> uint8 [..., 32]: the low nibbles of all bytes are weights 0..15, the high ones 16..31."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def nibbles_in_order(packed):
    """ggml's nibble order to MLX's: uint8 [rows, blocks, 16] -> uint32 [rows, blocks * 4], weight 0 in the low bits."""
    pairs = np.ascontiguousarray(packed).view(np.uint16)
    out = np.empty((*packed.shape[:-1], 16), np.uint8)
    for half_block, nibbles in enumerate((pairs & 0x0F0F, (pairs >> 4) & 0x0F0F)):
        out[..., 8 * half_block:8 * half_block + 8] = nibbles | (nibbles >> 4)  # the upper byte falls off
    return out.view(np.uint32).reshape(packed.shape[0], -1)
