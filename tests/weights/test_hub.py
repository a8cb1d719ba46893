"""Downloads from a hub: only what is needed, the token, offline, and each refusal in one line.

huggingface_hub reads its settings when it is imported, so every download runs in a process of its own.
"""

import json
import os
import subprocess
import sys

import pytest
from fake_hub import COMMIT, FakeHub

from mlxr.errors import DownloadError, ModelNotFound, UnsupportedModel

MODEL = {"config.json": b'{"model_type": "llama"}', "generation_config.json": b'{"a": 1}', "tokenizer.json": b"{}",
         "tokenizer_config.json": b'{"b": 2}', "chat_template.jinja": b"{{ 1 }}", "tokenizer.model": b"spm",
         "model-00001-of-00002.safetensors": b"one", "model-00002-of-00002.safetensors": b"two",
         "model.safetensors.index.json": b'{"c": 3}'}  # contents differ: equal ones are downloaded once
CLUTTER = {"README.md": b"# hello", "pytorch_model.bin": b"x" * 1000, "consolidated.safetensors": b"x" * 1000,
           "onnx/model.onnx": b"x", "onnx/config.json": b"{}", "original/params.json": b"{}",
           "original/model.safetensors": b"x", "image.png": b"x", ".gitattributes": b"x",
           "modeling_evil.py": b"import os"}
REPOS = {
    "owner/model": {**MODEL, **CLUTTER},
    "owner/gated": MODEL, "owner/private": MODEL,
    "owner/odd-name": {"config.json": b"{}", "weights.safetensors": b"w", "tokenizer.json": b"{}"},
    "owner/one-gguf": {"README.md": b"x", "a-Q4_1.gguf": b"GGUF-a", "mmproj-a.gguf": b"GGUF-m", "config.json": b"{}"},
    "owner/two-ggufs": {"a-Q4_1.gguf": b"GGUF-4", "sub/a-Q8_0.gguf": b"GGUF-8"},
    "owner/torch": {"config.json": b"{}", "pytorch_model.bin": b"x"},
    "owner/nothing": {"README.md": b"x"},
}
CODE = """
import json, sys
from mlxr.errors import MlxrError
from mlxr.weights.locate import locate
try:
    path = locate(sys.argv[1], revision=sys.argv[2] or None, progress=sys.argv[3] == "1")
    print(json.dumps({"path": str(path)}))
except MlxrError as e:
    print(json.dumps({"error": type(e).__name__, "message": str(e)}))
"""


@pytest.fixture(scope="module")
def hub():
    server = FakeHub(REPOS, gated=("owner/gated",), private=("owner/private",))
    yield server
    server.close()


@pytest.fixture
def ask(hub, tmp_path):
    """ask(model, revision="", progress=False, **environment) -> what locate did, with the process's stderr."""
    hub.requests.clear()
    hub.broken = None
    base = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "HTTP", "http", "ALL_PROXY"))}
    base |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1",
             "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1", "MLXR_HOME": str(tmp_path / "home")}

    def run(model, revision="", progress=False, **environment):
        done = subprocess.run([sys.executable, "-c", CODE, model, revision, "1" if progress else "0"], text=True,
                              capture_output=True, timeout=60, env={**base, **environment}, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        out = json.loads(done.stdout)
        assert "\n" not in out.get("message", "") and "Traceback" not in done.stderr
        return {**out, "stderr": done.stderr}
    return run


def inside(folder):
    return sorted(os.path.relpath(os.path.join(root, name), folder)
                  for root, _, names in os.walk(folder) for name in names)


def test_only_what_is_needed_and_then_offline(hub, ask):
    got = ask("owner/model")
    assert inside(got["path"]) == sorted(MODEL) == hub.downloaded()
    assert COMMIT in got["path"]
    assert all(token is None for _, _, token in hub.requests)
    assert got["stderr"] == ""
    hub.requests.clear()
    assert ask("owner/model")["path"] == got["path"] and hub.downloaded() == []
    hub.requests.clear()
    assert ask("owner/model", HF_HUB_OFFLINE="1")["path"] == got["path"] and hub.requests == []
    assert ask("owner/model", HF_ENDPOINT="http://127.0.0.1:9")["path"] == got["path"]


def test_the_token_arrives(hub, ask):
    assert ask("owner/private", HF_TOKEN="hf_right")["path"]
    assert {token for _, path, token in hub.requests if "private" in path} == {"Bearer hf_right"}


def test_one_line_on_stderr(ask):
    assert ask("owner/one-gguf", progress=True)["stderr"].strip().splitlines() == [
        "looking for owner/one-gguf in the cache and on the hub"]


def test_weights_of_another_name(hub, ask):
    assert inside(ask("owner/odd-name")["path"]) == ["config.json", "tokenizer.json", "weights.safetensors"]


@pytest.mark.parametrize("name, file", [
    ("owner/one-gguf", "a-Q4_1.gguf"), ("owner/two-ggufs:a-Q4_1.gguf", "a-Q4_1.gguf"),
    ("owner/two-ggufs/a-Q4_1.gguf", "a-Q4_1.gguf"), ("owner/two-ggufs:sub/a-Q8_0.gguf", "sub/a-Q8_0.gguf")])
def test_a_gguf_file(hub, ask, name, file):
    got = ask(name)
    assert got["path"].endswith("/" + file)
    assert [f for f in hub.downloaded() if f.endswith(".gguf")] == [file]
    assert ask(name, HF_HUB_OFFLINE="1")["path"] == got["path"]


@pytest.mark.parametrize("name, revision, kind, said", [
    ("owner/two-ggufs", "", ModelNotFound,
     "has 2 .gguf files; name one as owner/two-ggufs:FILE, of: a-Q4_1.gguf, sub/a-Q8_0.gguf"),
    ("owner/two-ggufs:b.gguf", "", ModelNotFound, "owner/two-ggufs has no file 'b.gguf'"),
    ("owner/torch", "", UnsupportedModel, "only PyTorch files"),
    ("owner/nothing", "", ModelNotFound, "no config.json with safetensors weights, and no .gguf file"),
    ("owner/absent", "", ModelNotFound, "has no repository owner/absent, or it is private and HF_TOKEN"),
    ("owner/private", "", ModelNotFound, "HF_TOKEN"),
    ("owner/gated", "", DownloadError, "owner/gated is gated: accept its terms at http"),
    ("owner/model", "no-such-branch", ModelNotFound, "owner/model has no revision 'no-such-branch'"),
    ("owner/bad--name", "", ModelNotFound, "not a valid name of a repository"),
])
def test_refusals(ask, name, revision, kind, said):
    got = ask(name, revision)
    assert got.get("error") == kind.__name__ and said in got["message"]


def test_offline_and_unreachable(ask):
    got = ask("owner/model", HF_HUB_OFFLINE="1")
    assert got["error"] == "DownloadError" and "HF_HUB_OFFLINE is set" in got["message"]
    assert "--model PATH" in got["message"]
    got = ask("owner/model", HF_ENDPOINT="http://127.0.0.1:9")
    assert got["error"] == "DownloadError" and "http://127.0.0.1:9 cannot be reached" in got["message"]
    got = ask("owner/two-ggufs:a-Q4_1.gguf", HF_HUB_OFFLINE="1")
    assert got["error"] == "DownloadError" and "HF_HUB_OFFLINE is set" in got["message"]


def test_a_broken_hub(hub, ask):
    hub.broken = 401
    assert "hf_wrong" not in (got := ask("owner/model", HF_TOKEN="hf_wrong"))["message"]
    assert got["error"] in ("DownloadError", "ModelNotFound") and "HF_TOKEN" in got["message"]


def test_no_space(hub, ask, tmp_path):
    got = subprocess.run([sys.executable, "-c", """
import errno, huggingface_hub
from mlxr.errors import DownloadError
def full(*a, **k): raise OSError(errno.ENOSPC, "No space left on device")
huggingface_hub.snapshot_download = full
from mlxr.weights.locate import locate
try: locate("owner/model", progress=False)
except DownloadError as e: print(e)
"""], capture_output=True, text=True, timeout=60, env={**os.environ, "HF_HOME": str(tmp_path)})
    assert got.stdout.startswith("no space left for owner/model in ") and got.stdout.count("\n") == 1
