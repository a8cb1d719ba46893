"""From a name to files: paths, names of repositories, and what is said about the rest."""

import errno
import os
import subprocess
import sys

import pytest

from mlxr.errors import MlxrError, ModelNotFound, WeightsError
from mlxr.weights import locate as locate_module
from mlxr.home import cache_home
from mlxr.weights.locate import ALIASES, DEFAULT, locate, split_repo


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """No test here may reach the user's cache, or the hub."""
    monkeypatch.setenv("MLXR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


def test_paths_that_are_there(tmp_path, monkeypatch):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    file = tmp_path / "x.gguf"
    file.write_bytes(b"GGUF")
    unnamed = tmp_path / "blob"
    unnamed.write_bytes(b"GGUF....")
    assert locate(folder) == folder and locate(str(folder)) == folder
    assert locate(file) == file and locate("x.gguf").resolve() == file and locate(unnamed) == unnamed
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("~/m") == folder


@pytest.mark.parametrize("make, match, kind", [
    (lambda p: p.mkdir(), "has no config.json$", ModelNotFound),
    (lambda p: (p.mkdir(), (p / "a.gguf").touch()), "has no config.json; it has a.gguf: give the path", ModelNotFound),
    (lambda p: p.write_text("hello"), "neither a .gguf file nor a folder", WeightsError),
    (lambda p: os.mkfifo(p), "neither a .gguf file nor a folder", WeightsError),  # must not wait for a writer
    (lambda p: p.write_text(""), "neither a .gguf file nor a folder", WeightsError),
])
def test_paths_that_are_no_model(tmp_path, make, match, kind):
    make(tmp_path / "thing")
    with pytest.raises(kind, match=match):
        locate(tmp_path / "thing")


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    def denied(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "x").write_bytes(b"GGUF")
    monkeypatch.setattr(locate_module, "_first_bytes", denied)
    with pytest.raises(WeightsError, match="cannot read .*x: Permission denied"):
        locate(tmp_path / "x")


def test_one_file_of_a_folder(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(WeightsError, match="is one file of a model; give its folder"):
        locate(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["", "nothing-here", "./no/such", "/no/such/folder", "no/such/thing", "a b/c d",
                                  "x.gguf", "owner/x.gguf", "owner/repo:x.bin", "~nobody-of-that-name/x", "a\0b",
                                  "x" * 5000,
                                  "owner/repo:../x.gguf", "owner/repo//x.gguf"])
def test_names_that_are_nothing(name):
    with pytest.raises(ModelNotFound) as caught:
        locate(name)
    assert "\n" not in str(caught.value)


def test_the_message_names_what_would_do():
    with pytest.raises(ModelNotFound, match=r"a folder with config.json, a .gguf file, .*owner/name.*smollm2-135m"):
        locate("nothing-here")


@pytest.mark.parametrize("name, wanted", [
    ("owner/name", ("owner/name", None)),
    ("mlx-community/Qwen3-0.6B-4bit", ("mlx-community/Qwen3-0.6B-4bit", None)),
    ("o/r:f.gguf", ("o/r", "f.gguf")), ("o/r:sub/f.gguf", ("o/r", "sub/f.gguf")),
    ("o/r/f.gguf", ("o/r", "f.gguf")), ("o/r/sub/f.gguf", ("o/r", "sub/f.gguf")),
    ("o/f.gguf", (None, None)), ("name", (None, None)), ("/o/r", (None, None)), ("o/r/s", (None, None)),
])
def test_names_of_repositories(name, wanted):
    assert split_repo(name) == wanted


def test_cache_home(monkeypatch, tmp_path):
    assert cache_home() == tmp_path / "home"
    monkeypatch.delenv("MLXR_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_home() == tmp_path / ".cache" / "mlxr"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_home() == tmp_path / "xdg" / "mlxr"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_home() == tmp_path / "Library" / "Caches" / "mlxr"


def test_the_default_is_an_alias():
    assert DEFAULT in ALIASES and ALIASES[DEFAULT].file_name.endswith(".gguf")


def test_importing_locate_stays_light():
    heavy = "mlx.core", "numpy", "huggingface_hub", "rich", "gguf", "transformers"
    code = f"import sys, mlxr.weights.locate; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_offline_says_so():
    with pytest.raises(MlxrError) as caught:
        locate("owner/name", progress=False)
    assert "\n" not in str(caught.value) and "owner/name" in str(caught.value)
