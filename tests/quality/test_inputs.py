"""What a validation is given: lists of page formats, and texts cut into windows."""

import pytest

from helpers.quality import Bytes, broken_engine, byte_engine, passages_text
from mlxr.errors import ConfigError, RequestError, WeightsError
from mlxr.pages import formats as registry
from mlxr.quality import formats
from mlxr.quality.calibrate import calibrate_engine
from mlxr.quality.teacher import check_context, window_tokens
from mlxr.quality.texts import Passages, Text, shipped_text
from mlxr.quality.validation import Plan


@pytest.mark.parametrize("texts, expected", [
    (["q8"], ["q8"]), (["q8,q4"], ["q8", "q4"]), (["q8, q4 ,q8"], ["q8", "q4"]), (["k:q8,v:q4"], ["k:q8,v:q4"]),
    (["k:q8,v:q4,q8"], ["k:q8,v:q4", "q8"]), (["q8,k:q8,v:q4"], ["q8", "k:q8,v:q4"]),
    (["k:q8,v:q4,k:q4,v:q8"], ["k:q8,v:q4", "k:q4,v:q8"]), (["q8,skip=0:2,-2:,f16"], ["q8,skip=0:2,-2:", "f16"]),
    (["q8;k:q8,v:q4; f16"], ["q8", "k:q8,v:q4", "f16"]), (["q8", "k:q8,v:f16"], ["q8", "k:q8,v:f16"]),
    (["q8:ratio=0.5,low=4,f16"], ["q8:ratio=0.5,low=4", "f16"]), (["q8,,f16"], ["q8", "f16"]),
])
def test_lists_of_formats(texts, expected):
    assert formats.split(texts) == expected


def test_no_format_is_no_list():
    for texts in ([""], [","], [";"]):
        with pytest.raises(ConfigError, match="names no page format"):
            formats.split(texts)


def test_every_quantized_format_of_the_registry_is_measured_by_default():
    found = formats.quantized(64)
    bits = [registry.page_format(f).bits_per_element(64, 128, 128) for f in found]
    assert "q8" in found and not {"f32", "f16", "bf16"} & set(found) and bits == sorted(bits) and bits[-1] < 16


@pytest.mark.parametrize("name", formats.quantized(64))
def test_streams_quantize_one_of_k_and_v(name):
    whole = registry.page_format(name)
    k, v = (registry.page_format(formats.streams(name)[s]) for s in "kv")
    plain = registry.page_format("f32")
    assert (k.k, k.v) == (whole.k, plain.v) and (v.k, v.v) == (plain.k, whole.v)


def test_windows_are_spread_and_do_not_overlap():
    passages = Passages(Bytes(), Text("t", "".join(chr(33 + i % 90) for i in range(1000))))
    windows = passages.windows(100, 4)
    assert len(windows) == 4 and all(len(w) == 100 for w in windows)
    assert windows[0] == passages.tokens[:100] and windows[-1] == passages.tokens[-100:]
    assert passages.windows(100, 99) == [passages.tokens[100 * i:100 * i + 100] for i in range(10)]      # as many as fit


def test_what_a_tokenizer_puts_first_begins_every_window():
    windows = Passages(Bytes(start=[1]), passages_text()).windows(50, 3)
    assert all(w[0] == 1 and len(w) == 50 and 1 not in w[1:] for w in windows)


def test_a_text_that_is_too_short():
    passages = Passages(Bytes(), Text("short.txt", "a" * 150))
    with pytest.raises(RequestError, match="short.txt is too short: it has 150 tokens, and 2 windows of 100 need 200"):
        passages.windows(100, 12)
    assert len(passages.windows(100, 1)) == 1


def test_the_shipped_text_is_plain_and_long_enough():
    text = shipped_text()
    assert text.content.isascii() and 100_000 < len(text.content) < 200_000 and not text.content.startswith("#")
    assert len(text.digest) == 16


def test_contexts_are_whole_pages_within_the_model():
    engine = byte_engine()
    check_context(64, engine)
    for context in (0, 8, 100):
        with pytest.raises(ConfigError, match="whole number of pages of 16 tokens"):
            check_context(context, engine)
    with pytest.raises(ConfigError, match=f"a window has {window_tokens(4096)} tokens, but the model's context is 4096"):
        check_context(4096, engine)


@pytest.mark.parametrize("plan, what", [
    ({"formats": ("q9",)}, "unknown page format 'q9'"), ({"modes": ("strict",)}, "unknown mode 'strict'"),
    ({"streams": ("x",)}, "unknown mode 'x'"), ({"windows": 0}, "--windows must be at least 1"), ({"contexts": ()}, "a context"),
    ({"modes": ()}, "a mode"), ({"against": ("vllm",)}, "--against vllm: there are mlx-lm"),
])
def test_plans_that_cannot_be(plan, what):
    with pytest.raises(ConfigError, match=what):
        Plan(**{"formats": ("q8",), **plan})


def test_k_that_is_no_number_is_told(validation, tmp_path, monkeypatch):
    monkeypatch.setenv("MLXR_BACKEND", "reference")
    with pytest.raises(WeightsError, match="gives logits that are no numbers .* nothing can be compared"):
        validation(broken_engine(), windows=2, streams=(), modes=("in-forward",), checks=False, recall=False).run()
    with pytest.raises(WeightsError, match="K, V or the queries of layer 1 are no numbers"):
        calibrate_engine(broken_engine(), passages_text(), windows=2, context=64, out=tmp_path / "c")
