"""What a checkpoint is, whatever its file format: a config, and a table of stored tensors."""

import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import WeightsError


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies, and what it is. Nothing of its data is read to make this."""

    name: str           # the parameter's name in a Hugging Face checkpoint
    shape: tuple        # as the model sees it: [out, in] for a linear layer
    type: str           # "F32", "BF16", "U32", "Q4_1", ...
    nbytes: int
    file: Path
    offset: int         # bytes from the start of the file
    stored_name: str    # its name in the file; differs from `name` in GGUF


class MappedFile:
    """A file mapped read-only. Raises WeightsError when it is empty or cannot be opened."""

    def __init__(self, path):
        self.path = Path(path)
        try:
            with open(path, "rb") as f:
                self.map = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as e:
            raise WeightsError(f"{self.path.name} is empty") from e
        except OSError as e:
            raise WeightsError(f"cannot read {path}: {e.strerror or e}") from e
        self.size = len(self.map)

    def bytes(self, offset, nbytes):
        """A uint8 view [nbytes] of the file, nothing copied."""
        return np.frombuffer(self.map, np.uint8, nbytes, offset)

    def release(self):
        """Tell the system that what was read will not be read again soon, so that it stops counting as memory in use.

        All of the file: where its page cache has large folios, Linux maps up to 2 MB around a byte that is touched.
        """
        if hasattr(mmap, "MADV_DONTNEED"):
            self.map.madvise(mmap.MADV_DONTNEED)


class Checkpoint:
    """A model's files, opened: `path`, `kind` ("safetensors" or "gguf"), `config`, `tensors` (name -> StoredTensor)."""

    kind = ""

    def __init__(self, path, config, tensors):
        self.path = Path(path)
        self.config = config
        self.tensors = tensors
        self._maps = {}

    @property
    def nbytes(self):
        """Bytes of all tensors as stored."""
        return sum(t.nbytes for t in self.tensors.values())

    def names(self):
        return list(self.tensors)

    def tensor(self, name):
        """The entry of that name. Raises WeightsError when there is none."""
        try:
            return self.tensors[name]
        except KeyError:
            raise WeightsError(f"{self.path.name} has no tensor {name!r}") from None

    def raw(self, name):
        """The stored bytes of a tensor, uint8 [nbytes], as a read-only view of the mapped file."""
        t = self.tensor(name)
        return self._map(t.file).bytes(t.offset, t.nbytes)

    def release(self):
        """Drop what was read of the files from this process's resident memory; it is read again when it is touched."""
        for mapped in self._maps.values():
            mapped.release()

    def _map(self, file):
        if file not in self._maps:
            self._maps[file] = MappedFile(file)
        return self._maps[file]
