"""What every GGUF block type has: its name, its sizes, and how its bytes become numbers."""

import numpy as np

from ...errors import WeightsError

TYPES = {}  # name -> class; filled by the modules of this package as they are imported


class Numbers:
    """What a type's `weights` asks of an array library, on NumPy. kernels/twins.py has the same on MLX."""

    @staticmethod
    def view(parts, at, to, kind):
        """Bytes at..to of each block as little-endian numbers of another kind ("float16", "uint32", ...)."""
        return np.ascontiguousarray(parts[..., at:to]).view(kind)

    @staticmethod
    def real(codes):
        return codes.astype(np.float32)

    @staticmethod
    def wide(codes):
        """uint8 -> uint16."""
        return codes.astype(np.uint16)

    @staticmethod
    def join(arrays):
        return np.concatenate(arrays, axis=-1)

    @staticmethod
    def shifts(codes, by, mask):
        """[..., n] -> [..., n, len(by)]: codes >> each of `by`, & mask."""
        return codes[..., None] >> np.array(by, codes.dtype) & codes.dtype.type(mask)

    @staticmethod
    def pick(table, codes):
        """table[codes] for a NumPy table of one or two axes; codes may be of any unsigned type."""
        return table[codes]


class Block:
    """One GGUF tensor type. Subclasses fill the fields, and register themselves by being defined.

    A tensor's bytes are taken as uint8 [rows, row_bytes]; a row is a whole number of blocks.
    """

    name = ""          # as ggml spells it, e.g. "Q4_1"
    number = -1        # ggml's type number
    block_size = 1     # weights in a block
    type_size = 1      # bytes in a block
    affine_bits: int | None = None  # where `to_affine` exists: bits of a code in MLX's affine format with groups of 32
    affine_halves = True  # whether its scales and offsets are those of the file: fp16 numbers, of 32 weights
    float_dtype: str | None = None  # name of the MLX dtype where the bytes are plain floats
    scales_at: tuple[int, ...] = ()      # bytes of a block where its fp16 scales and minima lie

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
    def weights(cls, parts, of):
        """uint8 [..., type_size] -> float32 [..., block_size]. of: Numbers, or the same on MLX's arrays.

        Every product and sum is rounded to fp32, in ggml's order: that is what makes results equal bit for bit.
        """
        raise NotImplementedError

    @classmethod
    def dequantize(cls, blocks):
        """uint8 [rows, row_bytes] -> float32 [rows, columns], bit for bit as ggml's reference does it."""
        return cls.weights(cls.split(blocks), Numbers).reshape(blocks.shape[0], -1)

    @classmethod
    def quantize(cls, weights):
        """float32 [rows, columns] -> uint8 [rows, row_bytes], as gguf-py does it.

        Raises WeightsError for the types that gguf-py only reads, and for columns that are no whole blocks.
        """
        import gguf  # it takes 0.2 s, and only those who write need it

        if weights.shape[-1] % cls.block_size:
            raise WeightsError(f"{cls.name} has blocks of {cls.block_size} weights: rows of {weights.shape[-1]} do not fit")
        try:
            number = gguf.GGMLQuantizationType(cls.number)
            return gguf.quants.quantize(np.ascontiguousarray(weights, np.float32), number).view(np.uint8)
        except NotImplementedError:
            raise WeightsError(f"gguf-py reads {cls.name} but does not write it; llama-quantize does") from None

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


def scale(of, parts, at):
    """The same with a last axis of one, on either library."""
    return of.real(of.view(parts, at, at + 2, "float16"))


def planes(of, packed, bits):
    """[..., n] bytes -> [..., n * 8 / bits]: the lowest `bits` of every byte, then the next of every byte, ..."""
    return of.join([packed >> at & ((1 << bits) - 1) for at in range(0, 8, bits)])


def fields(of, packed, bits):
    """[..., n] bytes -> [..., n * 8 / bits]: all of the first byte, lowest bits first, then of the second, ..."""
    return of.shifts(packed, range(0, 8, bits), (1 << bits) - 1).reshape(*packed.shape[:-1], -1)


def k_scales(of, packed):
    """The 8 scales and 8 minima of 6 bits in the 12 bytes [..., 12] of Q4_K and Q5_K: two uint8 [..., 8].

    Bytes 0-3 and 4-7 have the first four of each in their low bits; bytes 8-11 the low halves of the others, whose
    upper bits are on top of bytes 0-7.
    """
    first, second, third = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    return (of.join([first & 63, (third & 15) | (first >> 6 << 4)]), of.join([second & 63, third >> 4 | (second >> 6 << 4)]))


def pack(codes, bits):
    """uint8 codes [rows, columns] -> uint32 [rows, columns * bits / 32], code 0 in the lowest bits, as MLX has them."""
    eight = codes.reshape(codes.shape[0], -1, 8)
    whole = np.zeros(eight.shape[:2], np.uint64)
    for i in range(8):
        whole |= eight[..., i].astype(np.uint64) << np.uint64(bits * i)
    packed = np.ascontiguousarray(whole[..., None].view(np.uint8)[..., :bits])
    return packed.reshape(codes.shape[0], -1).view(np.uint32)


def nibbles_in_order(packed):
    """ggml's nibble order to MLX's: uint8 [rows, blocks, 16] -> uint32 [rows, blocks * 4], weight 0 in the low bits."""
    pairs = np.ascontiguousarray(packed).view(np.uint16)
    out = np.empty((*packed.shape[:-1], 16), np.uint8)
    for half_block, nibbles in enumerate((pairs & 0x0F0F, (pairs >> 4) & 0x0F0F)):
        out[..., 8 * half_block:8 * half_block + 8] = nibbles | (nibbles >> 4)  # the upper byte falls off
    return out.view(np.uint32).reshape(packed.shape[0], -1)
