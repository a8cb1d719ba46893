"""A GGUF file with its matrices in other block types: metadata as it was, tensor by tensor, written by gguf-py."""

import fnmatch
import os
from pathlib import Path

import numpy as np

from ..errors import ConfigError, WeightsError
from .gguf_split import parts, read_model
from .quants import BY_NUMBER, REGISTRY

_SPLIT = ("split.no", "split.count", "split.tensors.count")


def requantize(path, out, kind, mix=(), report=None):
    """Write `out`; returns {type name: tensors} of what it holds.

    path: a GGUF file, or the first of several, which become one. kind: the type of matrices, or None: as they are. mix:
    ((tensor name pattern, type), ...), of which the first that fits decides. Vectors, routers, and rows that are no whole
    blocks of the type stay as they are.
    Raises ConfigError when `out` exists or a type is not known, WeightsError for one that gguf-py does not write.
    """
    import gguf  # it takes 0.2 s

    out = Path(out)
    if out.exists():
        raise ConfigError(f"{out} exists already; give another place, or remove it first")
    for name in filter(None, (kind, *(k for _, k in mix))):
        if name not in REGISTRY:
            raise ConfigError(f"{name!r} is no block type; known are {', '.join(REGISTRY)}")
        REGISTRY[name].quantize(np.zeros((1, REGISTRY[name].block_size), np.float32))   # one that is not written is told now
    header = read_model(path)
    types = {t.name: _type(t, kind, mix) for t in header.tensors.values()}
    scratch = out.with_name(f".{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        writer = gguf.GGUFWriter(scratch, header.metadata.get("general.architecture", "llama"))
        _copy_metadata(gguf, writer, gguf.GGUFReader(parts(path)[0]))
        for t in header.tensors.values():
            block = types[t.name]
            nbytes = int(np.prod(t.shape)) // block.block_size * block.type_size
            shape = (*t.shape[:-1], block.row_bytes(t.shape[-1]))
            writer.add_tensor_info(t.name, shape, np.dtype(np.uint8), nbytes, raw_dtype=gguf.GGMLQuantizationType(block.number))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        _write_tensors(writer, header, types, report or (lambda done, total: None))
        writer.close()
        os.replace(scratch, out)
    except OSError as e:
        raise WeightsError(f"cannot write {out}: {e.strerror or e}") from e
    finally:
        scratch.unlink(missing_ok=True)
    names = [block.name for block in types.values()]
    return {name: names.count(name) for name in sorted(set(names))}


def _type(t, kind, mix):
    if t.number not in BY_NUMBER:
        raise WeightsError(f"tensor {t.name!r} has type {t.type}, which is not supported; supported: {', '.join(REGISTRY)}")
    own = BY_NUMBER[t.number]
    wanted = REGISTRY.get(next((k for pattern, k in mix if fnmatch.fnmatchcase(t.name, pattern)), kind), own)
    if len(t.dims) < 2 or "ffn_gate_inp" in t.name or t.dims[0] % wanted.block_size:
        return own
    return wanted


def _copy_metadata(gguf, writer, reader):
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in _SPLIT or key == "general.architecture":
            continue
        kind = field.types[0]
        writer.add_key_value(key, field.contents(), kind, field.types[-1] if kind is gguf.GGUFValueType.ARRAY else None)


def _write_tensors(writer, header, types, report):
    done, total = 0, sum(t.nbytes for t in header.tensors.values())
    for t in header.tensors.values():
        old, new = BY_NUMBER[t.number], types[t.name]
        blocks = t.bytes().reshape(-1, old.row_bytes(t.dims[0]))
        if new is not old:
            if not old.finite(blocks):
                raise WeightsError(f"{t.name} has scales that are not finite numbers; the file is damaged")
            blocks = new.quantize(old.dequantize(blocks))
        writer.write_tensor_data(np.ascontiguousarray(blocks))
        t.mapped.release()
        done += t.nbytes
        report(done, total)
