"""Tokenizers of model folders: tokenizer.json and tokenizer.model, with the configuration files around them."""

import subprocess
import sys
import threading
import time

import pytest
import sentencepiece
import tokenizers
from helpers.tokenizer_files import (
    MULTILINGUAL, sentencepiece_gguf, sentencepiece_model, tokenizer_json, write_folder,
)

from mlxr.errors import RequestError, TokenizerError
from mlxr.tokenizer import load_tokenizer

TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
USER = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def smollm2_json(smollm2_gguf):
    return tokenizer_json(smollm2_gguf)


@pytest.fixture(scope="module")
def folder(smollm2_json, tmp_path_factory):
    return write_folder(
        tmp_path_factory.mktemp("folder"), tokenizer=smollm2_json, config={"eos_token_id": 2},
        tokenizer_config={"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"},
                          "chat_template": TEMPLATE},
        generation_config={"eos_token_id": [2, 7]})


def test_folder_and_gguf_agree(folder, smollm2_gguf):
    ours, gguf = load_tokenizer(folder), load_tokenizer(smollm2_gguf)
    for text in (MULTILINGUAL, "<|im_start|>user\nHi<|im_end|>", "", "  ", "é" * 100):
        assert ours.encode(text) == gguf.encode(text)
    assert ours.vocab_size == gguf.vocab_size and ours.special_ids == gguf.special_ids and ours.bos_id == gguf.bos_id
    assert [t for t in range(ours.vocab_size) if ours.token_bytes(t) != gguf.token_bytes(t)] == []


def test_ids_and_text_are_the_librarys(folder):
    ours = load_tokenizer(folder)
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = library.encode(MULTILINGUAL).ids
    assert ours.encode(MULTILINGUAL) == ids and ours.decode(ids) == library.decode(ids, skip_special_tokens=False)
    step = 97  # every id in some order, cut into runs, so that characters break
    shuffled = [token * step % 49152 for token in range(49152)]
    for start in range(0, 49152, 512):
        run = shuffled[start : start + 512]
        assert ours.decode(run) == library.decode(run, skip_special_tokens=False)
        assert ours.decode(run, skip_special=True) == library.decode(run, skip_special_tokens=True)


def test_end_ids_are_the_union(folder):
    assert load_tokenizer(folder).eos_ids == {0, 2, 4, 7}  # <|endoftext|>, <|im_end|>, <reponame>, and the stated 7


@pytest.mark.parametrize("value", ["2", [2, "x"], -1, True])
def test_wrong_end_ids_are_refused(smollm2_json, tmp_path, value):
    write_folder(tmp_path, tokenizer=smollm2_json, generation_config={"eos_token_id": value})
    with pytest.raises(TokenizerError, match="eos_token_id"):
        load_tokenizer(tmp_path)


def bos_processor():
    return {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}},
                                                     {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}}}


@pytest.mark.parametrize("template", [TEMPLATE, TEMPLATE.removeprefix("{{ bos_token }}")])
def test_bos_comes_once(smollm2_json, tmp_path, template):
    write_folder(tmp_path, tokenizer={**smollm2_json, "post_processor": bos_processor()}, chat_template=template,
                 tokenizer_config={"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"})
    ours = load_tokenizer(tmp_path)
    assert ours.encode("Hi", add_special=False) == ours.encode("Hi")[1:] and ours.encode("Hi")[0] == 1
    assert ours.encode("") == [1]
    ids = ours.encode_chat(USER)
    assert ids[0] == 1 and ids.count(1) == 1
    assert ids[1:] == ours.encode("user: Hi<|im_end|>", add_special=False)


@pytest.mark.parametrize("bos, eos", [(True, False), (False, True), (True, True)])
def test_flags_decide_where_there_is_no_post_processor(smollm2_json, tmp_path, bos, eos):
    config = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "add_bos_token": bos, "add_eos_token": eos}
    write_folder(tmp_path, tokenizer=smollm2_json, tokenizer_config=config)
    ours = load_tokenizer(tmp_path)
    assert ours.encode("Hi") == [1] * bos + ours.encode("Hi", add_special=False) + [2] * eos


def test_no_bos_without_flags(folder):
    ours = load_tokenizer(folder)
    assert ours.encode("Hi") == ours.encode("Hi", add_special=False)
    assert ours.encode_chat(USER) == ours.encode("<|im_start|>user: Hi<|im_end|>")


@pytest.mark.parametrize("files, expected", [
    ({"tokenizer_config": {"chat_template": "A"}}, {"default": "A"}),
    ({"tokenizer_config": {"chat_template": [{"name": "default", "template": "A"},
                                             {"name": "tool_use", "template": "T"}]}},
     {"default": "A", "tool_use": "T"}),
    ({"tokenizer_config": {"chat_template": "A"}, "chat_template": {"chat_template": "B"}}, {"default": "B"}),
    ({"tokenizer_config": {"chat_template": "A"}, "chat_template": "C"}, {"default": "C"}),
    ({}, {}),
], ids=["config", "named", "json", "jinja", "none"])
def test_where_chat_templates_come_from(smollm2_json, tmp_path, files, expected):
    ours = load_tokenizer(write_folder(tmp_path, tokenizer=smollm2_json, **files))
    assert ours.chat_templates == expected and ours.chat_template == expected.get("default")
    if expected:
        assert ours.render_chat(USER) == expected["default"]
        assert ours.render_chat(USER, tools=[{"type": "function"}]) == expected.get("tool_use", expected["default"])
        assert ours.render_chat(USER, chat_template="mine {{ messages|length }}") == "mine 1"
        assert ours.render_chat(USER, chat_template="default") == expected["default"]
    else:
        with pytest.raises(TokenizerError, match="--raw.*--chat-template"):
            ours.render_chat(USER)


def test_added_tokens_of_the_configuration(smollm2_json, tmp_path):
    config = {"added_tokens_decoder": {"49152": {"content": "<think>", "special": False, "normalized": False}}}
    ours = load_tokenizer(write_folder(tmp_path, tokenizer=smollm2_json, tokenizer_config=config))
    assert ours.encode("a<think>b")[1] == 49152 and ours.vocab_size == 49153
    assert ours.decode([49152], skip_special=True) == "<think>"
    config["added_tokens_decoder"] = {"50000": {"content": "<think>"}}
    with pytest.raises(TokenizerError, match="50000"):
        load_tokenizer(write_folder(tmp_path, tokenizer=smollm2_json, tokenizer_config=config))


@pytest.mark.parametrize("legacy", [True, False])
def test_sentencepiece_folder(tmp_path, legacy):
    model = sentencepiece_model()
    config = {"legacy": legacy, "added_tokens_decoder": {"420": {"content": "<extra>", "special": True}}}
    ours = load_tokenizer(write_folder(tmp_path, tokenizer=model, tokenizer_config=config, chat_template=TEMPLATE))
    library = sentencepiece.SentencePieceProcessor(model_proto=model)
    for text in (MULTILINGUAL.replace("\x00", ""), "The cat", " x", "<tool>y"):
        assert ours.encode(text, add_special=False) == library.encode(text)
        assert ours.decode(ours.encode(text), skip_special=True) == library.decode(library.encode(text))
    the, ends = library.encode("the"), library.piece_to_id("<|im_end|>")
    assert ours.encode("the<extra>the")[: len(the) + 2] == [1, *the, 420]
    after = ours.decode(ours.encode("<extra>the", add_special=False))
    assert after == ("<extra> the" if legacy else "<extra>the")
    assert ours.eos_ids == {2, ends} and ours.vocab_size == 421 and ours.bos_id == 1
    assert ours.encode_chat(USER) == ours.encode("<s>user: Hi</s>", add_special=False)


def test_sentencepiece_folder_and_gguf_agree(tmp_path):
    model = sentencepiece_model()
    ours = load_tokenizer(write_folder(tmp_path / "folder", tokenizer=model))
    gguf = load_tokenizer(sentencepiece_gguf(tmp_path / "v.gguf", model))
    for text in (MULTILINGUAL.replace("\x00", ""), "<|im_start|>user\nThe cat<|im_end|>", "  The"):
        assert ours.encode(text) == gguf.encode(text)
    assert ours.eos_ids == gguf.eos_ids and ours.special_ids == gguf.special_ids


def llama_json():
    """A tokenizer.json of the Llama-2 kind: U+2581 for spaces, byte fallback."""
    library = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    vocab = {library.id_to_piece(token): token for token in range(library.vocab_size())}
    steps = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
             {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    prepare = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    return {"version": "1.0", "added_tokens": [], "normalizer": {"type": "Sequence", "normalizers": prepare},
            "pre_tokenizer": None, "post_processor": None, "decoder": {"type": "Sequence", "decoders": steps},
            "model": {"type": "BPE", "vocab": vocab, "merges": [], "byte_fallback": True, "unk_token": "<unk>"}}


def test_llama_decoder(tmp_path):
    content = llama_json()
    ours = load_tokenizer(write_folder(tmp_path, tokenizer=content))
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("The cat über", " two", "日本 中", "x\n\ty"):
        ids = ours.encode(text)
        assert ours.decode(ids) == library.decode(ids) == text


@pytest.mark.parametrize("decoder", [None, {"type": "WordPiece", "prefix": "##", "cleanup": True}])
def test_unsupported_decoders_are_named(smollm2_json, tmp_path, decoder):
    write_folder(tmp_path, tokenizer={**smollm2_json, "decoder": decoder})
    with pytest.raises(TokenizerError, match="WordPiece" if decoder else "none"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("files, named", [
    ({}, "no tokenizer.json"),
    ({"tokenizer": {"version": "1.0"}}, "tokenizer.json"),
    ({"tokenizer": b"not a model"}, "tokenizer.model"),
    ({"tokenizer": b""}, "tokenizer.model"),
    ({"tokenizer": b"", "tokenizer_config": [1]}, "tokenizer_config.json"),
    ({"tokenizer": b"", "tokenizer_config": {"chat_template": 5}}, "chat_template"),
    ({"tokenizer": b"", "tokenizer_config": {"bos_token": 5}}, "special token"),
    ({"tokenizer": b"", "tokenizer_config": {"added_tokens_decoder": {"x": "y"}}}, "added_tokens_decoder"),
], ids=lambda value: ascii(value)[:40])
def test_broken_folders_are_refused_in_one_line(tmp_path, files, named):
    write_folder(tmp_path, **files)
    with pytest.raises(TokenizerError) as caught:
        load_tokenizer(tmp_path)
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_broken_json_and_absent_paths(tmp_path):
    with pytest.raises(TokenizerError, match="no such"):
        load_tokenizer(tmp_path / "absent")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match="tokenizer.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(TokenizerError, match="tokenizer_config.json: not valid JSON"):
        load_tokenizer(tmp_path)


def test_bos_token_outside_the_vocabulary(smollm2_json, tmp_path):
    write_folder(tmp_path, tokenizer=smollm2_json, tokenizer_config={"bos_token": "<nope>"})
    with pytest.raises(TokenizerError, match="<nope>"):
        load_tokenizer(tmp_path)


def test_surrogates_and_other_types(folder):
    ours = load_tokenizer(folder)
    assert ours.decode(ours.encode("a\ud83d\ude00b")) == "a😀b"
    assert ours.decode(ours.encode("a\ud83db")) == "a\ufffdb"
    for text in (b"bytes", None, 5, ["a"]):
        with pytest.raises(RequestError):
            ours.encode(text)


def test_start_up_imports_no_template_engine_and_no_transformers(smollm2_gguf):
    code = (f"import sys; from mlxr.tokenizer import load_tokenizer; t = load_tokenizer({str(smollm2_gguf)!r}); "
            "t.decode(t.encode('x')); print([m for m in ('jinja2', 'transformers', 'gguf', 'google.protobuf', 'torch')"
            " if m in sys.modules])")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stdout.strip() == "[]", run.stderr


def test_other_threads_go_on_while_a_long_text_is_read(smollm2_gguf):
    """In a server these are the ones that generate: none waits for most of the time that reading takes."""
    tokenizer, text, longest, done = load_tokenizer(smollm2_gguf), "All work and no play. " * 20000, [0.0], threading.Event()

    def look():
        last = time.perf_counter()
        while not done.is_set():
            now = time.perf_counter()
            longest[0], last = max(longest[0], now - last), now

    thread = threading.Thread(target=look)
    thread.start()
    try:
        began = time.perf_counter()
        tokenizer.encode(text)
        took = time.perf_counter() - began
    finally:
        done.set()
        thread.join()
    assert longest[0] < took / 2
