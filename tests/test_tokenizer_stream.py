"""Streaming: the pieces are whole characters and together what decoding at once gives, whatever the ids."""

import functools
import time

import pytest
from helpers.tokenizer_files import MULTILINGUAL, sentencepiece_gguf, sentencepiece_model
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxr.tokenizer import load_tokenizer
from mlxr.tokenizer.stream import BYTE_OF_CHARACTER, byte_fallback_bytes, byte_level_bytes


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf):
    return load_tokenizer(smollm2_gguf)


@pytest.fixture(scope="module")
def spm(tmp_path_factory):
    path = tmp_path_factory.mktemp("spm") / "v.gguf"
    return load_tokenizer(sentencepiece_gguf(path, sentencepiece_model()))


@functools.lru_cache
def single_bytes(tokenizer):
    """Bytes that have a token of their own."""
    found = {tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)}
    return {data[0] for data in found if len(data) == 1}


def streamed(tokenizer, ids, **options):
    stream = tokenizer.stream(**options)
    pieces = [stream.add(token) for token in ids]
    return pieces, stream.finish()


@settings(max_examples=300)
@given(data=st.data(), skip=st.booleans(), continues=st.booleans())
@pytest.mark.parametrize("kind", ["smollm2", "spm"])
def test_pieces_together_are_the_decoded_text(kind, data, skip, continues, request):
    tokenizer = request.getfixturevalue(kind)
    rare = [token for token in range(600) if token < tokenizer.vocab_size]  # special tokens and single bytes come first
    token = st.sampled_from(rare) | st.integers(0, tokenizer.vocab_size - 1)
    ids = data.draw(st.lists(token, max_size=40))
    pieces, rest = streamed(tokenizer, ids, skip_special=skip, continues=continues)
    assert "".join(pieces) + rest == tokenizer.decode(ids, skip_special=skip, continues=continues)


@settings(max_examples=200)
@given(text=st.text(max_size=60))
@pytest.mark.parametrize("kind", ["smollm2", "spm"])
def test_any_text_comes_back(kind, text, request):
    tokenizer = request.getfixturevalue(kind)
    known = single_bytes(tokenizer)  # SmolLM2 lacks some control characters
    text = "".join(character for character in text if known.issuperset(character.encode()))
    ids = tokenizer.encode(text, add_special=False)
    assert tokenizer.decode(ids) == text
    pieces, rest = streamed(tokenizer, ids)
    assert "".join(pieces) == text and rest == ""
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text


def test_a_character_of_several_tokens_comes_out_whole(smollm2):
    ids = smollm2.encode("🏳️‍🌈", add_special=False)
    assert len(ids) > 5
    pieces, rest = streamed(smollm2, ids)
    assert "".join(pieces) == "🏳️‍🌈" and rest == ""
    assert pieces.count("") >= 3 and "\ufffd" not in "".join(pieces)


def test_an_unfinished_character_comes_out_at_the_end(smollm2):
    ids = smollm2.encode("🙃", add_special=False)
    assert len(ids) > 1
    pieces, rest = streamed(smollm2, ids[:-1])
    assert "".join(pieces) == "" and rest == "\ufffd" == smollm2.decode(ids[:-1])


def test_bytes_that_are_never_utf8_come_out_as_they_arrive(spm):
    byte = next(token for token in range(spm.vocab_size) if spm.token_bytes(token) == b"\xff")
    pieces, rest = streamed(spm, [byte] * 100)
    assert "".join(pieces) == "\ufffd" * 100 and rest == ""


def test_special_tokens_are_skipped_or_shown(smollm2):
    ids = smollm2.encode("<|im_start|>a<|im_end|>")
    assert streamed(smollm2, ids)[0] == ["<|im_start|>", "a", "<|im_end|>"]
    assert streamed(smollm2, ids, skip_special=True)[0] == ["", "a", ""]


def test_the_leading_space_is_dropped_once(spm):
    ids = spm.encode("<s>", add_special=False) + spm.encode("the the", add_special=False)
    assert spm.decode(ids, skip_special=True) == "the the"
    assert "".join(streamed(spm, ids, skip_special=True)[0]) == "the the"
    assert spm.decode(ids) == "<s> the the"


def test_unknown_ids_add_nothing(smollm2):
    assert smollm2.decode([49152, 60000, -1]) == "" and smollm2.token_bytes(49152) == b""


def test_time_does_not_grow_with_the_text(smollm2):
    ids = smollm2.encode(MULTILINGUAL * 50)
    stream, times = smollm2.stream(), []
    for start in range(0, 9000, 3000):
        began = time.thread_time()
        for token in ids[start : start + 3000]:
            stream.add(token)
        times.append(time.thread_time() - began)
    assert sum(times) < 1.0  # 9,000 tokens; decoding everything again at each would take minutes
    assert times[2] < 10 * times[1] + 0.01


def test_byte_alphabet_is_the_libraries():
    from tokenizers.pre_tokenizers import ByteLevel

    assert set(BYTE_OF_CHARACTER) == set(ByteLevel.alphabet())
    assert sorted(BYTE_OF_CHARACTER.values()) == list(range(256))
    assert byte_level_bytes("Ġa") == b" a" and byte_level_bytes("｜▁") == "｜▁".encode()
    assert byte_fallback_bytes("<0xE2>") == b"\xe2" and byte_fallback_bytes("<0xZZ>") == b"<0xZZ>"
