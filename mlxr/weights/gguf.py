"""A GGUF file as a checkpoint: parameters under their Hugging Face names, their blocks as stored."""

import numpy as np

from ..errors import UnsupportedModel, WeightsError
from .gguf_header import read_header
from .gguf_models import ROPE_FACTORS, architecture, head_rows, make_config, parameter_name
from .quants import BY_NUMBER, REGISTRY
from .stored import Checkpoint, StoredTensor


class GGUFCheckpoint(Checkpoint):
    """As Checkpoint; `header` is the file's header, `architecture` its GGUF architecture by name."""

    kind = "gguf"

    def __init__(self, path):
        self.header = read_header(path)
        self.architecture, self._arch = architecture(self.header)
        super().__init__(path, make_config(self.header), {})
        self._maps[self.path] = self.header.mapped
        for t in self.header.tensors.values():
            if t.name != ROPE_FACTORS:
                entry = self._entry(t)
                self.tensors[entry.name] = entry

    def _entry(self, t):
        name = parameter_name(t.name, self._arch)
        if name is None:
            raise UnsupportedModel(f"{self.path.name}: tensor {t.name[:80]!r} is not part of a {self.architecture} "
                                   "model as it is known here")
        if t.number not in BY_NUMBER:
            raise WeightsError(f"{self.path.name}: tensor {t.name!r} has type {t.type}, which is not supported; "
                               f"supported: {', '.join(REGISTRY)}")
        heads = head_rows(name, self.config, self._arch)
        if heads and (t.dims[-1] % (2 * heads) or len(t.dims) > 2):
            raise WeightsError(f"{self.path.name}: tensor {t.name!r} of shape {list(t.dims[::-1])} "
                               f"has no {heads} heads of an even size")
        if heads and len(t.dims) == 1 and BY_NUMBER[t.number].block_size > 1:
            raise WeightsError(f"{self.path.name}: the bias {t.name!r} is of type {t.type}; plain floats are read")
        return StoredTensor(name, tuple(t.dims[::-1]), t.type, t.nbytes, self.path, t.offset, t.name)

    def block_type(self, name):
        """The class in quants/ for a tensor."""
        return REGISTRY[self.tensor(name).type]

    def rows(self, name):
        """How many rows `blocks` has for a tensor: its elements over its last axis."""
        shape = self.tensor(name).shape
        return int(np.prod(shape[:-1], dtype=np.int64))

    def blocks(self, name, start=0, stop=None):
        """Rows start..stop of a tensor as stored: uint8 [rows, row_bytes], in the order the model expects.

        A view of the mapped file where the file has that order, a copy for the interleaved Q and K of llama.
        A one-dimensional tensor is one row, or one row per element where its heads are interleaved.
        """
        t, block = self.tensor(name), self.block_type(name)
        stop = self.rows(name) if stop is None else stop
        heads = head_rows(name, self.config, self._arch)
        if heads is None:
            stored = self.raw(name).reshape(-1, block.row_bytes(t.shape[-1]))
            return stored[start:stop]
        if len(t.shape) == 1:
            stored = self.raw(name).reshape(-1, block.type_size)
            return np.ascontiguousarray(stored[file_rows(len(stored), heads)]).reshape(1, -1)
        stored = self.raw(name).reshape(t.shape[0], -1)
        return stored[file_rows(t.shape[0], heads)[start:stop]]

    def rope_factors(self):
        """float32 [head_dim / 2]: what each rope frequency is divided by, or None where the file says nothing."""
        t = self.header.tensors.get(ROPE_FACTORS)
        return None if t is None else self.header.mapped.bytes(t.offset, t.nbytes).view("<f4")


def file_rows(rows, heads):
    """int [rows]: where the file keeps each row of a projection whose heads are interleaved.

    The model's row (head, half, i) is the file's row (head, i, half).
    """
    return np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(-1)
