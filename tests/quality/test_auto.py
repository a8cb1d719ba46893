"""Stored results and `kv="auto"`: what a model is known by, which format is taken, and what is said."""

import os
import shutil

import pytest

from mlxr import __version__
from mlxr.config import EngineConfig
from mlxr.errors import ConfigError
from mlxr.quality import auto, store


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MLXR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def model(tmp_path):
    """A file that is found like a model; nobody reads more than its bytes here."""
    path = tmp_path / "some.gguf"
    path.write_bytes(b"GGUF" + os.urandom(3 << 20))
    return path


def report(*rows, text="one", checks=(), page_size=64):
    """A report as far as the store reads it. rows: (format, bits, verdict)."""
    return {"model": "some.gguf", "version": __version__, "page_size": page_size, "dtype": "float32", "time": "2026-01-02T03:04:05+00:00",
            "text": {"name": text, "digest": text, "tokens": 9}, "formats": {f: v for f, _, v in rows}, "checks": list(checks),
            "rows": [{"format": f, "bits": b, "mode": m, "windows": 4, "verdict": v} for f, b, v in rows
                     for m in ("in-forward", "snapshot")]}


def test_a_model_is_known_by_what_it_holds(model, tmp_path):
    key = store.identity(model)
    moved = shutil.copy(model, tmp_path / "other.gguf")
    assert store.identity(tmp_path / "other.gguf") == key
    data = bytearray(model.read_bytes())
    for place in (0, -1):                                    # its header, and its last weights
        changed = bytearray(data)
        changed[place] ^= 1
        (tmp_path / "changed.gguf").write_bytes(changed)
        assert store.identity(tmp_path / "changed.gguf") != key
    (tmp_path / "short.gguf").write_bytes(data[:-1])
    assert store.identity(tmp_path / "short.gguf") != key and moved


def test_a_folder_is_known_by_its_config_and_weights(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(bytes(100))
    key = store.identity(tmp_path)
    (tmp_path / "README.md").write_text("what it is")
    assert store.identity(tmp_path) == key
    (tmp_path / "config.json").write_text('{"rope_theta": 1}')
    assert store.identity(tmp_path) != key


def test_results_are_kept_and_replaced(home):
    assert store.load("m") == []
    store.save("m", report(("q8", 8.5, "ACCEPT"), ("q4", 4.4, "REJECT")))
    store.save("m", report(("q4", 4.4, "ACCEPT")))
    assert {(r["format"], r["verdict"]) for r in store.load("m")} == {("q8", "ACCEPT"), ("q4", "ACCEPT")}
    store.save("m", report(("q4", 4.4, "MARGINAL"), text="two"))
    assert len(store.load("m")) == 3 and store.load("other") == []
    (home / "validation" / "m.json").write_text("{broken")
    assert store.load("m") == []


def test_the_smallest_accepted(home):
    store.save("m", report(("q8", 8.5, "ACCEPT"), ("q4", 4.4, "ACCEPT"), ("a4", 4.6, "MARGINAL")))
    assert store.smallest_accepted(store.load("m"), 64)["format"] == "q4"
    assert store.smallest_accepted(store.load("m"), 32) is None           # other pages, other scales
    store.save("m", report(("q4", 4.4, "MARGINAL"), text="two"))          # one text against it is enough
    assert store.smallest_accepted(store.load("m"), 64)["format"] == "q8"
    store.save("m", report(("q8", 8.5, "ACCEPT"), text="three", checks=[{"format": "q8", "check": "x", "ok": False}]))
    assert store.smallest_accepted(store.load("m"), 64) is None


def test_results_of_other_versions_do_not_count(home, monkeypatch):
    store.save("m", report(("q8", 8.5, "ACCEPT")))
    monkeypatch.setattr(store._version, "__version__", "0.0.0")
    assert store.load("m") == []


def test_auto_takes_what_was_accepted(home, model):
    said = []
    store.save(store.identity(model), report(("q8", 8.5, "ACCEPT"), ("q4", 4.375, "ACCEPT")))
    config = auto.resolve(model, EngineConfig(kv="auto"), say=said.append)
    assert config.kv == "q4" and len(said) == 1
    assert said[0] == "kv auto: q4 (4.38 bits), the smallest format that the validation of 2026-01-02 accepted for this model"


def test_auto_without_a_result_is_careful(home, model):
    said = []
    assert auto.resolve(model, EngineConfig(kv="auto"), say=said.append).kv == "q8"
    assert len(said) == 1 and "was not validated" in said[0] and "--kv-auto-validate" in said[0]
    store.save(store.identity(model), report(("q4", 4.375, "REJECT")))
    assert auto.resolve(model, EngineConfig(kv="auto"), say=said.append).kv == "q8" and "no smaller format was accepted" in said[1]


def test_other_formats_are_left_alone(model):
    config = EngineConfig(kv="q8")
    assert auto.resolve(model, config) is config
    with pytest.raises(ConfigError, match="with kv 'auto' alone, not with 'q8'"):
        auto.resolve(model, config, may_validate=True)


@pytest.mark.slow
def test_auto_measures_where_it_may(home, smollm2_gguf, monkeypatch):
    """The real model: the smallest formats are tried first, what was found is kept, and the next start finds it."""
    monkeypatch.setattr(auto.formats, "quantized", lambda page_size: ["q8"])       # one format: a minute, not ten
    said = []
    config = auto.resolve(smollm2_gguf, EngineConfig(kv="auto"), may_validate=True, say=said.append)
    assert config.kv == "q8" and "measuring q8" in said[0] and "a quick validation accepted now" in said[1]
    again = []
    assert auto.resolve(smollm2_gguf, EngineConfig(kv="auto"), say=again.append).kv == "q8"
    assert len(again) == 1 and "8.50 bits" in again[0]
