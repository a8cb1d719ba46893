"""The logic of the speed benchmark: medians, ratios, turns, what becomes of failures and of Ctrl-C, the contestants' ends."""

import itertools
import sys
import textwrap
import weakref
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny import tiny_engine, tiny_model
from mlxr.benchmarks import own_engine, prompts, speed
from mlxr.benchmarks.children import Child, ChildFailed
from mlxr.errors import ConfigError
from mlxr.pages.prefix_cache import extend_keys


class FakeChild:
    """Answers from a script, and notes what it was asked."""

    log = []
    times = {"mlxr": {"prefill": [0.5, 1.0, 2.0], "decode": [0.1, 0.1, 0.3]},
             "llama.cpp": {"prefill": [1.0, 2.0, 4.0], "decode": [0.05, 0.05, 0.05]}, "mlx-lm": {"prefill": [31.0] * 3, "decode": [1.0] * 3}}
    raises = {}

    def __init__(self, name, module, environment=None, quiet=False):
        self.name, self.environment, self.open = name, environment, True
        self.answers = {m: iter(t) for m, t in self.times[name].items()}

    def ask(self, command, **arguments):
        self.log.append((self.name, command, arguments.get("seed")))
        error = self.raises.get((self.name, command, arguments.get("seed")))
        if error:
            raise error
        if command == "setup":
            return {"threads": 2, "vocabulary": 99, "dtype": "float32"} if self.name == "mlxr" else {"threads": arguments.get("threads")}
        if command == "size":
            return {"note": "far out" if arguments["depth"] > 100 else ""} if self.name == "mlxr" else None
        if command == "warm":
            return None
        if command == "used":
            return {"kernels": {"attend": "host"}, "peak_bytes": 1, "fill_seconds": None, "preemptions": 0}
        return {"tokens": 10, "seconds": next(self.answers[command])}

    def close(self):
        self.log.append((self.name, "close", None))


@pytest.fixture
def contest(monkeypatch):
    monkeypatch.setattr(speed, "Child", FakeChild)
    monkeypatch.setattr(speed, "PAUSE", 0)
    monkeypatch.setattr(speed, "_why_not", lambda name, path: None)
    monkeypatch.setattr(FakeChild, "log", [])
    monkeypatch.setattr(FakeChild, "raises", {})

    def made(*against, depth=0):
        contestants = speed.Contestants(Path("m.gguf"), {}, against)
        contestants.start()
        return speed.Contest(contestants, speed.Plan(reps=3, depth=depth), "f16", against)
    return made


def test_medians_spreads_and_ratios(contest):
    report = contest("llama.cpp").run().report()
    assert (report["prefill_tps"], report["prefill_tps_spread"]) == (10.0, [5.0, 20.0])
    assert (report["decode_tps"], report["decode_tps_spread"]) == (100.0, [33.33, 100.0])
    peer = report["against"]["llama.cpp"]
    assert (peer["prefill_tps"], peer["prefill_ratio"]) == (5.0, 2.0)
    assert (peer["decode_tps"], peer["decode_ratio"]) == (200.0, 0.5)
    assert report["kernels"] == {"attend": "host"} and report["threads"] == 2


def test_they_take_turns_after_a_warm_up(contest):
    made = contest("llama.cpp").run()
    names = "mlxr", "llama.cpp"
    assert [x[:2] for x in FakeChild.log[:7]] == [(n, "setup") for n in names] + [(names[0], c) for c in ("size", "warm", "used")] + [
        (names[1], c) for c in ("size", "warm")]
    assert [x for x in FakeChild.log if x[1] in speed.METRICS] == [(n, m, i) for i in range(3) for m in speed.METRICS for n in names]
    made.contestants.close()
    assert [x for x in FakeChild.log if x[1] == "close"] == [(n, "close", None) for n in names]


def test_what_the_reader_has_to_know_is_noted(contest):
    assert contest(depth=200).run().notes == ["f16, batch 1, depth 200: far out"] and contest().run().notes == []


def test_a_slow_peer_is_repeated_less(contest):
    report = contest("mlx-lm").run().report()
    assert len(report["against"]["mlx-lm"]["prefill_tps_all"]) == 1 and len(report["against"]["mlx-lm"]["decode_tps_all"]) == 3
    assert len(report["prefill_tps_all"]) == 3


def test_a_peer_that_fails_to_start_is_left_out_with_a_note(contest):
    FakeChild.raises = {("llama.cpp", "setup", None): ChildFailed("llama.cpp: no luck")}
    made = contest("llama.cpp")
    report = made.run().report()
    assert report["against"] == {} and made.contestants.notes == ["llama.cpp was left out: llama.cpp: no luck"] and report["prefill_tps"] == 10.0


def test_a_peer_that_cannot_take_part_in_a_cell_is_left_out_of_that_one(contest):
    FakeChild.raises = {("llama.cpp", "size", None): ConfigError("its cache takes 99 GiB")}
    made = contest("llama.cpp")
    report = made.run().report()
    assert report["against"] == {} and report["notes"] == ["f16, batch 1, depth 0: llama.cpp was left out: its cache takes 99 GiB"]
    assert "llama.cpp" in made.contestants and report["decode_tps"] == 100.0


def test_a_peer_that_fails_later_keeps_what_it_did(contest):
    FakeChild.raises = {("llama.cpp", "decode", 1): ChildFailed("llama.cpp ended (9)")}
    made = contest("llama.cpp")
    report = made.run().report()
    peer = report["against"]["llama.cpp"]
    assert len(peer["prefill_tps_all"]) == 2 and len(peer["decode_tps_all"]) == 1 and len(report["decode_tps_all"]) == 3
    assert made.contestants.notes == ["llama.cpp dropped out: llama.cpp ended (9)"]


def test_mlxr_itself_may_not_fail(contest):
    FakeChild.raises = {("mlxr", "decode", 1): ChildFailed("mlxr ended (9)")}
    with pytest.raises(ChildFailed, match="mlxr ended"):
        contest("llama.cpp").run()


def test_ctrl_c_keeps_complete_measurements(contest):
    FakeChild.raises = {("llama.cpp", "decode", 1): KeyboardInterrupt()}
    report = contest("llama.cpp").run().report()
    assert report["interrupted"] and len(report["decode_tps_all"]) == 2 and len(report["against"]["llama.cpp"]["decode_tps_all"]) == 1
    FakeChild.raises = {("mlxr", "warm", None): KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        contest().run()


def test_what_was_not_measured_has_no_ratio():
    assert speed.ratio(3.0, None) is None and speed.ratio(None, 3.0) is None and speed.ratio(3.0, 2.0) == 1.5
    assert speed.Result("x").summary()["decode_tps"] is None


def test_peers_that_cannot_take_part(monkeypatch):
    monkeypatch.setattr(speed.importlib.util, "find_spec", lambda name: None if name == "mlx_lm" else object())
    assert speed._why_not("mlx-lm", Path("m.gguf")) == "mlx-lm is not installed"
    with monkeypatch.context() as m:
        m.setattr(speed.importlib.util, "find_spec", lambda name: None)
        assert speed._why_not("llama.cpp", Path("m.gguf")) == "llama.cpp is not installed: pip install 'mlxr[bench]'"
    assert speed._why_not("llama.cpp", Path("folder")) == "llama.cpp reads GGUF files alone"
    assert speed._why_not("llama.cpp", Path("m.gguf")) is None
    with pytest.raises(ConfigError, match="--against x: there are llama.cpp, mlx-lm"):
        speed.check_peers(["x"])


def test_prompts_are_the_same_for_all_and_new_each_time():
    a, b = prompts.prompts(1, 2, 50, 100), prompts.prompts(1, 2, 50, 100)
    assert a == b and a != prompts.prompts(2, 2, 50, 100) and a[0] != a[1]
    assert [len(p) for p in a] == [50, 50] and all(0 <= t < 100 for p in a for t in p)


@pytest.fixture
def contestant(monkeypatch):
    """An OwnEngine around a tiny model of 4096 tokens of context, whose clock counts how often it was read."""
    engine = tiny_engine(tiny_model(), kv="f16")
    monkeypatch.setattr(own_engine, "load_engine", lambda model, config: engine)
    ticks = itertools.count()
    monkeypatch.setattr(own_engine.time, "perf_counter", lambda: float(next(ticks)))
    return own_engine.OwnEngine("m", {"token_budget": 64, "page_size": 16})


@pytest.mark.parametrize("batch, depth", [(1, 0), (3, 30), (3, 96)])
def test_the_engine_is_measured_on_the_tokens_that_were_asked_for(contestant, batch, depth):
    """Prompts of pp tokens, tg tokens a sequence, after a context that is read once; counted once all have begun; nothing stays."""
    contestant.size("q8", 40, 5, depth, batch)
    contestant.warm()
    engine, read = contestant.engine, depth // 16 * 16
    before = engine.computed
    measured = contestant.prefill(0)
    assert measured["tokens"] == engine.computed - before and 40 * batch <= measured["tokens"] <= (40 + depth - read) * batch
    measured = contestant.decode(0)
    assert 5 * batch <= measured["tokens"] < 6 * batch
    before = engine.computed
    contestant.prefill(1), contestant.decode(1), contestant.prefill(2)
    assert engine.computed - before < batch * (2 * (40 + 16) + 16 + contestant.most)      # the context was found each time
    assert not engine.busy and not engine.requests and engine.scheduler.allocator.used == 0 and engine.preemptions == 0
    assert engine.kv.text == "q8" and engine.weights_bytes == contestant.loaded.weights_bytes and engine.model is contestant.loaded.model
    assert (contestant.used()["fill_seconds"] is None) == (depth == 0)


@pytest.mark.parametrize("computed", [4096, 32])
def test_copied_contexts_have_pages_of_their_own_with_the_same_records(contestant, monkeypatch, computed):
    monkeypatch.setattr(own_engine, "COMPUTED", computed)
    contestant.size("q8", 8, 5, 96, 3)
    contestant.warm()
    engine, keys, some = contestant.engine, [[] for _ in range(3)], min(computed, 80) // 16
    for made, tokens in zip(keys, contestant.contexts):
        extend_keys(made, tokens, 16)
    pages = [engine.scheduler.cache.pages(made[:5]) for made in keys]     # the last is computed, each time
    assert len({p for ps in pages for p in ps}) == 15
    for layer in engine.pool.layers:
        records = np.array(layer.records)
        first = records[pages[0]]
        assert first.any() and len(np.unique(first, axis=0)) == some
        for ps in pages:
            assert (records[ps] == first[[i % some for i in range(5)]]).all()
    assert (contestant.used()["fill_seconds"] is None) == (computed < 96)


@pytest.mark.slow
def test_copies_of_pages_that_are_held_as_plain_numbers(contestant):
    """Sequences' first tokens in f16, and pages that are decoded: the context is found all the same, and nothing is stale."""
    contestant.size("q8,sink=20", 8, 5, 96, 3)
    contestant.warm()
    engine, keys = contestant.engine, [[] for _ in range(3)]
    for made, tokens in zip(keys, contestant.contexts):
        extend_keys(made, tokens, 16)
    pages = [engine.scheduler.cache.pages(made[:5]) for made in keys]
    assert engine.pool.held.first == 2 and all(p > engine.pool.held.base for ps in pages for p in ps[:2]) and len({p for ps in pages for p in ps}) == 15
    for layer in engine.pool.layers:
        numbers = np.array(layer.held.numbers)[[[engine.pool.held.slot(p) for p in ps[:2]] for ps in pages]]
        assert numbers[0].any() and (numbers == numbers[0]).all()
    before = engine.computed
    contestant.prefill(0)
    assert engine.computed - before <= 3 * (8 + 16)
    contestant.loaded = contestant.loaded.sibling(kv_dequant_cache=1 << 20)
    contestant.size("q8", 8, 5, 96, 2)
    contestant.warm()
    assert contestant.decode(0)["tokens"] >= 10 and contestant.engine.pool.held.decoded


def test_one_pool_at_a_time(contestant):
    contestant.size("q8", 8, 5, 0, 1)
    contestant.warm()
    before = weakref.ref(contestant.engine)
    contestant.size("q8", 8, 5, 0, 2)
    assert before() is None


def test_a_context_past_the_models_is_measured_and_said(contestant):
    info = contestant.size("f16", 8, 5, 5000, 1)
    assert "past this model's context of 4096 tokens" in info["note"] and info["past_context"] and info["context"] > 5000
    assert contestant.size("f16", 8, 5, 100, 1)["note"] == ""


def test_prompts_after_a_context_that_cannot_be_kept_are_not_measured(contestant):
    """As of models with a recurrent state: their pages alone are no context."""
    contestant.loaded = contestant.loaded.sibling(prefix_cache=False)
    contestant.config["prefix_cache"] = False
    assert contestant.size("f16", 8, 5, 0, 2)["note"] == "" and contestant.warm() is None and contestant.prefill(0)["tokens"] == 16
    assert contestant.size("f16", 8, 5, 40, 2)["note"] == "prompts are not measured at this depth, as the prefix cache is off"
    contestant.warm()
    assert contestant.prefill(0) is None and contestant.decode(0)["tokens"] >= 10 and contestant.used()["fill_seconds"] is None


def test_what_cannot_be_measured_is_told(contestant, monkeypatch):
    with pytest.raises(ConfigError, match="f16, batch 4, depth 1000: its pages, tails and scratch take .* GiB are available; lower --depth or --batch"):
        monkeypatch.setattr(own_engine, "memory_available", lambda: 1 << 20)
        contestant.size("f16", 8, 5, 1000, 4)
    monkeypatch.setattr(type(contestant.loaded.model), "named_modules", lambda self: [("transformer.wpe", None)])
    with pytest.raises(ConfigError, match="the context is 4096 tokens, for which this model has a table of positions, and this needs 50"):
        contestant.size("f16", 8, 5, 5000, 1)


@pytest.fixture
def child(tmp_path, monkeypatch):
    (tmp_path / "contestant.py").write_text(textwrap.dedent("""
        import os, sys, time
        from mlxr.benchmarks.children import serve
        from mlxr.errors import ConfigError

        class Contestant:
            def __init__(self, name):
                if name == "bad":
                    raise ConfigError("a bad name")
                self.name = name
            def info(self):
                print("noise on standard output")
                return {"name": self.name}
            def fail(self):
                raise RuntimeError("out of luck")
            def sleep(self):
                time.sleep(1000)
            def die(self):
                print("last words", file=sys.stderr)
                os._exit(3)

        serve(Contestant)
    """))
    made = Child("peer", "contestant", {"PYTHONPATH": f"{tmp_path}:{':'.join(p for p in sys.path if p)}"}, quiet=True)
    yield made
    made.close()


def test_children_answer_and_fail_in_one_line(child):
    with pytest.raises(ConfigError, match="^a bad name$"):
        child.ask("setup", name="bad")
    assert child.ask("setup", name="x") == {"name": "x"}
    with pytest.raises(ChildFailed, match="^peer: RuntimeError: out of luck$"):
        child.ask("fail")
    assert child.ask("info") == {"name": "x"}
    with pytest.raises(ChildFailed, match=r"^peer ended \(3\): last words$"):
        child.ask("die")


def test_children_end_with_their_parent_even_at_work(child):
    """Closing the pipe ends a child that is in the middle of something."""
    child.ask("setup", name="x")
    child._process.stdin.write('["sleep", {}]\n')
    child._process.stdin.close()
    assert child._process.wait(10) == 0
