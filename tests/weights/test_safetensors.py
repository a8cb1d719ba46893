"""Folders of safetensors: what is read, and what is refused in one line."""

import json
import math
import struct

import mlxr  # noqa: F401  (first: it decides which BLAS MLX uses)
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from mlxr.errors import MlxrError, ModelNotFound, WeightsError
from mlxr.weights.checkpoint import open_checkpoint
from mlxr.weights.safetensors import _DTYPES, read_header

INDEX = "model.safetensors.index.json"


def folder_with(path, config=None, **files):
    """A model folder: config.json, and files by name (dicts of arrays become safetensors, others JSON)."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config or {"model_type": "llama"}))
    for name, content in files.items():
        save_file(content, path / f"{name}.safetensors")
    return path


def raw_file(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(dtype="F32", shape=(2,), at=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(at)}


def test_a_single_file(tmp_path):
    arrays = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float16)}
    checkpoint = open_checkpoint(folder_with(tmp_path / "m", model=arrays))
    assert checkpoint.kind == "safetensors" and set(checkpoint.names()) == {"a.weight", "b"}
    t = checkpoint.tensor("a.weight")
    assert (t.shape, t.type, t.nbytes) == ((2, 3), "F32", 24)
    assert np.array_equal(checkpoint.raw("a.weight").view(np.float32), arrays["a.weight"].ravel())
    assert checkpoint.nbytes == 32


def test_shards_of_an_index(tmp_path):
    one, two = {"a": np.ones(2, np.float32)}, {"b": np.zeros(3, np.float32), "c": np.ones(1, np.float32)}
    m = folder_with(tmp_path / "m", **{"model-00001-of-00002": one, "model-00002-of-00002": two},
                    other={"z": np.ones(9)})
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (m / INDEX).write_text(json.dumps({"weight_map": {**names, "c": names["b"]}}))
    checkpoint = open_checkpoint(m)
    assert set(checkpoint.names()) == {"a", "b", "c"}
    assert [f.name for f in checkpoint.files] == sorted(set(names.values()))
    (m / names["b"]).unlink()
    with pytest.raises(WeightsError, match="lacks 1 of 2 weight files, e.g. model-00002-of-00002.safetensors"):
        open_checkpoint(m)


def test_shards_without_an_index(tmp_path):
    shards = {"model-00001-of-00002": {"a": np.ones(2)}, "model-00002-of-00002": {"b": np.ones(2)}}
    m = folder_with(tmp_path / "m", **shards, adapters={"z": np.ones(2)})
    with pytest.raises(WeightsError, match="dtype 'F64'"):
        open_checkpoint(m)
    m = folder_with(tmp_path / "m", **{k: {n: a.astype(np.float32) for n, a in v.items()} for k, v in shards.items()})
    assert set(open_checkpoint(m).names()) == {"a", "b"}
    folder_with(m, **{"model-00003-of-00003": {"a": np.ones(2, np.float32)}})
    with pytest.raises(WeightsError, match="'a' is both in model-00001-of-00002.safetensors and in model-00003"):
        open_checkpoint(m)


@pytest.mark.parametrize("index, match", [
    ({}, "must have a weight_map"),
    ({"weight_map": {}}, "must have a weight_map"),
    ({"weight_map": {"a": 3}}, "must have a weight_map"),
    ({"weight_map": {"a": "../secret.safetensors"}}, "not a .safetensors file of its folder"),
    ({"weight_map": {"a": "/etc/passwd"}}, "not a .safetensors file of its folder"),
    ({"weight_map": {"a": "w.safetensors", "b": "w.safetensors"}}, "places tensor 'b' in w.safetensors"),
])
def test_an_index_that_cannot_be(tmp_path, index, match):
    m = folder_with(tmp_path / "m", w={"a": np.ones(2, np.float32)})
    (m / INDEX).write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=match):
        open_checkpoint(m)


def test_nothing_to_load(tmp_path):
    m = folder_with(tmp_path / "m")
    with pytest.raises(ModelNotFound, match="has no .safetensors file"):
        open_checkpoint(m)
    (m / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelNotFound, match="pytorch_model.bin is of another format"):
        open_checkpoint(m)
    (m / "config.json").unlink()
    folder_with(m, model={"a": np.ones(1, np.float32)})
    (m / "config.json").unlink()
    with pytest.raises(ModelNotFound, match="has no config.json"):
        open_checkpoint(m)
    with pytest.raises(ModelNotFound, match="no file or folder"):
        open_checkpoint(tmp_path / "none")
    with pytest.raises(WeightsError, match="give its folder"):
        open_checkpoint(m / "model.safetensors")


@pytest.mark.parametrize("content, match", [
    (b"{", "not valid JSON"), (b"[]", "must hold a JSON object"), (b"\xff\xfe", "not valid JSON"),
    (b"[" * 100_000, "not valid JSON"), (b"", "not valid JSON")])
def test_a_config_that_cannot_be(tmp_path, content, match):
    m = folder_with(tmp_path / "m", model={"a": np.ones(1, np.float32)})
    (m / "config.json").write_bytes(content)
    with pytest.raises(WeightsError, match=match) as caught:
        open_checkpoint(m)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config, generation, wanted", [
    ({"eos_token_id": 2}, None, [2]),
    ({"eos_token_id": 2}, {"eos_token_id": [7, 2]}, [7, 2]),
    ({"eos_token_id": [2, 3]}, {"eos_token_id": 3}, [3, 2]),
    ({}, {"eos_token_id": 5}, [5]),
    ({"text_config": {"eos_token_id": 4}}, None, [4]),
    ({"eos_token_id": None}, {"temperature": 1.0}, None),
])
def test_end_tokens_are_merged(tmp_path, config, generation, wanted):
    m = folder_with(tmp_path / "m", {"model_type": "llama", **config}, model={"a": np.ones(1, np.float32)})
    if generation is not None:
        (m / "generation_config.json").write_text(json.dumps(generation))
    assert open_checkpoint(m).config.get("eos_token_id") == wanted


def test_config_details(tmp_path):
    config = {"model_type": "llama", "time_step_limit": [0.0, {"__float__": "Infinity"}],
              "text_config": {"quantization_config": {"quant_method": "mxfp4"}}}
    m = folder_with(tmp_path / "m", config, model={"a": np.ones(1, np.float32)})
    got = open_checkpoint(m).config
    assert got["time_step_limit"] == [0.0, math.inf] and got["quantization_config"] == {"quant_method": "mxfp4"}
    (m / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": "</s>"}))
    with pytest.raises(WeightsError, match="eos_token_id must be a token id"):
        open_checkpoint(m)


UNSOUND = {
    "empty": (b"", "has only 0 bytes"),
    "five bytes": (b"12345", "has only 5 bytes"),
    "absurd length": (raw_file({}, length=2**63), "its header would be"),
    "length past the end": (raw_file({}, length=3), "its header would be 3 bytes"),
    "over the format's limit": (raw_file({}, length=200_000_000), "its header would be"),
    "no JSON": (raw_file(b"{nonsense"), "not valid JSON"),
    "not UTF-8": (raw_file(b'{"\xff": 1}'), "not valid JSON"),
    "deep JSON": (raw_file(b"[" * 90_000), "not valid JSON"),
    "a list": (raw_file([]), "is no JSON object"),
    "a name twice": (raw_file(b'{"a": {}, "a": {}}'), "a name is there twice"),
    "entry no object": (raw_file({"a": 3}), "'a' is no object"),
    "no dtype": (raw_file({"a": {"shape": [], "data_offsets": [0, 0]}}), "the dtype None"),
    "unknown dtype": (raw_file({"a": tensor("F6_E3M2")}, bytes(8)), "the dtype 'F6_E3M2'; supported: BOOL"),
    "dtype a list": (raw_file({"a": tensor(["F32"])}, bytes(8)), "has the dtype"),
    "negative shape": (raw_file({"a": tensor(shape=(-2,))}, bytes(8)), "no valid shape"),
    "shape of floats": (raw_file({"a": tensor(shape=(2.0,))}, bytes(8)), "no valid shape"),
    "shape of booleans": (raw_file({"a": tensor(shape=(True,), at=(0, 4))}, bytes(8)), "no valid shape"),
    "huge shape": (raw_file({"a": tensor(shape=(2**40,))}, bytes(8)), "no valid shape"),
    "one offset": (raw_file({"a": tensor(at=(0,))}, bytes(8)), "no valid data_offsets"),
    "negative offset": (raw_file({"a": tensor(at=(-8, 0))}, bytes(8)), "no valid data_offsets"),
    "offsets swapped": (raw_file({"a": tensor(at=(8, 0))}, bytes(8)), "cannot lie in -8 bytes"),
    "wrong size": (raw_file({"a": tensor(shape=(3,))}, bytes(8)), r"cannot lie in 8 bytes"),
    "truncated": (raw_file({"a": tensor()}, bytes(7)), "ends at byte 8 of the data, which has 7"),
    "overlap": (raw_file({"a": tensor(), "b": tensor(at=(4, 12))}, bytes(12)), "'a' and 'b' overlap"),
    "the same bytes": (raw_file({"a": tensor(), "b": tensor()}, bytes(8)), "'a' and 'b' overlap"),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_unsound_files_are_refused(tmp_path, name):
    content, match = UNSOUND[name]
    m = folder_with(tmp_path / "m")
    (m / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=match) as caught:
        open_checkpoint(m)
    assert "\n" not in str(caught.value) and "model.safetensors" in str(caught.value)


@pytest.mark.parametrize("dtype", _DTYPES)
def test_mlx_loads_every_dtype_that_is_let_through(tmp_path, dtype):
    size = _DTYPES[dtype] // 8
    path = tmp_path / "x.safetensors"
    header = {"a": tensor(dtype, (2,), (0, 2 * size)), "__metadata__": {"format": "pt"}}
    path.write_bytes(raw_file(header, bytes(2 * size)))
    assert read_header(path)["a"].nbytes == 2 * size
    array = mx.load(str(path))["a"]
    mx.eval(array)
    assert array.shape == (2,) and array.nbytes == 2 * size


@settings(max_examples=200, deadline=20_000, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(at=st.integers(0, 300), new=st.binary(min_size=1, max_size=6), cut=st.one_of(st.none(), st.integers(0, 400)))
def test_mutated_headers_raise_only_our_errors(tmp_path, at, new, cut):
    content = bytearray(raw_file({"a": tensor(), "b": tensor("F16", (2, 3), (8, 20)),
                                  "c": tensor("U32", (1,), (20, 24)), "__metadata__": {"format": "mlx"}}, bytes(24)))
    content[at:at + len(new)] = new
    path = tmp_path / "f.safetensors"
    path.write_bytes(content if cut is None else content[:cut])
    try:
        header = read_header(path)
    except MlxrError as e:
        assert "\n" not in str(e)
        return
    assert all(t.offset + t.nbytes <= path.stat().st_size for t in header.values())
    try:
        arrays = mx.load(str(path))
    except (RuntimeError, ValueError):
        return  # refused there, which load_model reports as WeightsError
    mx.eval(arrays)
