"""Vocabularies of GGUF files, id by id against llama.cpp and against the sentencepiece library."""

import contextlib
import ctypes
import os
import random
import time
import unicodedata

import pytest
import sentencepiece
from helpers.tokenizer_files import (
    MULTILINGUAL, gemma4_gguf, merging_everything, sentencepiece_gguf, sentencepiece_model, write_vocabulary,
)

from mlxr.errors import TokenizerError
from mlxr.tokenizer import load_tokenizer
from mlxr.tokenizer.pretokenizers import PRE_TOKENIZERS, pre_tokenizer
from mlxr.tokenizer.stream import byte_level_bytes
from mlxr.tokenizer.vocab import END_OF_FILE, END_OF_TURN

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is the peer in these tests")


class Peer:
    """llama.cpp's tokenizer of the same file."""

    def __init__(self, path):
        with open(os.devnull, "w") as sink, contextlib.redirect_stderr(sink):
            self.llama = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
        self.vocab = llama_cpp.llama_model_get_vocab(self.llama._model.model)

    def encode(self, text, add_special=False):
        return self.llama.tokenize(text.encode(), add_bos=add_special, special=True)

    def ends(self, size):
        return {token for token in range(size) if llama_cpp.llama_vocab_is_eog(self.vocab, token)}

    def piece(self, token):
        buffer = ctypes.create_string_buffer(256)
        count = llama_cpp.llama_token_to_piece(self.vocab, token, buffer, 256, 0, True)
        return bytes(buffer[:count])


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf):
    return load_tokenizer(smollm2_gguf)


@pytest.fixture(scope="module")
def peer(smollm2_gguf):
    return Peer(smollm2_gguf)


@pytest.mark.parametrize("text", [
    MULTILINGUAL, "", " ", "   ", "\n", "a", " a", "\u0301", "😀", "<|im_start|>user\nHi<|im_end|>\n",
    "<|im_end|><|im_end|>", "<|im_", "0123456789" * 20, "\t" * 100 + "x", " " * 1000, "a" * 2000, "é" * 500,
    "中" * 300, "\x00\x01\x02",
], ids=lambda text: ascii(text)[:20])
def test_smollm2_ids_are_llama_cpps(smollm2, peer, text):
    ids = smollm2.encode(text, add_special=False)
    assert ids == peer.encode(text)
    assert smollm2.decode(ids) == text


def test_smollm2_real_text(smollm2, peer, wikitext):
    text = wikitext[:60_000]
    ids = smollm2.encode(text)
    assert ids == peer.encode(text) and smollm2.decode(ids) == text


def test_smollm2_end_tokens_and_pieces_are_llama_cpps(smollm2, peer):
    assert smollm2.eos_ids == peer.ends(smollm2.vocab_size) == {0, 2, 4}
    assert smollm2.bos_id == 1 and smollm2.vocab_size == 49152
    assert [token for token in range(smollm2.vocab_size) if smollm2.token_bytes(token) != peer.piece(token)] == []


def test_loading_is_quick(smollm2_gguf):
    """Seconds would mean that something reads the vocabulary in a slow way; it takes about 0.1."""
    times = []
    for _ in range(3):
        start = time.thread_time()
        load_tokenizer(smollm2_gguf)
        times.append(time.thread_time() - start)
    assert min(times) < 1.0


# Here llama.cpp knows the case of ASCII letters alone, where the models' own expressions mean every letter.
CASE_APPROXIMATED = {"tekken", "gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2", "kimi-k2"}


def without_cased_letters(text):
    cased = ("Ll", "Lu", "Lt", "Lm", "Mn", "Mc")
    return "".join(x for x in text if x.isascii() or unicodedata.category(x) not in cased)


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_pre_tokenizers_split_as_llama_cpp_does(name, tmp_path):
    parts = merging_everything(MULTILINGUAL)
    bos = parts["tokens"].index("<s>")
    path = write_vocabulary(tmp_path / "v.gguf", "gpt2", **parts, pre=name, bos_token_id=bos, eos_token_id=bos + 1)
    ours, theirs = load_tokenizer(path), Peer(path)
    text = without_cased_letters(MULTILINGUAL) if name in CASE_APPROXIMATED else MULTILINGUAL
    assert ours.encode(text, add_special=False) == theirs.encode(text)
    adds_bos = bool(llama_cpp.llama_vocab_get_add_bos(theirs.vocab))
    assert (ours.encode("x")[0] == bos) == adds_bos


# What the architectures of mlxr/weights/gguf_models.py come with.
OURS = ["default", "llama-bpe", "gpt-2", "smollm", "starcoder", "refact", "qwen2", "deepseek-llm", "deepseek-coder",
        "deepseek-v3", "tekken", "gpt-4o", "olmo", "granite-docling", "dbrx", "smaug-bpe", "stablelm2"]
# Here llama.cpp takes only ASCII spaces for white space, where the models' own expressions mean all of Unicode's.
SPACE_APPROXIMATED = {"deepseek-llm", "deepseek-coder"}
_POOLS = ["abcXYZ", "éÀßſ", "русТЕК", "中日字々", "ひらカナ한국", "العربية", "١٢३४५", "0123456789", "  \t\u00a0\u3000\u200b",
          "\n\r\x0b\x0c\u0085\u2028", "'’\"!?.,;:-_/\\()[]{}<>@#$%^&*+=|~`", "\u0301\u0308\u093f\u0e31", "😀👩‍👩‍👧🇳🇴❤️",
          "'s'LL't", " the and in", "²½Ⅷ", "\x00\x01\x7f\ufffd\ufeff"]


def random_texts(count, seed=1):
    """Short runs from several scripts, digits, spaces, signs, marks and emoji, next to each other in any order."""
    r = random.Random(seed)
    return ["".join("".join(r.choice(pool) for _ in range(r.randint(1, 5))) for pool in r.choices(_POOLS, k=r.randint(1, 12)))
            for _ in range(count)]


@pytest.mark.parametrize("name", OURS)
def test_random_texts_are_split_as_llama_cpp_does(name, tmp_path):
    path = write_vocabulary(tmp_path / "v.gguf", "gpt2", **merging_everything(MULTILINGUAL), pre=name)
    ours, theirs = load_tokenizer(path), Peer(path)
    for text in random_texts(300):
        if name in CASE_APPROXIMATED:
            text = without_cased_letters(text)
        if name in SPACE_APPROXIMATED:
            text = "".join(x for x in text if x.isascii() or not x.isspace())
        ids = ours.encode(text, add_special=False)
        assert ids == theirs.encode(text), ascii(text)
        assert ours.decode(ids) == text


@pytest.mark.parametrize("add_space_prefix", [True, False])
def test_random_texts_in_sentencepiece_are_llama_cpps(tmp_path, add_space_prefix):
    path = sentencepiece_gguf(tmp_path / "v.gguf", sentencepiece_model(), add_space_prefix=add_space_prefix)
    ours, theirs = load_tokenizer(path), Peer(path)
    for text in random_texts(300):
        assert ours.encode(text, add_special=False) == theirs.encode(text), ascii(text)


def test_pre_tokenizers_differ(tmp_path):
    """So the test above can tell one from the other, but for two pairs that this text does not part."""
    parts, results = merging_everything(MULTILINGUAL), set()
    for name in PRE_TOKENIZERS:
        ours = load_tokenizer(write_vocabulary(tmp_path / "v.gguf", "gpt2", **parts, pre=name))
        results.add(tuple(ours.encode(MULTILINGUAL)))
    assert len(results) == len({pre.patterns for pre in PRE_TOKENIZERS.values()}) - 2


@pytest.mark.parametrize("name", sorted(CASE_APPROXIMATED))
def test_words_split_where_any_letters_case_changes(name):
    pieces = pre_tokenizer(name).build().pre_tokenize_str("словоТекст ÀÉcole camelCase")
    words = [byte_level_bytes(piece).decode() for piece, _ in pieces]
    assert words == ["слово", "Текст", " ÀÉcole", " camel", "Case"]


def tiny_bpe(path, **keys):
    """Bytes, a few merges, two control tokens and one user-defined token."""
    alphabet = [chr(0x21 + index) for index in range(94)] + ["Ġ", "Ċ", "Ã", "©"]
    tokens = [*alphabet, "he", "ll", "hell", "hello", "<s>", "</s>", "<tool>"]
    types = [1] * (len(tokens) - 3) + [3, 3, 4]
    options = {"pre": "gpt-2", "bos_token_id": tokens.index("<s>"), "eos_token_id": tokens.index("</s>"), **keys}
    merges = ["h e", "l l", "he ll", "hell o"]
    return write_vocabulary(path, "gpt2", tokens, types=types, merges=merges, **options), tokens


@pytest.mark.parametrize("add_bos", [True, False, None])
@pytest.mark.parametrize("add_eos", [True, False, None])
def test_flags_say_what_is_added(tmp_path, add_bos, add_eos):
    flags = {"add_bos_token": add_bos, "add_eos_token": add_eos}
    keys = {name: value for name, value in flags.items() if value is not None}
    path, tokens = tiny_bpe(tmp_path / "v.gguf", **keys)
    ours = load_tokenizer(path)
    hello, bos, eos = (tokens.index(text) for text in ("hello", "<s>", "</s>"))
    assert ours.encode("hello") == [bos] * (add_bos is True) + [hello] + [eos] * (add_eos is True)
    assert ours.encode("hello", add_special=False) == [hello]
    if not add_eos:  # llama-cpp-python hands over BOS alone
        assert ours.encode("hello") == Peer(path).encode("hello", add_special=True)


def test_special_and_user_defined_tokens(tmp_path):
    path, tokens = tiny_bpe(tmp_path / "v.gguf", eot_token_id=100)
    ours = load_tokenizer(path)
    ids = ours.encode("hello<tool></s>hello")
    assert ids == [tokens.index(text) for text in ("hello", "<tool>", "</s>", "hello")]
    assert ids == Peer(path).encode("hello<tool></s>hello")
    assert ours.decode(ids) == "hello<tool></s>hello"
    assert ours.decode(ids, skip_special=True) == "hello<tool>hello"
    assert ours.special_ids == {tokens.index("<s>"), tokens.index("</s>")}
    assert ours.eos_ids == {100, tokens.index("</s>")}


@pytest.mark.parametrize("add_space_prefix", [True, False])
def test_sentencepiece_ids_are_the_librarys(tmp_path, add_space_prefix):
    model = sentencepiece_model(add_dummy_prefix=add_space_prefix)
    path = sentencepiece_gguf(tmp_path / "v.gguf", model, add_space_prefix=add_space_prefix)
    ours = load_tokenizer(path)
    library = sentencepiece.SentencePieceProcessor(model_proto=model)
    for text in (MULTILINGUAL.replace("\x00", ""), "The cat", " The  cat ", "", " ", "日本", "1859.\n\n"):
        ids = ours.encode(text, add_special=False)
        assert ids == library.encode(text)
        assert ours.decode(ids) == library.decode(ids) == text
    assert ours.encode("The") == [1, *library.encode("The")]  # BOS, by default
    assert ours.eos_ids == {2, library.piece_to_id("<|im_end|>")}
    assert ours.special_ids == {0, 1, 2, library.piece_to_id("<|im_start|>"), library.piece_to_id("<|im_end|>")}


@pytest.mark.parametrize("add_space_prefix", [True, False])
def test_sentencepiece_ids_are_llama_cpps(tmp_path, add_space_prefix):
    path = sentencepiece_gguf(tmp_path / "v.gguf", sentencepiece_model(), add_space_prefix=add_space_prefix)
    ours, theirs = load_tokenizer(path), Peer(path)
    chat = "<s><|im_start|>user\nThe cat  sat.<|im_end|>\n<|im_start|>x<tool>y <tool> z"
    for text in (MULTILINGUAL.replace("\x00", ""), chat, "über 42", "   The", "<tool>x"):
        assert ours.encode(text, add_special=False) == theirs.encode(text)
        assert ours.encode(text) == theirs.encode(text, add_special=True)
    assert ours.eos_ids == theirs.ends(ours.vocab_size)
    assert [token for token in range(ours.vocab_size) if ours.token_bytes(token) != theirs.piece(token)] == []


def test_phi3_tokens_take_the_space_behind_them(tmp_path):
    model = sentencepiece_model(control_symbols="<|im_start|>,<|im_end|>,<|endoftext|>")
    text = "<s> the <|im_start|>  the<|im_end|>\n \nthe<|endoftext|> the"
    ids = []
    for name in ("Phi-3 mini", "other"):
        path = sentencepiece_gguf(tmp_path / "v.gguf", model, name=name)
        ids.append(load_tokenizer(path).encode(text, add_special=False))
        assert ids[-1] == Peer(path).encode(text)
    assert len(ids[0]) < len(ids[1])


def test_gemma4_ids_are_llama_cpps(tmp_path):
    keys = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0, "add_bos_token": True}
    path = gemma4_gguf(tmp_path / "v.gguf", sentencepiece_model(user_defined_symbols=""), **keys)
    ours, theirs = load_tokenizer(path), Peer(path)
    for text in (MULTILINGUAL, "The cat  sat<|im_end|>\n\nx", " lazy dog", "日本 über"):
        ids = ours.encode(text, add_special=False)
        assert ids == theirs.encode(text) and ours.encode(text) == [1, *ids]
        assert ours.decode(ids) == text
    assert ours.eos_ids == theirs.ends(ours.vocab_size)


def test_continued_text_keeps_its_space(tmp_path):
    ours = load_tokenizer(sentencepiece_gguf(tmp_path / "v.gguf", sentencepiece_model()))
    ids = ours.encode("the cat", add_special=False)
    assert ours.decode(ids) == "the cat" and ours.decode(ids, continues=True) == " the cat"
    stream = ours.stream(continues=True)
    assert "".join(map(stream.add, ids)) + stream.finish() == " the cat"


def broken(path, smollm2_gguf, what):
    """One broken GGUF vocabulary; returns what the message must name."""
    good = {"tokens": ["<unk>", "<s>", "</s>", "a", "b", "ab"], "types": [2, 3, 3, 1, 1, 1]}
    if what == "unknown model":
        write_vocabulary(path, "rwkv", **good)
        return "rwkv"
    if what == "unknown pre-tokenizer":
        write_vocabulary(path, "gpt2", **good, merges=["a b"], pre="no-such-split")
        return "no-such-split"
    if what == "no merges":
        write_vocabulary(path, "gpt2", **good)
        return "merges"
    if what == "merge of unknown tokens":
        write_vocabulary(path, "gpt2", **good, merges=["x y"])
        return "merges"
    if what == "no scores":
        write_vocabulary(path, "llama", **good)
        return "scores"
    if what == "some byte tokens":
        write_vocabulary(path, "llama", good["tokens"] + ["<0x41>"], types=good["types"] + [6], scores=[0.0] * 7)
        return "256"
    if what == "short types":
        write_vocabulary(path, "gpt2", good["tokens"], types=[1, 1], merges=["a b"])
        return "token_type"
    if what == "id out of range":
        write_vocabulary(path, "gpt2", **good, merges=["a b"], eos_token_id=600)
        return "eos_token_id"
    if what == "truncated":
        path.write_bytes(smollm2_gguf.read_bytes()[:200_000])
    if what == "not GGUF":
        path.write_bytes(b"PK\3\4" + bytes(100))
    if what == "empty":
        path.write_bytes(b"")
    return path.name


@pytest.mark.parametrize("what", [
    "unknown model", "unknown pre-tokenizer", "no merges", "merge of unknown tokens", "no scores", "some byte tokens",
    "short types", "id out of range", "truncated", "not GGUF", "empty", "absent",
])
def test_broken_files_are_refused_in_one_line(tmp_path, smollm2_gguf, what):
    path = tmp_path / "broken.gguf"
    named = broken(path, smollm2_gguf, what)
    with pytest.raises(TokenizerError) as caught:
        load_tokenizer(path)
    message = str(caught.value)
    assert "\n" not in message and named in message and "broken.gguf" in message


def test_unknown_pre_tokenizer_lists_the_known_ones(tmp_path):
    path, _ = tiny_bpe(tmp_path / "v.gguf", pre="nonesuch")
    with pytest.raises(TokenizerError, match="llama-bpe.*qwen2"):
        load_tokenizer(path)


@pytest.mark.parametrize("name", sorted(END_OF_TURN | END_OF_FILE) + ["<|user|>", "<mask>", "<s>", "</think>"])
def test_well_known_end_tokens_are_llama_cpps(tmp_path, name):
    tokens = ["a", "b", "ab", "x", name]
    path = write_vocabulary(tmp_path / "v.gguf", "gpt2", tokens, types=[1, 1, 1, 1, 3], merges=["a b"], pre="gpt-2",
                            eos_token_id=3)
    ours = load_tokenizer(path)
    assert ours.eos_ids == Peer(path).ends(5) == ({3, 4} if name in END_OF_TURN | END_OF_FILE else {3})


def test_harmony_end_token_does_not_end_a_turn(tmp_path):
    names = ["<|return|>", "<|call|>", "<|end|>", "<|endoftext|>"]
    tokens = ["a", "b", "ab", *names]
    types = [1, 1, 1, 3, 3, 3, 3]
    path = write_vocabulary(tmp_path / "v.gguf", "gpt2", tokens, types=types, merges=["a b"], pre="gpt-4o")
    assert load_tokenizer(path).eos_ids == {3, 4, 6}
