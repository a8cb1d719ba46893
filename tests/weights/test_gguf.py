"""GGUF files: what gguf-py reads is what we read, and what is unsound is refused in one line."""

import itertools
import struct
import time

import gguf
import numpy as np
import pytest
from helpers.gguf_files import Tiny, entry, interleave, raw_gguf, text, tiny_weights, write_tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxr.errors import MlxrError, UnsupportedModel, WeightsError
from mlxr.weights.checkpoint import open_checkpoint
from mlxr.weights.gguf import file_rows
from mlxr.weights.gguf_header import Strings, read_header
from mlxr.weights.gguf_models import ARCHITECTURES

U32, STRING, ARRAY = 4, 8, 9
_numbers = itertools.count()
_NASTY = [b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 3, struct.pack("<Q", 2**40), struct.pack("<I", 9)]


def kv(key, kind, payload):
    return text(key) + struct.pack("<I", kind) + payload


def refused(path, content, match, kind=WeightsError):
    path.write_bytes(content)
    with pytest.raises(kind, match=match) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value) and path.name in str(caught.value)


# -- the header ------------------------------------------------------------------------------------------------------

def assert_same_as_gguf_py(path):
    theirs, ours = gguf.GGUFReader(path), read_header(path)
    for key, field in theirs.fields.items():
        if key.startswith("GGUF."):
            continue
        value, wanted = ours.metadata[key], field.contents()
        assert list(value) == wanted if isinstance(value, (Strings, np.ndarray)) else value == wanted
    assert len(ours.metadata) == len(theirs.fields) - 3
    assert list(ours.tensors) == [t.name for t in theirs.tensors]
    for t in theirs.tensors:
        mine = ours.tensors[t.name]
        assert (mine.dims, mine.offset, mine.nbytes) == (tuple(t.shape.tolist()), t.data_offset, t.n_bytes)
        assert mine.type == t.tensor_type.name


def test_header_of_the_real_model(smollm2_gguf):
    assert_same_as_gguf_py(smollm2_gguf)


def test_header_of_every_kind_of_value(tmp_path):
    path = tmp_path / "kinds.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for i, (add, value) in enumerate([
            (writer.add_uint8, 255), (writer.add_int8, -1), (writer.add_uint16, 65535), (writer.add_int16, -2),
            (writer.add_int32, -3), (writer.add_uint64, 2**63), (writer.add_int64, -2**62), (writer.add_float64, 0.1),
            (writer.add_float32, 0.5), (writer.add_bool, True), (writer.add_string, "żółw 🐢"),
            (writer.add_array, ["a", "", "żółw"]), (writer.add_array, [1, 2, 3]), (writer.add_array, [1.5, 2.5])]):
        add(f"test.{i}", value)
    writer.add_tensor("x", np.arange(6, dtype=np.float32).reshape(2, 3))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    assert_same_as_gguf_py(path)


def test_a_big_vocabulary_reads_fast_and_strings_decode_late(smollm2_gguf):
    start = time.thread_time()
    tokens = read_header(smollm2_gguf).metadata["tokenizer.ggml.tokens"]
    assert time.thread_time() - start < 2
    assert isinstance(tokens, Strings) and len(tokens) == 49152
    assert tokens[0] == "<|endoftext|>" and tokens[-1] == tokens[49151]
    assert tokens[1:3] == ["<|im_start|>", "<|im_end|>"]
    with pytest.raises(IndexError):
        tokens[49152]


def test_a_string_that_is_not_utf8(tmp_path):
    path = tmp_path / "bad.gguf"
    strings = struct.pack("<IQ", STRING, 2) + text("fine") + text(b"\xff\xfe")
    path.write_bytes(raw_gguf([kv("a", ARRAY, strings)]))
    value = read_header(path).metadata["a"]
    assert value[0] == "fine" and value.raw(1) == b"\xff\xfe"
    with pytest.raises(WeightsError, match="string 1 of a is not UTF-8"):
        value[1]


HUGE = 2**63
UNSOUND = {
    "empty": (b"", "is empty"),
    "a text file": (b"hello, this is no model" * 4, "begins with b'hell'"),
    "three bytes": (b"GGU", "begins with b'GGU'"),
    "only magic": (b"GGUF", "ends inside the version"),
    "version 1": (raw_gguf(version=1), "version 1; versions 2 and 3"),
    "big-endian": (raw_gguf(version=3 << 24), "big-endian"),
    "absurd tensors": (raw_gguf(n_tensors=HUGE), "number of tensors is"),
    "absurd fields": (raw_gguf(n_fields=HUGE), "number of metadata entries is"),
    "missing fields": (raw_gguf(n_fields=1), "number of metadata entries|ends inside"),
    "absurd key": (raw_gguf([struct.pack("<Q", 2**40) + b"key"]), "a metadata key is"),
    "key past the end": (raw_gguf([struct.pack("<Q", 60000) + b"key"]), "ends inside a metadata key"),
    "key not UTF-8": (raw_gguf([kv(b"\xff", U32, bytes(4))]), "a metadata key is not UTF-8"),
    "key with a line break": (raw_gguf([kv(b"a\nb", U32, bytes(4))]), r"unprintable characters: 'a\\nb'"),
    "long key": (raw_gguf([kv(b"k" * 60000, 77, bytes(4))]), r"kkk\.\.\.$"),
    "tensor with a line break": (raw_gguf(tensors=[entry(b"a\nb")], data=bytes(128)), "a tensor name has unprintable"),
    "same key twice": (raw_gguf([kv("a", U32, bytes(4))] * 2), "'a' is there twice"),
    "unknown value type": (raw_gguf([kv("a", 77, bytes(16))]), "a has the unknown value type 77"),
    "absurd string": (raw_gguf([kv("a", STRING, struct.pack("<Q", HUGE))]), "a is 9223372036854775808 bytes long"),
    "absurd array": (raw_gguf([kv("a", ARRAY, struct.pack("<IQ", U32, HUGE))]), "the length of a is"),
    "absurd strings": (raw_gguf([kv("a", ARRAY, struct.pack("<IQ", STRING, 2**40))]), "the length of a is"),
    "strings past the end": (raw_gguf([kv("a", ARRAY, struct.pack("<IQQQ", STRING, 2, 1000, 0))]), "ends inside a"),
    "array of arrays": (raw_gguf([kv("a", ARRAY, struct.pack("<IQ", ARRAY, 1) + bytes(32))]), "an array of arrays"),
    "array of unknown": (raw_gguf([kv("a", ARRAY, struct.pack("<IQ", 99, 1) + bytes(32))]), "unknown value type 99"),
    "alignment 0": (raw_gguf([kv("general.alignment", U32, bytes(4))]), "alignment is 0"),
    "alignment 2^30": (raw_gguf([kv("general.alignment", U32, struct.pack("<I", 2**30))]), "at most 1048576"),
    "alignment 24": (raw_gguf([kv("general.alignment", U32, struct.pack("<I", 24))]), "alignment is 24"),
    "alignment text": (raw_gguf([kv("general.alignment", STRING, text("x"))]), "alignment is 'x'"),
    "same tensor twice": (raw_gguf(tensors=[entry(), entry()], data=bytes(128)), "'t' is there twice"),
    "no dimensions": (raw_gguf(tensors=[entry(dims=())], data=bytes(128)), "has 0 dimensions"),
    "five dimensions": (raw_gguf(tensors=[entry(dims=(1,) * 5)], data=bytes(128)), "has 5 dimensions"),
    "absurd dimensions": (raw_gguf(tensors=[entry(n_dims=2**31)], data=bytes(128)), "dimensions"),
    "zero dimension": (raw_gguf(tensors=[entry(dims=(32, 0))], data=bytes(128)), "cannot have the shape"),
    "overflowing shape": (raw_gguf(tensors=[entry(dims=(2**32, 2**32))], data=bytes(128)), "cannot have the shape"),
    "odd offset": (raw_gguf(tensors=[entry(offset=8)], data=bytes(256)), "not a multiple of 32"),
    "offset past the end": (raw_gguf(tensors=[entry(offset=2**40)], data=bytes(128)), "truncated"),
    "data cut off": (raw_gguf(tensors=[entry(dims=(64,))], data=bytes(128)), "truncated"),
    "overlap": (raw_gguf(tensors=[entry("a"), entry("b", offset=96), entry("c", dims=(8,), offset=64)],
                         data=bytes(256)), "'a' and 'c' overlap"),
    "part of a block": (raw_gguf(tensors=[entry(dims=(48,), number=3)], data=bytes(128)), "not a multiple of 32"),
    "no architecture": (raw_gguf(), "lacks the metadata key general.architecture"),
    "architecture a number": (raw_gguf([kv("general.architecture", U32, bytes(4))]), "must be a str, it is a int"),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_unsound_files_are_refused(tmp_path, name):
    content, match = UNSOUND[name]
    refused(tmp_path / "bad.gguf", content, match)


def test_no_such_file(tmp_path):
    with pytest.raises(WeightsError, match="cannot read"):
        read_header(tmp_path / "none.gguf")


@pytest.fixture(scope="module")
def tiny_bytes(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    write_tiny(path, Tiny(fields={"tokenizer.ggml.tokens": [f"t{i}" for i in range(128)]}))
    return path.read_bytes()


@pytest.mark.parametrize("part", [0.001, 0.01, 0.03, 0.1, 0.5, 0.99])
def test_truncated_anywhere(tmp_path, tiny_bytes, part):
    refused(tmp_path / "cut.gguf", tiny_bytes[:int(len(tiny_bytes) * part)], "truncated")


@settings(max_examples=150, deadline=20_000, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(changes=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8) | st.sampled_from(_NASTY)),
                        min_size=1, max_size=4),
       cut=st.one_of(st.none(), st.integers(0, 6000)))
def test_mutated_headers_raise_only_our_errors(tmp_path, tiny_bytes, changes, cut):
    content = bytearray(tiny_bytes)
    header = 5500  # the header of this file, and a little more
    for where, new in changes:
        at = int(where * header)
        content[at:at + len(new)] = new
    path = tmp_path / f"fuzz-{next(_numbers)}.gguf"  # a header is kept by path, size and time
    path.write_bytes(content if cut is None else content[:cut])
    try:
        checkpoint = open_checkpoint(path)
        for name in checkpoint.names():
            checkpoint.blocks(name)
    except MlxrError as e:
        assert "\n" not in str(e)
    path.unlink()


# -- the model it describes ------------------------------------------------------------------------------------------

def test_config_of_the_real_model(smollm2_gguf):
    checkpoint = open_checkpoint(smollm2_gguf)
    published = {"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
                 "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49152,
                 "max_position_embeddings": 8192, "rope_theta": 100000.0, "tie_word_embeddings": True,
                 "rope_scaling": None, "eos_token_id": [2], "bos_token_id": 1, "attention_bias": False}
    assert published.items() <= checkpoint.config.items()
    assert checkpoint.config["rms_norm_eps"] == pytest.approx(1e-5)
    assert checkpoint.kind == "gguf" and checkpoint.architecture == "llama"
    assert checkpoint.nbytes == smollm2_gguf.stat().st_size - checkpoint.header.data_offset  # each is a multiple of 32
    assert checkpoint.tensor("model.layers.3.mlp.up_proj.weight").stored_name == "blk.3.ffn_up.weight"


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_blocks_are_the_models_rows(tmp_path, arch, tied):
    path = tmp_path / "tiny.gguf"
    held = write_tiny(path, Tiny(arch=arch, tied=tied))
    checkpoint = open_checkpoint(path)
    assert checkpoint.config["tie_word_embeddings"] is tied
    assert set(checkpoint.names()) == set(held)
    for name, w in held.items():
        got = checkpoint.block_type(name).dequantize(checkpoint.blocks(name)).reshape(w.shape)
        assert np.array_equal(got, w), name
        assert checkpoint.tensor(name).shape == w.shape
    some = "model.layers.0.self_attn.q_proj.weight"
    assert np.array_equal(checkpoint.blocks(some)[3:9], checkpoint.blocks(some, 3, 9))


def test_interleaved_biases_are_put_back(tmp_path):
    held = write_tiny(tmp_path / "b.gguf", Tiny(attention_bias=True))
    checkpoint = open_checkpoint(tmp_path / "b.gguf")
    assert checkpoint.config["attention_bias"] is True
    for proj in ("q_proj", "k_proj", "v_proj", "o_proj"):
        name = f"model.layers.1.self_attn.{proj}.bias"
        assert np.array_equal(checkpoint.block_type(name).dequantize(checkpoint.blocks(name))[0], held[name])


@pytest.mark.parametrize("heads, size", [(1, 2), (3, 64), (9, 64), (4, 80)])
def test_file_rows_undo_the_conversion(heads, size):
    rows = np.arange(heads * size)
    assert np.array_equal(interleave(rows, heads)[file_rows(len(rows), heads)], rows)


def test_raw_is_a_view_and_release_keeps_the_data(tmp_path):
    write_tiny(tmp_path / "t.gguf")
    checkpoint = open_checkpoint(tmp_path / "t.gguf")
    raw = checkpoint.raw("model.embed_tokens.weight")
    assert raw.dtype == np.uint8 and not raw.flags.owndata and not raw.flags.writeable
    before = raw.copy()
    checkpoint.release()
    assert np.array_equal(raw, before)
    with pytest.raises(WeightsError, match="has no tensor 'nothing'"):
        checkpoint.raw("nothing")


def test_end_tokens_are_all_there(tmp_path):
    write_tiny(tmp_path / "t.gguf", Tiny(fields={"tokenizer.ggml.eot_token_id": 9, "tokenizer.ggml.eom_token_id": 2}))
    assert open_checkpoint(tmp_path / "t.gguf").config["eos_token_id"] == [2, 9]


@pytest.mark.parametrize("fields, wanted", [
    ({}, None),
    ({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, None),
    ({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, {"type": "linear", "rope_type": "linear", "factor": 4.0}),
    ({"rope.scale_linear": 2.0}, {"type": "linear", "rope_type": "linear", "factor": 2.0}),
    ({"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64},
     {"type": "yarn", "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 32.0,
      "beta_slow": 1.0}),
])
def test_rope_scaling(tmp_path, fields, wanted):
    write_tiny(tmp_path / "t.gguf", Tiny(fields={f"llama.{k}": v for k, v in fields.items()}))
    assert open_checkpoint(tmp_path / "t.gguf").config["rope_scaling"] == wanted


def test_llama3_factors(tmp_path):
    factors = np.array([1, 1, 1, 1.5, 2, 8, 8, 8], np.float32)
    write_tiny(tmp_path / "t.gguf", Tiny(rope_factors=factors))
    checkpoint = open_checkpoint(tmp_path / "t.gguf")
    assert {"rope_type": "llama3", "factor": 8.0}.items() <= checkpoint.config["rope_scaling"].items()
    assert np.array_equal(checkpoint.rope_factors(), factors)
    assert "rope_freqs.weight" not in checkpoint.names()
    write_tiny(tmp_path / "bad.gguf", Tiny(rope_factors=-factors))
    with pytest.raises(WeightsError, match="positive"):
        open_checkpoint(tmp_path / "bad.gguf")


@pytest.mark.parametrize("fields, match", [
    ({"llama.block_count": 3}, "block_count is 3, but there are tensors of 2 layers"),
    ({"llama.block_count": 0}, "block_count cannot be 0"),
    ({"llama.block_count": None}, "lacks the metadata key llama.block_count"),
    ({"llama.embedding_length": "64"}, "must be a int, it is a str"),
    ({"llama.attention.head_count": 3}, "has no 3 heads of an even size|cannot share"),
    ({"llama.attention.key_length": None, "llama.attention.head_count": 5}, "no multiple of 5 heads"),
    ({"llama.attention.key_length": 15}, "head size 15 is odd"),
    ({"llama.attention.layer_norm_rms_epsilon": None}, "lacks the metadata key llama.attention.layer_norm_rms_epsilon"),
    ({"llama.rope.freq_base": float("inf")}, "freq_base cannot be inf"),
    ({"llama.feed_forward_length": 2**31}, "cannot be 2147483648"),
])
def test_metadata_that_cannot_be(tmp_path, fields, match):
    write_tiny(tmp_path / "t.gguf", Tiny(fields=fields))
    with pytest.raises(WeightsError, match=match):
        open_checkpoint(tmp_path / "t.gguf")


@pytest.mark.parametrize("tiny, match", [
    (Tiny(arch="qwen3", fields={"qwen3.expert_count": 8}), "expert_count 8 is not supported"),
    (Tiny(arch="granite", fields={"granite.logit_scale": 1.0, "granite.rope.scaling.type": "longrope",
                                  "granite.rope.scaling.factor": 4.0}), "'longrope' is not supported"),
    (Tiny(arch="gemma2", fields={"gemma2.rope.scaling.type": "linear", "gemma2.rope.scaling.factor": 4.0}),
     r"rope scaling 'linear' \(known for it: none\)"),
    (Tiny(arch="qwen2", head_dim=32), "heads of 32, which is not embedding_length / head_count"),
    (Tiny(arch="deepseek2", fields={"deepseek2.rope.dimension_count": 8, "deepseek2.attention.value_length": 16,
                                    "deepseek2.expert_gating_func": 2}), "other scores than softmax"),
    (Tiny(fields={"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 4.0}),
     "'longrope' is not supported"),
    (Tiny(fields={"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0,
                  "llama.rope.scaling.yarn_ext_factor": 0.5}), "yarn_ext_factor other than 1"),
    (Tiny(fields={"llama.rope.dimension_count": 8}), "different sizes of key, value and rope"),
])
def test_variants_that_are_not_supported(tmp_path, tiny, match):
    write_tiny(tmp_path / "t.gguf", tiny)
    with pytest.raises(UnsupportedModel, match=match):
        open_checkpoint(tmp_path / "t.gguf")


def test_unknown_architecture_names_the_known(tmp_path):
    path = tmp_path / "t.gguf"
    path.write_bytes(raw_gguf([kv("general.architecture", STRING, text("rwkv9"))]))
    with pytest.raises(UnsupportedModel, match=f"'rwkv9' is not supported; supported: {', '.join(ARCHITECTURES)}"):
        open_checkpoint(path)


def relabelled(content, name, change):
    """A file's bytes with one tensor's name replaced by one of the same length."""
    assert content.count(name) == 1 and len(name) == len(change)
    return content.replace(name, change)


def test_unknown_tensor_and_unknown_type(tmp_path, tiny_bytes):
    path = tmp_path / "t.gguf"
    path.write_bytes(relabelled(tiny_bytes, b"blk.1.ffn_gate.weight", b"blk.1.ffn_gatX.weight"))
    with pytest.raises(UnsupportedModel, match="'blk.1.ffn_gatX.weight' is not part of a llama model"):
        open_checkpoint(path)
    name = b"blk.1.ffn_gate.weight"
    at = tiny_bytes.index(name) + len(name) + 4 + 16
    for number, called in ((2**20, "number 1048576"), (28, "F64")):
        path.write_bytes(tiny_bytes[:at] + struct.pack("<I", number) + tiny_bytes[at + 4:])
        with pytest.raises(WeightsError, match=f"has type {called}, which is not supported; supported: BF16, F16, F32"):
            open_checkpoint(path)
        assert read_header(path).tensors["blk.1.ffn_gate.weight"].nbytes == 0  # the rest of the file can be read


def test_a_packed_bias_of_interleaved_heads(tmp_path):
    write_tiny(tmp_path / "t.gguf", Tiny(attention_bias=True))
    content, name = (tmp_path / "t.gguf").read_bytes(), b"blk.1.attn_q.bias"
    at = content.index(name) + len(name) + 4 + 8
    (tmp_path / "bad.gguf").write_bytes(content[:at] + struct.pack("<I", 8) + content[at + 4:])
    with pytest.raises(WeightsError, match="the bias 'blk.1.attn_q.bias' is of type Q8_0; plain floats are read"):
        open_checkpoint(tmp_path / "bad.gguf")


def test_tiny_weights_differ_by_seed():
    a, b = tiny_weights(Tiny()), tiny_weights(Tiny(seed=1))
    assert not np.array_equal(a["model.norm.weight"], b["model.norm.weight"])
