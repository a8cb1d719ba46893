"""A folder with config.json and safetensors files, as Hugging Face and mlx-community publish them."""

import json
import math
import struct
from pathlib import Path

from ..errors import ModelNotFound, WeightsError
from .stored import Checkpoint, StoredTensor

_DTYPES = {  # what MLX can load, bits a value
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "C64": 64, "F8_E4M3": 8, "F8_E8M0": 8,
}
_MAX_HEADER = 100_000_000  # bytes; the format's own limit
_FLOAT_TAGS = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}
_INDEX = "model.safetensors.index.json"


class SafetensorsCheckpoint(Checkpoint):
    """As Checkpoint; `files` are the weight files in order. All headers were checked."""

    kind = "safetensors"

    def __init__(self, path):
        path = Path(path)
        self.files, owners = weight_files(path)
        tensors = {}
        for file in self.files:
            for name, entry in read_header(file).items():
                if owners is not None and owners.get(name, file.name) != file.name:
                    continue
                if name in tensors:
                    raise WeightsError(f"tensor {name!r} is both in {tensors[name].file.name} and in {file.name}")
                tensors[name] = entry
        lost = [name for name in owners or () if name not in tensors]
        if lost:
            raise WeightsError(f"{_INDEX} places tensor {lost[0]!r} in {owners[lost[0]]}, which does not hold it")
        super().__init__(path, read_config(path), tensors)


def read_json(file):
    """A JSON file that must be an object. Raises WeightsError, naming file and line, or ModelNotFound when absent."""
    try:
        value = json.loads(Path(file).read_text("utf-8"))
    except FileNotFoundError as e:
        raise ModelNotFound(f"{Path(file).parent} has no {Path(file).name}; a Hugging Face model folder has") from e
    except OSError as e:
        raise WeightsError(f"cannot read {file}: {e.strerror or e}") from e
    except json.JSONDecodeError as e:
        raise WeightsError(f"{file} is not valid JSON: {e.msg} in line {e.lineno}") from e
    except (UnicodeDecodeError, RecursionError, ValueError) as e:
        raise WeightsError(f"{file} is not valid JSON: {str(e).splitlines()[0]}") from e
    if not isinstance(value, dict):
        raise WeightsError(f"{file} must hold a JSON object, not a {type(value).__name__}")
    return value


def read_config(folder):
    """config.json, with what belongs to it from the files beside it.

    eos_token_id becomes the list of all end tokens that generation_config.json and config.json name. Non-finite
    numbers, which newer files write as {"__float__": "Infinity"}, become floats.
    """
    config = _untagged(read_json(folder / "config.json"))
    if (folder / "generation_config.json").exists():
        eos = eos_ids(read_json(folder / "generation_config.json")) + eos_ids(config)
        if eos:
            config["eos_token_id"] = list(dict.fromkeys(eos))
    elif eos_ids(config):
        config["eos_token_id"] = eos_ids(config)
    text = config.get("text_config")
    if "quantization_config" not in config:
        if isinstance(text, dict) and "quantization_config" in text:
            config["quantization_config"] = text["quantization_config"]
        elif (folder / "hf_quant_config.json").exists():
            config["quantization_config"] = read_json(folder / "hf_quant_config.json")
    return config


def eos_ids(config):
    """The end token ids of one config dict, as a list. Raises WeightsError when they are no ids."""
    value = config.get("eos_token_id")
    if value is None and isinstance(config.get("text_config"), dict):
        value = config["text_config"].get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if any(type(i) is not int for i in ids):
        raise WeightsError(f"eos_token_id must be a token id or a list of them, not {value!r}")
    return ids


def _untagged(value):
    if isinstance(value, dict):
        if set(value) == {"__float__"} and isinstance(value["__float__"], str):
            return _FLOAT_TAGS.get(value["__float__"], value)
        return {k: _untagged(v) for k, v in value.items()}
    return [_untagged(v) for v in value] if isinstance(value, list) else value


def weight_files(folder):
    """(weight files, tensor -> file name or None): model.safetensors, the shards of an index, or model*.safetensors.

    Raises WeightsError when a shard is missing, ModelNotFound when there are no weights.
    """
    single = folder / "model.safetensors"
    if single.exists():
        return [single], None
    if (folder / _INDEX).exists():
        owners = read_json(folder / _INDEX).get("weight_map")
        if not isinstance(owners, dict) or not owners or not all(isinstance(v, str) for v in owners.values()):
            raise WeightsError(f"{folder / _INDEX} must have a weight_map of tensor names to file names")
        shards = sorted(set(owners.values()))
        for shard in shards:
            if shard != Path(shard).name or not shard.endswith(".safetensors"):
                raise WeightsError(f"{_INDEX} names {shard!r}, which is not a .safetensors file of its folder")
        missing = [shard for shard in shards if not (folder / shard).exists()]
        if missing:
            raise WeightsError(f"{folder} lacks {len(missing)} of {len(shards)} weight files, e.g. {missing[0]}; "
                               "download the model again")
        return [folder / shard for shard in shards], owners
    files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("*.safetensors"))
    if not files:
        other = sorted(p.name for pattern in ("*.bin", "*.pth", "*.gguf", "*.npz") for p in folder.glob(pattern))
        raise ModelNotFound(f"{folder} has no .safetensors file"
                            + (f"; {other[0]} is of another format" if other else ""))
    return files, None


def read_header(file):
    """The tensor table of a safetensors file: name -> StoredTensor. Everything is checked, no data is read.

    Raises WeightsError naming the file and what is wrong with it.
    """
    def fail(what):
        raise WeightsError(f"{file.name} is not a sound safetensors file: {what}")

    try:
        size = file.stat().st_size
        with open(file, "rb") as f:
            prefix = f.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else fail(f"it has only {size} bytes")
            if length > min(_MAX_HEADER, size - 8):
                fail(f"its header would be {length} bytes long, the file has {size} (truncated?)")
            text = f.read(length)
    except OSError as e:
        raise WeightsError(f"cannot read {file}: {e.strerror or e}") from e
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (UnicodeDecodeError, RecursionError, ValueError) as e:
        fail(f"its header is not valid JSON ({str(e).splitlines()[0]})")
    if not isinstance(header, dict):
        fail("its header is no JSON object")
    header.pop("__metadata__", None)
    base, tensors = 8 + length, {}
    for name, entry in header.items():
        dtype, shape, start, end = _checked(name, entry, size - base, fail)
        tensors[name] = StoredTensor(name, tuple(shape), dtype, end - start, file, base + start, name)
    end, previous = 0, None
    for t in sorted(tensors.values(), key=lambda t: (t.offset, t.nbytes)):
        if t.nbytes and t.offset < end:
            fail(f"tensors {previous!r} and {t.name!r} overlap")
        end, previous = max(end, t.offset + t.nbytes), t.name
    return tensors


def _unique(pairs):
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a name is there twice")
    return out


def _natural(value):
    return type(value) is int and 0 <= value < 2**63


def _checked(name, entry, data, fail):
    """(dtype, shape, start, end) of one header entry; `data` is how many bytes the file has for tensors."""
    if not isinstance(entry, dict):
        fail(f"the entry of tensor {name!r} is no object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        fail(f"tensor {name!r} has the dtype {dtype!r}; supported: {', '.join(_DTYPES)}")
    if not isinstance(shape, list) or not all(_natural(d) and d < 2**31 for d in shape):
        fail(f"tensor {name!r} has no valid shape")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_natural, offsets)):
        fail(f"tensor {name!r} has no valid data_offsets")
    start, end = offsets
    if end > data:
        fail(f"tensor {name!r} ends at byte {end} of the data, which has {data} (truncated?)")
    if (end - start) * 8 != math.prod(shape) * _DTYPES[dtype]:
        fail(f"tensor {name!r} of shape {shape} and dtype {dtype} cannot lie in {end - start} bytes")
    return dtype, shape, start, end
