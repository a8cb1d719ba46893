"""A GGUF model as a checkpoint: parameters under their Hugging Face names, their blocks as stored."""

from dataclasses import replace

import numpy as np

from ..errors import UnsupportedModel, WeightsError
from . import gguf_rope
from .gguf_models import How, Ties, architecture, make_config, target_of
from .gguf_split import read_model
from .quants import BY_NUMBER, REGISTRY
from .stored import Checkpoint, StoredTensor

_HEADS = {How.HEADS: "num_attention_heads", How.KV_HEADS: "num_key_value_heads"}
_PARTS = (How.K_PART, How.V_PART)


class GGUFCheckpoint(Checkpoint):
    """As Checkpoint; `header` is the file's header (of all files, where it is split), `architecture` its name.

    `settles_ties`: whether the class learns in sanitize() that it has no output matrix.
    """

    kind = "gguf"

    def __init__(self, path):
        self.header = read_model(path)
        self.architecture, arch = architecture(self.header)
        super().__init__(path, make_config(self.header), {})
        self._how, self._halves = {}, {}        # parameter -> what is done to it; -> its two tensors
        for t in self.header.tensors.values():
            self._maps.setdefault(t.mapped.path, t.mapped)
            if t.name not in gguf_rope.NAMES:
                self._add(t, arch)
        for name in self._halves:
            self.tensors[name] = self._joined_entry(name)
        tied = "lm_head.weight" not in self.tensors
        self.settles_ties = tied and arch.ties is Ties.SANITIZE
        if tied and arch.ties is Ties.COPY:
            self.tensors["lm_head.weight"] = replace(self.tensors["model.embed_tokens.weight"], name="lm_head.weight")

    @property
    def nbytes(self):
        """Bytes of all tensors as stored; one that is read twice counts once."""
        return sum(t.nbytes for t in {(t.file, t.offset): t for t in self.tensors.values()}.values())

    def _add(self, t, arch):
        found = target_of(t.name, arch)
        if found is None:
            raise UnsupportedModel(f"{self.path.name}: tensor {t.name[:80]!r} is not part of a {self.architecture} "
                                   "model as it is known here")
        if t.number not in BY_NUMBER:
            raise WeightsError(f"{self.path.name}: tensor {t.name!r} has type {t.type}, which is not supported; "
                               f"supported: {', '.join(REGISTRY)}")
        name, (_, how) = found
        if how in _PARTS:
            self._halves.setdefault(name, {})[how] = t
            return
        if name in self.tensors:
            raise WeightsError(f"{self.path.name}: {name} is there twice, as {self.tensors[name].stored_name!r} and "
                               f"{t.name!r}")
        if how:
            self._how[name] = how
        self._check_heads(t, self.heads(name))
        shape = (1, *t.shape) if how is How.ROW and len(t.dims) == 1 else t.shape
        self.tensors[name] = StoredTensor(name, shape, t.type, t.nbytes, t.mapped.path, t.offset, t.name)

    def _check_heads(self, t, heads):
        if heads and (t.dims[-1] % (2 * heads) or len(t.dims) > 2):
            raise WeightsError(f"{self.path.name}: tensor {t.name!r} of shape {list(t.shape)} "
                               f"has no {heads} heads of an even size")
        if heads and len(t.dims) == 1 and BY_NUMBER[t.number].block_size > 1:
            raise WeightsError(f"{self.path.name}: the bias {t.name!r} is of type {t.type}; plain floats are read")

    def _joined_entry(self, name):
        """The entry of kv_b from its two parts: [heads * (nope + v), rank]."""
        if name in self.tensors or len(self._halves[name]) != 2:
            raise WeightsError(f"{self.path.name}: {name} must be there whole, or as its two parts attn_k_b and attn_v_b")
        k, v = (self._halves[name][how] for how in _PARTS)
        c = self.config
        heads, rank, nope = c["num_attention_heads"], c["kv_lora_rank"], c["qk_nope_head_dim"]
        if k.shape != (heads, rank, nope) or v.shape != (heads, c["v_head_dim"], rank):
            raise WeightsError(f"{self.path.name}: {k.name!r} and {v.name!r} are {list(k.shape)} and {list(v.shape)}, not "
                               f"{[heads, rank, nope]} and {[heads, c['v_head_dim'], rank]}")
        return StoredTensor(name, (heads * (nope + c["v_head_dim"]), rank), k.type, k.nbytes + v.nbytes, k.mapped.path,
                            k.offset, k.name)

    def heads(self, name):
        """Heads of a projection whose rows are interleaved in the file, or None where rows are in order."""
        key = _HEADS.get(self._how.get(name))
        return key and self.config[key]

    def is_joined(self, name):
        """Whether a parameter is made of two tensors: it has no blocks of its own, only `joined` numbers."""
        return name in self._halves

    def joined(self, name):
        """float32 [heads * (nope + v), rank]: the projection that the file has in two parts, one of them transposed."""
        k, v = (_dequantized(self._halves[name][how]) for how in _PARTS)
        return np.concatenate([k.swapaxes(1, 2), v], axis=1).reshape(self.tensor(name).shape)

    def offset(self, name):
        """What is added to a parameter's numbers: -1 for norms that are stored with 1 added, else 0."""
        return -1.0 if self._how.get(name) is How.PLUS_ONE else 0.0

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
        A one-dimensional tensor is one row, or one row per element where its heads are interleaved; experts
        [experts, out, in] are experts * out rows.
        """
        if self.is_joined(name):
            raise WeightsError(f"{self.path.name}: {name} is made of two tensors and has no blocks of its own")
        t, block = self.tensor(name), self.block_type(name)
        stop = self.rows(name) if stop is None else stop
        heads = self.heads(name)
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
        return gguf_rope.factors(self.header, gguf_rope.FACTORS) if gguf_rope.FACTORS in self.header.tensors else None


def _dequantized(t):
    block = BY_NUMBER[t.number]
    return block.dequantize(t.bytes().reshape(-1, block.row_bytes(t.dims[0]))).reshape(t.shape)


def file_rows(rows, heads):
    """int [rows]: where the file keeps each row of a projection whose heads are interleaved.

    The model's row (head, half, i) is the file's row (head, i, half).
    """
    return np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(-1)
