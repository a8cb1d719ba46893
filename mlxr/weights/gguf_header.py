"""Read a GGUF header: metadata and tensor table. Every length is checked against the file before it is used.

gguf-py has a reader too. It trusts the counts it finds, and takes half a second for a vocabulary of 50,000 strings
(plus 0.14 s to import), so this one is written for files from anywhere and for a fast start.
"""

import functools
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import WeightsError
from .quants import BY_NUMBER
from .stored import MappedFile

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "|b1", 10: "<u8", 11: "<i8",
            12: "<f8"}
_MIN_FIELD, _MIN_TENSOR = 13, 32  # bytes that the smallest metadata entry and tensor entry take
# More than any real file has; without limits a file of some gigabytes could ask for many times its size in memory.
_MAX_NAME, _MAX_FIELDS, _MAX_TENSORS, _MAX_STRINGS, _MAX_STRING = 65535, 1 << 16, 1 << 18, 1 << 24, 1 << 26
_MAX_ELEMENTS = 1 << 48
_MAX_ALIGNMENT = 1 << 20
_MAX_MESSAGE = 400

# ggml's names, for messages about types without a class in quants/.
TYPE_NAMES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}


@dataclass(frozen=True)
class GGUFTensor:
    """One row of the tensor table. `dims` has the contiguous axis first, as the file does."""

    name: str
    dims: tuple
    number: int        # ggml's type number
    offset: int        # bytes from the start of the file
    nbytes: int        # 0 where the type is unknown here
    mapped: MappedFile = field(repr=False)

    @property
    def type(self):
        return TYPE_NAMES.get(self.number, f"number {self.number}")

    @property
    def shape(self):
        """As the model sees it: [out, in] for a linear layer."""
        return tuple(self.dims[::-1])

    def bytes(self):
        """uint8 [nbytes]: a view of the file."""
        return self.mapped.bytes(self.offset, self.nbytes)


class Strings(Sequence):
    """An array of strings in the file, decoded when asked for. Raises WeightsError at a string that is not UTF-8."""

    def __init__(self, mapped, key, starts, end):
        self._mapped, self._key, self._starts, self._end = mapped, key, starts, end

    def __len__(self):
        return len(self._starts)

    def raw(self, i):
        """The bytes of string i."""
        starts = self._starts
        end = starts[i + 1] if i + 1 < len(starts) else self._end
        return self._mapped.map[starts[i] + 8:end]

    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        i %= len(self)
        try:
            return self.raw(i).decode("utf-8")
        except UnicodeDecodeError as e:
            raise WeightsError(f"{self._mapped.path.name}: string {i} of {self._key} is not UTF-8") from e


class GGUFHeader:
    """metadata: key -> int, float, bool, str, numpy array or Strings. tensors: name -> GGUFTensor.

    `mapped` is the file, mapped; `data_offset` is where tensor data begins, in bytes.
    """

    def __init__(self, mapped, version, metadata, tensors, data_offset):
        self.mapped, self.version, self.metadata = mapped, version, metadata
        self.tensors, self.data_offset = tensors, data_offset

    def get(self, key, kind, default=None):
        """The value of a metadata key, if it is there. An integer is taken where a float is asked for.

        Raises WeightsError when it is not of `kind` (int, float, str or bool).
        """
        value = self.metadata.get(key)
        if value is None:
            return default
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise WeightsError(f"{self.mapped.path.name}: {key} must be a {kind.__name__}, "
                               f"it is a {type(value).__name__}")
        return value


def read_header(path):
    """The GGUFHeader of a file; the last two are kept, as weights and tokenizer both ask.

    Raises WeightsError, in one line, for anything that is not a sound GGUF header, in time bounded by the file's size.
    """
    path = Path(path)
    try:
        stat = os.stat(path)
    except OSError as e:
        raise WeightsError(f"cannot read {path}: {e.strerror or e}") from e
    return _read(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@functools.lru_cache(maxsize=2)
def _read(path, size, mtime, inode):
    return _Parser(MappedFile(path)).header()


class _Parser:
    """A cursor over the file; every read is checked against its end."""

    def __init__(self, mapped):
        self.mapped, self.buffer, self.size, self.at = mapped, mapped.map, mapped.size, 0

    def fail(self, what):
        what = what if len(what) < _MAX_MESSAGE else what[:_MAX_MESSAGE] + "..."
        raise WeightsError(f"{self.mapped.path.name} is not a sound GGUF file: {what}")

    def take(self, n, what):
        """Move past n bytes and give where they begin."""
        start = self.at
        if n > self.size - start:
            self.fail(f"it ends inside {what} ({n} bytes needed at {start}, the file has {self.size}): it is truncated")
        self.at = start + n
        return start

    def u32(self, what):
        return _U32.unpack_from(self.buffer, self.take(4, what))[0]

    def u64(self, what):
        return _U64.unpack_from(self.buffer, self.take(8, what))[0]

    def string(self, what, limit=_MAX_STRING):
        n = self.u64(what)
        if n > limit:
            self.fail(f"{what} is {n} bytes long")
        start = self.take(n, what)
        try:
            return self.buffer[start:start + n].decode("utf-8")
        except UnicodeDecodeError:
            self.fail(f"{what} is not UTF-8")

    def printable(self, what):
        """A name: it goes into messages, and none has control characters in it."""
        name = self.string(what, _MAX_NAME)
        if not name.isprintable():
            self.fail(f"{what} has unprintable characters: {name!a}")
        return name

    def count(self, smallest, what, limit=None):
        n = self.u64(what)
        if n * smallest > self.size:
            self.fail(f"{what} is {n}, more than its {self.size} bytes can hold: it is truncated or damaged")
        if limit is not None and n > limit:
            self.fail(f"{what} is {n}; up to {limit} are read")
        return n

    def header(self):
        magic = bytes(self.buffer[:4])
        if magic != b"GGUF":
            self.fail(f"it begins with {magic!r}, not with b'GGUF'")
        self.at = 4
        version = self.u32("the version")
        if version not in (2, 3):
            big = int.from_bytes(version.to_bytes(4, "little"), "big") in (2, 3)
            self.fail("it is big-endian; only little-endian files are read" if big
                      else f"version {version}; versions 2 and 3 are read")
        n_tensors = self.count(_MIN_TENSOR, "the number of tensors", _MAX_TENSORS)
        n_fields = self.count(_MIN_FIELD, "the number of metadata entries", _MAX_FIELDS)
        metadata = {}
        for _ in range(n_fields):
            key = self.printable("a metadata key")
            if key in metadata:
                self.fail(f"metadata key {key!r} is there twice")
            metadata[key] = self.value(key)
        entries = self.tensor_entries(n_tensors)
        return GGUFHeader(self.mapped, version, metadata, *self.place(entries, self.alignment(metadata)))

    def value(self, key):
        kind = self.u32(key)
        if kind == _STRING:
            return self.string(key)
        if kind == _ARRAY:
            return self.array(key)
        if kind not in _SCALARS:
            self.fail(f"{key} has the unknown value type {kind}")
        dtype = np.dtype(_SCALARS[kind])
        return np.frombuffer(self.buffer, dtype, 1, self.take(dtype.itemsize, key))[0].item()

    def array(self, key):
        kind = self.u32(key)
        if kind == _STRING:
            return self.strings(key, self.count(8, f"the length of {key}", _MAX_STRINGS))
        if kind not in _SCALARS:
            self.fail(f"{key} is an array of {'arrays' if kind == _ARRAY else f'unknown value type {kind}'}")
        dtype = np.dtype(_SCALARS[kind])
        n = self.count(dtype.itemsize, f"the length of {key}")
        return np.frombuffer(self.buffer, dtype, n, self.take(n * dtype.itemsize, key))

    def strings(self, key, n):
        starts, at, last, unpack, buffer = [], self.at, self.size - 8, _U64.unpack_from, self.buffer
        for _ in range(n):
            if at > last:
                self.fail(f"it ends inside {key}: it is truncated")
            starts.append(at)
            at += 8 + unpack(buffer, at)[0]
        if at > self.size:
            self.fail(f"it ends inside {key}: it is truncated")
        self.at = at
        return Strings(self.mapped, key, starts, at)

    def alignment(self, metadata):
        value = metadata.get("general.alignment", 32)
        if type(value) is not int or not 0 < value <= _MAX_ALIGNMENT or value & (value - 1):
            self.fail(f"general.alignment is {value!r}; it must be a power of two, and at most {_MAX_ALIGNMENT}")
        return value

    def tensor_entries(self, n):
        entries, names = [], set()
        for _ in range(n):
            name = self.printable("a tensor name")
            if name in names:
                self.fail(f"tensor {name!r} is there twice")
            names.add(name)
            n_dims = self.u32(name)
            if not 1 <= n_dims <= 4:
                self.fail(f"tensor {name!r} has {n_dims} dimensions; 1 to 4 are possible")
            dims = struct.unpack_from(f"<{n_dims}Q", self.buffer, self.take(8 * n_dims, name))
            entries.append((name, dims, self.u32(name), self.u64(name)))
        return entries

    def place(self, entries, alignment):
        """(tensors by name, data offset): check that each tensor lies inside the file, on no other one."""
        base = -(-self.at // alignment) * alignment
        tensors = {}
        for name, dims, number, offset in entries:
            if offset % alignment:
                self.fail(f"tensor {name!r} is at offset {offset}, which is not a multiple of {alignment}")
            nbytes = self.tensor_bytes(name, dims, number)
            if base + offset + nbytes > self.size:
                self.fail(f"it is truncated: tensor {name!r} needs bytes {base + offset} to {base + offset + nbytes}, "
                          f"the file has {self.size}")
            tensors[name] = GGUFTensor(name, dims, number, base + offset, nbytes, self.mapped)
        end, previous = 0, None
        for t in sorted(tensors.values(), key=lambda t: t.offset):
            if t.offset < end:
                self.fail(f"tensors {previous!r} and {t.name!r} overlap")
            end, previous = t.offset + t.nbytes, t.name
        return tensors, base

    def tensor_bytes(self, name, dims, number):
        block, elements = BY_NUMBER.get(number), 1
        for d in dims:
            elements *= d
            if not d or elements > _MAX_ELEMENTS:
                self.fail(f"tensor {name!r} cannot have the shape {list(dims)}")
        if block is None:
            return 0
        if dims[0] % block.block_size:
            self.fail(f"tensor {name!r} of type {block.name} has rows of {dims[0]}, "
                      f"not a multiple of {block.block_size}")
        return elements // block.block_size * block.type_size
