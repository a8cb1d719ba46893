"""The benchmark of several sizes: what is measured where, what Ctrl-C leaves, ratios beside peers, the page; with contests faked."""

from pathlib import Path

import pytest

from mlxr.benchmarks import suite
from mlxr.benchmarks.children import ChildFailed
from mlxr.benchmarks.page import page
from mlxr.benchmarks.speed import METRICS, Plan
from mlxr.errors import ConfigError


class FakeContestants:
    """Loads nothing."""

    def __init__(self, path, config, against, threads):
        self.path, self.notes, self.closed = path, [], False

    def start(self):
        pass

    def close(self):
        self.closed = True

    def ask(self, name, command, **arguments):
        raise ConfigError("no memory for it")


class FakeContest:
    """Notes what it was asked, and answers with rates that follow from it. raises: {number of the call: error}."""

    asked = []
    raises = {}

    def __init__(self, contestants, plan, kv, against):
        self.plan, self.kv, self.against = plan, kv, against
        self.interrupted = False

    def run(self):
        self.asked.append((self.kv, self.plan.batch, self.plan.depth, self.against))
        if len(self.asked) in self.raises:
            raise self.raises[len(self.asked)]
        return self

    def report(self):
        def rates(by):
            out = {}
            for m in METRICS:
                value = by * self.plan.batch
                out |= {f"{m}_tps": value, f"{m}_tps_spread": [value - 1, value + 1], f"{m}_tps_all": [value] * 3}
            return out
        peers = {n: {**rates(10.0), "prefill_ratio": 2.0, "decode_ratio": 2.0, "settings": {}} for n in self.against}
        return {"model": "m.gguf", **self.plan.sizes, "reps": 3, **rates(20.0), "backend": "host", "kernels": {}, "threads": 2, "page_format": "f16",
                "page_size": 64, "dtype": "float32", "architecture": "llama", "weights_bytes": 1, "kv_bytes_per_token": 100.0, "peak_bytes": 1 << 20,
                "pool_bytes": 1 << 19, "fill_seconds": None, "past_context": False, "ttft_seconds": 0.5, "ttft_spread": [0.4, 0.6], "against": peers,
                "notes": [], "interrupted": False}


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr(suite, "Contest", FakeContest)
    monkeypatch.setattr(suite, "Contestants", FakeContestants)
    monkeypatch.setattr(FakeContest, "asked", [])
    monkeypatch.setattr(FakeContest, "raises", {})

    def made(depths=(0, 100), batches=(1, 2), kvs=("f16", "q8"), against=("llama.cpp",), extras=False):
        return suite.Suite(Path("m.gguf"), Plan(), depths, batches, kvs, {}, against, extras=extras)
    return made


def test_every_cell_and_peers_beside_the_first_format(run):
    made = run().run()
    assert FakeContest.asked == [(kv, b, d, ("llama.cpp",) if kv == "f16" else ()) for kv in ("f16", "q8") for b in (1, 2) for d in (0, 100)]
    assert made.contestants.closed


def test_report_rows_and_page(run):
    made = run().run()
    report = made.report()
    assert len(report["cells"]) == 8 and report["cells"][0]["contestants"]["llama.cpp"]["decode_ratio"] == 2.0
    rows = list(made.csv_rows("tag"))
    assert len(rows) == 4 * 2 * 2 + 4 * 2 and all(len(r) == len(suite.CSV) for r in rows)
    text = page(report)
    assert text.count("<svg") == 5 and "llama.cpp" in text and "2.00" in text and "Serving load" not in text


def test_ctrl_c_keeps_the_parts_that_were_complete(run):
    FakeContest.raises = {3: KeyboardInterrupt()}
    made = run().run()
    report = made.report()
    assert report["interrupted"] and len(report["cells"]) == 2 and "interrupted" in page(report) and made.contestants.closed
    FakeContest.asked.clear()
    FakeContest.raises = {1: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        run().run()


def test_a_cell_that_cannot_be_measured_is_left_out_and_a_failure_keeps_what_was(run):
    FakeContest.raises = {2: ConfigError("too large"), 4: ChildFailed("mlxr ended (9)")}
    made = run().run()
    assert [(c["batch"], c["depth"]) for c in made.cells] == [(1, 0), (2, 0)] and made.failed
    assert made.report()["notes"] == ["left out: too large", "it ended early: mlxr ended (9)"]
    FakeContest.asked.clear()
    FakeContest.raises = {1: ConfigError("too large")}
    with pytest.raises(ConfigError, match="^too large$"):
        run((0,), (1,), ("f16",)).run()


def test_extras_that_cannot_be_measured_are_left_out(run):
    made = run((0,), (1,), ("f16",), extras=True).run()
    assert made.more == [{"kv": "f16", "prefix": None, "serving": None}]
    assert made.notes == ["prefix hits and serving with f16 were left out: no memory for it"] and "Serving load" not in page(made.report())


def test_sizes_are_checked_before_anything_is_measured(run):
    with pytest.raises(ConfigError, match="--batch must be at least 1"):
        run(batches=(1, 0))
    assert not FakeContest.asked
