"""A GGUF model in one file or in several, name-00001-of-00003.gguf and so on: read as one header."""

import re
from pathlib import Path

from .gguf_header import GGUFHeader, read_header
from ..errors import WeightsError

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


def parts(path):
    """Paths of all files of a model, given one of them, the first one first."""
    path = Path(path)
    m = _PART.fullmatch(path.name)
    if not m or not 0 < int(m[2]) <= int(m[3]):
        return [path]
    return [path.with_name(f"{m[1]}-{i:05d}-of-{m[3]}.gguf") for i in range(1, int(m[3]) + 1)]


def first_part(path):
    """The file that has the metadata: the one given, or the first of those it is split into."""
    return parts(path)[0]


def read_model(path):
    """The GGUFHeader of a model: the first file's metadata, the tensors of all, each with the file it lies in.

    Raises WeightsError where a file is missing, is not sound, or does not belong to the others.
    """
    files = parts(path)
    header = read_header(files[0])
    count = header.get("split.count", int, 1) or 1
    if count == 1 and len(files) == 1:
        return header
    name = files[0].name
    if count != len(files):
        raise WeightsError(f"{name} says that it is one of {count} files; its name must end in -00001-of-{count:05d}.gguf, "
                           "and the others must lie beside it")
    tensors = {}
    for index, file in enumerate(files):
        if not file.exists():
            raise WeightsError(f"{file.name} is missing: the model is split into {count} files")
        part = header if index == 0 else read_header(file)
        if part.get("split.no", int) != index or part.get("split.count", int) != count:
            raise WeightsError(f"{file.name} is part {part.metadata.get('split.no')} of {part.metadata.get('split.count')} "
                               f"by its metadata, not {index} of {count}")
        twice = tensors.keys() & part.tensors.keys()
        if twice:
            raise WeightsError(f"{file.name}: tensor {min(twice)!r} is in another part as well")
        tensors.update(part.tensors)
    stated = header.get("split.tensors.count", int, len(tensors))
    if stated != len(tensors):
        raise WeightsError(f"{name}: its parts have {len(tensors)} tensors in all, it says {stated}")
    return GGUFHeader(header.mapped, header.version, header.metadata, tensors, header.data_offset)
