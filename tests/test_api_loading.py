"""The Python API: what LLM refuses, how its pool is sized, and the real model behind it."""

import subprocess
import sys

import pytest

import mlxr.api
from helpers.threads import all_pages_free, engine_threads, wait_for
from helpers.tiny import tiny_engine, tiny_model
from mlxr.api import LLM
from mlxr.config import EngineConfig
from mlxr.engine import load_engine
from mlxr.errors import ConfigError, ModelNotFound, UnsupportedModel, WeightsError
from mlxr.sequence import SamplingParams


@pytest.fixture(scope="module")
def model():
    return tiny_model(scale=3.0)


# ------------------------------------------------------------------ building one

@pytest.mark.parametrize("error", [ModelNotFound("no such model"), WeightsError("bad"), UnsupportedModel("x"),
                                   ValueError("bug")])
def test_errors_of_loading_come_out_as_themselves(monkeypatch, error):
    def load(*_, **__):
        raise error

    monkeypatch.setattr(mlxr.api, "load_engine", load)
    with pytest.raises(type(error)) as caught:
        LLM("x")
    assert caught.value is error
    wait_for(lambda: not engine_threads())


@pytest.mark.parametrize("config, what", [
    ({"page_sise": 3}, "unknown option 'page_sise'; there are .*page_size"),
    ({"page_size": 3}, "page_size must be one of"), ({"context": 0}, "context must be"),
    ({"pool_bytes": -1}, "pool_bytes must be"), ({"pool_tokens": 0}, "pool_tokens must be"),
    ({"dtype": "int4"}, "dtype must be one of"), ({"max_batch": True}, "max_batch must be"),
    ({"token_budget": 0}, "token_budget must be"),
])
def test_bad_options_are_refused_before_anything_is_loaded(config, what):
    before = engine_threads()
    with pytest.raises(ConfigError, match=what):
        LLM("no such model", **config)
    assert engine_threads() == before


@pytest.mark.parametrize("tokens, pages", [(None, 257), (1, 2), (160, 11), (161, 12), (10**9, 257)])
def test_a_pool_sized_by_tokens(model, tokens, pages):
    """As many pages as those tokens need and one more, but never more than for one full context (4096 of 16)."""
    assert tiny_engine(model, pool_bytes=None, pool_tokens=tokens).info()["pages"] == pages


@pytest.mark.parametrize("config, what", [
    ({"pool_bytes": 1000}, "pool_bytes is 1000, but two pages"), ({"memory_bytes": 50 << 20}, "--memory gives 52428800 bytes, but weights"),
])
def test_what_cannot_fit_is_told_before_the_weights_are_read(smollm2_gguf, config, what):
    read = []
    with pytest.raises(ConfigError, match=what):
        load_engine(str(smollm2_gguf), EngineConfig(**config), progress=lambda done, total: read.append(done))
    assert not read


def test_a_missing_model_and_a_wrong_page_format(smollm2_gguf, tmp_path):
    with pytest.raises(ModelNotFound, match="nowhere"):
        LLM(str(tmp_path / "nowhere.gguf"))
    with pytest.raises(ConfigError, match="unknown page format 'q9'; there are"):
        LLM(str(smollm2_gguf), kv="q9")
    wait_for(lambda: not engine_threads())


# ------------------------------------------------------------------ the real model

@pytest.fixture(scope="module")
def real(smollm2_gguf):
    with LLM(str(smollm2_gguf), size_pool=lambda tokenizer: 200 + len(tokenizer.encode("The quick brown fox"))) as llm:
        yield llm


def test_the_real_model_answers(real):
    assert real.info["pages"] == 5                           # 204 tokens in pages of 64, and one
    messages = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    answer = real.chat(messages, SamplingParams(max_tokens=12))
    assert "Paris" in answer.text and answer.finish_reason == "stop"
    assert answer.prompt_tokens == len(real.tokenizer.encode_chat(messages))
    assert "<|im_end|>" not in answer.text and answer.token_ids[-1] in real.tokenizer.eos_ids
    assert "".join(c.text for c in real.stream_chat(messages, SamplingParams(max_tokens=12))) == answer.text
    other = real.chat(messages, SamplingParams(max_tokens=1), chat_template="{{ messages[0]['content'] }}")
    assert other.prompt_tokens == len(real.tokenizer.encode(messages[0]["content"]))


def test_a_process_may_end_without_close(smollm2_gguf):
    """With a step in flight and a stream open: the engine's thread leaves MLX before Python does."""
    code = ("import sys; from mlxr import LLM, SamplingParams; llm = LLM(sys.argv[1])\n"
            "stream = llm.stream('The quick', SamplingParams(max_tokens=500)); print(next(stream).finish_reason)")
    result = subprocess.run([sys.executable, "-c", code, str(smollm2_gguf)], capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout) == (0, "None\n"), result.stderr


def test_the_real_model_in_a_batch_and_with_stop_strings(real):
    prompts = ["The quick brown fox", "One, two, three, four,"]
    stop = SamplingParams(max_tokens=12, stop=(", six",), logprobs=1)
    both = real.generate(prompts, [SamplingParams(max_tokens=6), stop])
    assert both[1].text == " five" and both[1].finish_reason == "stop"
    assert both[0].text == real.tokenizer.decode(both[0].token_ids, continues=True)
    assert [x.text for x in both[1].logprobs][0] == " five"
    assert all_pages_free(real)
