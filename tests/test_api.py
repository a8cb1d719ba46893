"""The Python API: a tiny random model behind LLM, many threads, failures; the real model in a few tests."""

import gc
import threading

import pytest

import mlxr.api
from helpers.threads import all_pages_free, engine_threads, wait_for
from helpers.tiny import NoText, tiny_engine, tiny_model
from mlxr.api import LLM
from mlxr.errors import (EngineClosed, PromptTooLong, RequestError)
from mlxr.output import Output, StreamChunk, TokenLogprob
from mlxr.sequence import SamplingParams

PROMPTS = ["one", "a longer prompt, of many more pages than one", "x", "yes and no " * 12]
SHORT = SamplingParams(max_tokens=12)
LONG = SamplingParams(max_tokens=3000)


@pytest.fixture(scope="module")
def model():
    return tiny_model(scale=3.0)


@pytest.fixture
def make(model, monkeypatch):
    """make(**config): an LLM around the tiny model, built on its own engine thread; closed at the end."""
    made = []

    def load(name, config, progress=None, warn=None, size_pool=None):
        engine = tiny_engine(model, max_batch=config.max_batch, context=config.context,
                             pool_bytes=config.pool_bytes or 1 << 24)
        engine.built_on = threading.current_thread()
        return engine

    def make(**config):
        llm = LLM("tiny", **config)
        made.append(llm)
        return llm

    monkeypatch.setattr(mlxr.api, "load_engine", load)
    yield make
    for llm in made:
        llm.close()


def in_threads(functions):
    """Results, or exceptions, of functions that run at the same time."""
    results = [None] * len(functions)

    def call(i, function):
        try:
            results[i] = function()
        except Exception as e:
            results[i] = e

    threads = [threading.Thread(target=call, args=x, daemon=True) for x in enumerate(functions)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert not any(t.is_alive() for t in threads), "a caller hangs"
    return results


# ------------------------------------------------------------------ what comes back

def test_one_prompt_gives_one_output(make):
    llm = make()
    output = llm.generate("hello", SHORT)
    assert isinstance(output, Output) and len(output.token_ids) == 12 and output.finish_reason == "length"
    assert output.prompt_tokens == 5 and output.logprobs is None
    assert output.text == "".join(f" {t}" for t in output.token_ids)
    assert llm.generate(list(b"hello"), SHORT).token_ids == output.token_ids
    assert llm.generate(tuple(b"hello"), SHORT).token_ids == output.token_ids


def test_many_prompts_give_a_list_in_order(make):
    llm = make()
    alone = [llm.generate(p, SHORT).token_ids for p in PROMPTS]
    assert [o.token_ids for o in llm.generate(PROMPTS, SHORT)] == alone
    assert [o.token_ids for o in llm.generate([list(p.encode()) for p in PROMPTS], SHORT)] == alone
    assert [o.token_ids for o in llm.generate([PROMPTS[0], list(PROMPTS[1].encode())], SHORT)] == alone[:2]
    assert [o.token_ids for o in llm.generate(iter(PROMPTS), SHORT)] == alone
    assert isinstance(llm.generate([PROMPTS[0]], SHORT), list) and llm.generate([], SHORT) == []


def test_params_of_each_prompt(make):
    llm = make()
    each = [SamplingParams(max_tokens=n, temperature=t, seed=3) for n, t in ((1, 0), (5, 1.0), (9, 0), (2, 2.0))]
    outputs = llm.generate(PROMPTS, each)
    assert [len(o.token_ids) for o in outputs] == [1, 5, 9, 2]
    assert [o.token_ids for o in outputs] == [llm.generate(p, s).token_ids for p, s in zip(PROMPTS, each)]
    assert len(llm.generate("x").token_ids) == 256           # the defaults


@pytest.mark.parametrize("prompts, params, what", [
    (["a", "b"], [SHORT], "1 SamplingParams are given for 2 prompts"), ("a", [SHORT, SHORT], "2 SamplingParams"),
    ("a", {"max_tokens": 3}, "params must be SamplingParams"), ("a", [3], "params must be SamplingParams"),
    ("a", 3, "params must be SamplingParams"), (None, SHORT, "prompts must be a str"),
    (3, SHORT, "prompts must be a str"),
    ({"a": 1}, SHORT, "prompts must be a str"), (b"abc", SHORT, "prompts must be a str"),
    (["a", None], SHORT, "a prompt must be a str or a list"), (["a", 3], SHORT, "a prompt must be a str or a list"),
    ("", SHORT, "empty"), (["a", ""], SHORT, "empty"), (["a", []], SHORT, "empty"), ([[1.5]], SHORT, "whole numbers"),
    ([[1, 131]], SHORT, "from 0 to 130"),
    ("a", SamplingParams(stop_token_ids=(500,)), "stop_token_ids names token 500"),
])
def test_bad_requests_queue_nothing(make, prompts, params, what):
    llm = make()
    with pytest.raises(RequestError, match=what):
        llm.generate(prompts, params)
    assert all_pages_free(llm) and llm.stats()["steps"] == 0
    assert len(llm.generate("a", SHORT).token_ids) == 12     # and nothing is broken


def test_a_bad_stream_is_refused_at_once(make):
    llm = make(context=50)
    with pytest.raises(PromptTooLong, match="50"):
        llm.stream("x" * 50)
    with pytest.raises(RequestError, match="a prompt must be"):
        llm.stream(None)


def test_stream_gives_what_generate_gives(make):
    llm = make()
    params = SamplingParams(max_tokens=20, temperature=1.0, seed=4, logprobs=2)
    whole, chunks = llm.generate("stream", params), list(llm.stream("stream", params))
    assert all(isinstance(c, StreamChunk) for c in chunks)
    assert "".join(c.text for c in chunks) == whole.text
    assert [t for c in chunks for t in c.token_ids] == whole.token_ids
    assert [x for c in chunks for x in c.logprobs] == whole.logprobs
    assert [c.finish_reason for c in chunks] == [None] * 19 + ["length"]
    ended = llm.stream("stream", params)
    assert len(list(ended)) == 20 and list(ended) == []      # an iterator that has ended stays so


def test_finish_reasons(make):
    llm = make()
    free = llm.generate("abc", SamplingParams(max_tokens=30))
    stop = llm.generate("abc", SamplingParams(max_tokens=30, stop_token_ids=(free.token_ids[3],)))
    first = free.token_ids.index(free.token_ids[3])
    assert stop.finish_reason == "stop" and stop.token_ids == free.token_ids[:first + 1]
    assert stop.text == "".join(f" {t}" for t in free.token_ids[:first])
    cut = make(context=10).generate("abc", SamplingParams(max_tokens=30))
    assert cut.finish_reason == "length" and cut.token_ids == free.token_ids[:7]
    with pytest.raises(RequestError):
        make(context=3).generate("abc")


def test_end_of_sequence_and_ignore_eos(make, monkeypatch):
    llm = make()
    free = llm.generate("abc", SamplingParams(max_tokens=10)).token_ids
    monkeypatch.setattr(NoText, "eos_ids", frozenset({free[0]}))
    ended = llm.generate("abc", SamplingParams(max_tokens=10))
    assert (ended.finish_reason, ended.text, ended.token_ids) == ("stop", "", free[:1])
    assert llm.generate("abc", SamplingParams(max_tokens=10, ignore_eos=True)).token_ids == free


def test_stop_strings_across_tokens(make):
    """A stop string that begins in one token and ends in another; none of it, and nothing after it, comes out."""
    llm = make()
    free = llm.generate("abc", SamplingParams(max_tokens=20)).text
    words = free.split()
    stop = f"{words[4][-1]} {words[5]} {words[6][0]}"
    params = SamplingParams(max_tokens=20, stop=("never said", stop))
    output = llm.generate("abc", params)
    assert output.finish_reason == "stop" and output.text == free[:free.index(stop)]
    assert "".join(c.text for c in llm.stream("abc", params)) == output.text
    near = llm.generate("abc", SamplingParams(max_tokens=20, stop=free[-2:] + "?"))
    assert near.text == free and near.finish_reason == "length"      # what was held back comes out at the end


def test_logprobs(make):
    llm = make()
    output = llm.generate("abc", SamplingParams(max_tokens=6, logprobs=4))
    assert len(output.logprobs) == 6
    for token, x in zip(output.token_ids, output.logprobs):
        assert isinstance(x, TokenLogprob) and x.token_id == token and x.text == str(token) and x.logprob < 0
        values = list(x.top.values())
        assert len(values) == 4 and values == sorted(values, reverse=True) and x.top[token] == x.logprob == values[0]
    two = llm.generate(["abc", "abc", "abc"], [SamplingParams(max_tokens=6, logprobs=n) for n in (4, 1, 0)])
    assert [len(x.top) for o in two for x in o.logprobs] == [4] * 6 + [1] * 6 + [0] * 6
    assert [x.logprob for x in two[2].logprobs] == pytest.approx([x.logprob for x in output.logprobs], abs=1e-5)


def test_stats(make):
    llm = make()
    output = llm.generate("abc", SHORT)
    stats = output.stats
    assert stats["prompt_tokens"] == 3 and stats["generated_tokens"] == 12 and stats["preemptions"] == 0
    assert 0 < stats["time_to_first_token"] < 60
    assert stats["prompt_tps"] == pytest.approx(3 / stats["time_to_first_token"])
    assert stats["generation_tps"] > 0
    now = llm.stats()
    assert now["tokens"] == 3 + 11 and now["steps"] == 12 and now["peak_bytes"] > 0
    assert now["pages_free"] + now["pages_used"] == llm.info["pages"]
    assert llm.info["architecture"] == "llama" and llm.info["page_format"] == "f32" and llm.info["context"] == 4096


# ------------------------------------------------------------------ leaving early

@pytest.mark.parametrize("leave", ["break", "close", "forget", "never begun", "with an error"])
def test_leaving_a_stream_cancels_it_and_frees_its_pages(make, leave):
    llm = make()
    stream = llm.stream("x" * 100, LONG)
    if leave == "break":
        for i, _ in enumerate(stream):
            if i == 3:
                break
        del stream
    elif leave == "close":
        next(stream)
        stream.close()
        stream.close()
        assert list(stream) == []
    elif leave in ("forget", "never begun"):
        if leave == "forget":
            next(stream)
        del stream
    else:
        with pytest.raises(ZeroDivisionError):
            for _ in stream:
                raise ZeroDivisionError
        del stream
    gc.collect()
    assert all_pages_free(llm)
    assert llm.stats()["tokens"] < 1000
    assert len(llm.generate("next", SHORT).token_ids) == 12


def test_a_stream_forgotten_on_the_engine_thread_does_not_block_it(make):
    """The garbage collector may run anywhere."""
    llm = make()
    held = [llm.stream("x", LONG)]
    llm._thread.call(lambda engine: held.clear())
    wait_for(lambda: all_pages_free(llm))


# ------------------------------------------------------------------ threads

def test_threads_get_the_texts_they_get_alone(make):
    llm = make(max_batch=3)
    jobs = [(f"prompt number {i} " * (1 + i % 5), SamplingParams(max_tokens=5 + i, temperature=i % 2, seed=i))
            for i in range(16)]
    alone = [llm.generate(*job).token_ids for job in jobs]

    def one(job, i):
        if i % 3 == 0:
            return [t for c in llm.stream(*job) for t in c.token_ids]
        return llm.generate(*job).token_ids

    assert in_threads([lambda job=job, i=i: one(job, i) for i, job in enumerate(jobs)]) == alone
    assert all_pages_free(llm)


def test_errors_of_one_request_do_not_disturb_others(make):
    llm = make()
    alone = llm.generate("good", SHORT).token_ids

    def bad():
        return llm.generate(["good", [999]], SHORT)

    results = in_threads([lambda: llm.generate("good", SHORT).token_ids, bad] * 8)
    assert results[::2] == [alone] * 8
    assert all(isinstance(r, RequestError) for r in results[1::2])
    assert all_pages_free(llm)


def test_the_engine_lives_on_one_thread(make):
    llm = make()
    thread = llm._thread.engine.built_on
    assert thread.name == "mlxr-engine" and llm._thread.call(lambda _: threading.current_thread()) is thread


# ------------------------------------------------------------------ the end

def test_close_while_running_wakes_everyone(make):
    llm = make()
    stream = llm.stream("streaming", LONG)
    next(stream)
    callers = [lambda: llm.generate("waiting", LONG)] * 3 + [lambda: list(stream)]

    def close():
        wait_for(lambda: llm.stats()["running"] == 4)
        llm.close()

    results = in_threads([*callers, close])
    assert [type(r) for r in results] == [EngineClosed] * 4 + [type(None)]
    assert not engine_threads()


def test_close_is_idempotent_and_nothing_works_after(make):
    with make() as llm:
        llm.generate("x", SHORT)
        late = llm.stream("x", LONG)
    llm.close()
    in_threads([llm.close] * 4)
    assert not engine_threads()
    for use in (lambda: llm.generate("x", SHORT), lambda: llm.stream("x"), llm.stats, lambda: list(late)):
        with pytest.raises(EngineClosed, match="closed"):
            use()


def test_a_forgotten_llm_ends_its_thread(make, model):
    before = len(engine_threads())
    llm = LLM("tiny")
    assert len(engine_threads()) == before + 1
    llm.generate("x", SHORT)
    del llm
    gc.collect()
    wait_for(lambda: len(engine_threads()) == before)


@pytest.mark.parametrize("where", ["launch", "text"])
def test_a_failure_of_the_engine_reaches_everyone(make, monkeypatch, where):
    """Also those whose requests had ended, but were not told yet, when the engine failed."""
    llm = make()
    engine = llm._thread.engine

    def fail(*_):
        raise RuntimeError("the device is gone")

    def breaks():
        wait_for(lambda: engine.scheduler.running and len(engine.scheduler.running) == 4)
        if where == "launch":
            engine.runner.launch = fail
        else:
            engine._logprob = fail

    waiting = SamplingParams(max_tokens=3000, logprobs=1)
    callers = [lambda: llm.generate("waiting", waiting)] * 3 + [lambda: list(llm.stream("s", LONG))]
    results = in_threads([*callers, breaks])
    assert all(isinstance(r, RuntimeError) and "the device is gone" in str(r) for r in results[:4]), results
    with pytest.raises(EngineClosed, match="the device is gone"):
        llm.generate("x", SHORT)
    llm.close()
    assert not engine_threads()


def test_a_request_that_ended_in_the_failing_step_is_told(make):
    """The first row of a step ends its request, the second one's text fails: nobody waits for ever."""
    llm = make()
    engine = llm._thread.engine
    chunk = engine._chunk

    def failing(request, token, sampled, row):
        if row == 1:
            raise RuntimeError("no text")
        return chunk(request, token, sampled, row)

    engine._chunk = failing
    one = SamplingParams(max_tokens=1)
    results = in_threads([lambda: llm.generate(["ab", "cd"], one)])
    assert isinstance(results[0], RuntimeError)
