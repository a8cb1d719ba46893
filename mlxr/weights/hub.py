"""Models from the Hugging Face hub, by huggingface_hub: its cache, endpoint, token and offline mode."""

import contextlib
import errno
import sys
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors as hub_errors
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from ..errors import DownloadError, MlxrError, ModelNotFound, UnsupportedModel

# What a model needs, all of it at the top of a repository. Nested folders hold other formats of the same weights.
_FILES = ["*.json", "*.jinja", "tokenizer.model", "tiktoken.model", "*.tiktoken", "merges.txt", "vocab.txt"]
_WEIGHTS = ["model*.safetensors"]
_NESTED = ["*/*"]


def fetch(repo, file=None, *, revision=None, progress=None):
    """The path of a repository's model on this disk: its snapshot folder, or a .gguf file in it.

    file: the .gguf file wanted; without it, the repository is a safetensors model or holds exactly one .gguf file.
    progress: a function that says a line, or None to be silent. Raises ModelNotFound, DownloadError, UnsupportedModel.
    """
    with _errors(repo, file, revision), _bars(progress, repo):
        if file:
            return Path(huggingface_hub.hf_hub_download(repo, file, revision=revision))
        folder = _snapshot(repo, revision, _FILES + _WEIGHTS)
        if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
            return _other(repo, revision, folder)
        return folder


def _snapshot(repo, revision, patterns):
    return Path(huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=patterns,
                                                  ignore_patterns=_NESTED))


def _other(repo, revision, folder):
    """What a repository without config.json and model*.safetensors has to offer."""
    names = _listing(repo, revision, folder)
    top = [n for n in names if "/" not in n]
    if "config.json" in top and any(n.endswith(".safetensors") for n in top):
        return _snapshot(repo, revision, [*_FILES, "*.safetensors"])
    ggufs = sorted(n for n in names if n.endswith(".gguf") and "mmproj" not in n.lower())
    if len(ggufs) == 1:
        return Path(huggingface_hub.hf_hub_download(repo, ggufs[0], revision=revision))
    if ggufs:
        raise ModelNotFound(f"{repo} has {len(ggufs)} .gguf files; name one as {repo}:FILE, of: {', '.join(ggufs)}")
    if any(n.endswith((".bin", ".pth", ".pt")) for n in names):
        raise UnsupportedModel(f"{repo} has no safetensors weights, only PyTorch files, which are not read")
    raise ModelNotFound(f"{repo} has no config.json with safetensors weights, and no .gguf file: it is not a model "
                        "that can be run")


def _listing(repo, revision, folder):
    """All file names of a repository; of what is cached, when there is no way to the hub."""
    try:
        return huggingface_hub.HfApi().list_repo_files(repo, revision=revision)
    except hub_errors.OfflineModeIsEnabled:
        names = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
        if not names:
            raise
        return names


@contextlib.contextmanager
def _bars(progress, repo):
    """huggingface_hub's progress bars where they are wanted and stderr is a terminal; else one line, or none."""
    was_off = are_progress_bars_disabled()
    if progress and sys.stderr.isatty():
        yield
        return
    if progress:
        progress(f"looking for {repo} in the cache and on the hub")
    disable_progress_bars()
    try:
        yield
    finally:
        if not was_off:
            enable_progress_bars()


@contextlib.contextmanager
def _errors(repo, file, revision):
    try:
        yield
    except MlxrError:
        raise
    except Exception as e:  # huggingface_hub lets its HTTP library's errors through, which differ by version
        raise _translated(e, repo, file, revision) from e


def _translated(e, repo, file, revision):
    """Our error for one of huggingface_hub's, or of what it is built on."""
    host = huggingface_hub.constants.ENDPOINT
    if isinstance(e, hub_errors.HFValidationError):
        return ModelNotFound(f"{repo!r} is not a valid name of a repository: owner/name is")
    if isinstance(e, hub_errors.GatedRepoError):
        return DownloadError(f"{repo} is gated: accept its terms at {host}/{repo}, then set HF_TOKEN to your token")
    if isinstance(e, hub_errors.RepositoryNotFoundError):
        return ModelNotFound(f"{host} has no repository {repo}, or it is private and HF_TOKEN is not set to a "
                             "token for it")
    if isinstance(e, hub_errors.RevisionNotFoundError):
        return ModelNotFound(f"{repo} has no revision {revision!r}")
    if isinstance(e, (hub_errors.LocalEntryNotFoundError, hub_errors.OfflineModeIsEnabled)):
        cause = e.__cause__
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if huggingface_hub.constants.HF_HUB_OFFLINE:
            why = "HF_HUB_OFFLINE is set"
        else:
            why = f"{host} answered {status}" if status else f"{host} cannot be reached"
        return DownloadError(f"{repo} is not complete in the cache, and {why}: run once with a network, or give a "
                             "model that is here with --model PATH")
    if isinstance(e, hub_errors.EntryNotFoundError):
        return ModelNotFound(f"{repo} has no file {file!r}" if file else f"{repo} lacks a file: {_line(e)}")
    status = getattr(getattr(e, "response", None), "status_code", None)
    if status in (401, 403):
        return DownloadError(f"{host} refused {repo} (status {status}): check the token in HF_TOKEN")
    if isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT):
        return DownloadError(f"no space left for {repo} in {huggingface_hub.constants.HF_HUB_CACHE}: free some, or set "
                             "HF_HOME to a folder on another disk")
    return DownloadError(f"cannot download {repo} from {host}: {_line(e)}")


def _line(e):
    lines = str(e).strip().splitlines()
    return f"{type(e).__name__}: {lines[0]}" if lines else type(e).__name__
