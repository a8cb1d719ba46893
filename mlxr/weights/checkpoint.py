"""Open a model's files, whichever format they have."""

from pathlib import Path

from ..errors import ModelNotFound, WeightsError
from .gguf import GGUFCheckpoint
from .safetensors import SafetensorsCheckpoint
from .stored import Checkpoint, StoredTensor

__all__ = ["Checkpoint", "StoredTensor", "open_checkpoint"]


def open_checkpoint(path):
    """The Checkpoint at a folder with config.json, or at a .gguf file. Headers are checked; no tensor data is read.

    Raises ModelNotFound when nothing is there, WeightsError when the files are not sound, UnsupportedModel for a GGUF
    architecture that is not known.
    """
    path = Path(path)
    if path.is_dir():
        return SafetensorsCheckpoint(path)
    if not path.exists():
        raise ModelNotFound(f"there is no file or folder {path}")
    if path.suffix == ".safetensors":
        raise WeightsError(f"{path.name} is only the weights; give its folder, which must have config.json as well")
    return GGUFCheckpoint(path)
