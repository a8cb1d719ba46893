"""The benchmark of several sizes: what is measured where, what Ctrl-C leaves, ratios beside peers, the page; with contests faked."""

from pathlib import Path

import pytest

from mlxr.benchmarks import suite
from mlxr.benchmarks.page import page
from mlxr.benchmarks.speed import METRICS, Plan
from mlxr.errors import ConfigError


class FakeContest:
    """Notes what it was asked, and answers with rates that follow from it."""

    asked = []
    interrupt_at = None

    def __init__(self, path, plan, config, against, threads, metrics):
        self.plan, self.config, self.against, self.metrics = plan, config, against, metrics
        self.interrupted = False

    def run(self):
        self.asked.append((self.config["kv"], self.plan.batch, self.plan.depth, self.metrics, self.against))
        if self.interrupt_at == len(self.asked):
            raise KeyboardInterrupt
        return self

    def report(self):
        def rates(by):
            out = {}
            for m in METRICS:
                value = by * self.plan.batch if m in self.metrics else None
                out |= {f"{m}_tps": value, f"{m}_tps_spread": value and [value - 1, value + 1], f"{m}_tps_all": [value] * 3 if value else []}
            return out
        peers = {n: {**rates(10.0), "prefill_ratio": 2.0, "decode_ratio": 2.0, "settings": {}} for n in self.against}
        return {"model": "m.gguf", **self.plan.sizes, "reps": 3, **rates(20.0), "backend": "host", "kernels": {}, "threads": 2, "page_format": "f16",
                "page_size": 64, "dtype": "float32", "architecture": "llama", "weights_bytes": 1, "kv_bytes_per_token": 100.0, "peak_bytes": 1 << 20,
                "ttft_seconds": 0.5 if "prefill" in self.metrics else None, "against": peers, "notes": [], "interrupted": False, "versions": {}, "machine": {}}


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr(suite, "Contest", FakeContest)
    monkeypatch.setattr(FakeContest, "asked", [])
    monkeypatch.setattr(FakeContest, "interrupt_at", None)

    def made(depths=(0, 100), batches=(1, 2), kvs=("f16", "q8"), against=("llama.cpp",)):
        return suite.Suite(Path("m.gguf"), Plan(), depths, batches, kvs, {}, against)
    return made


def test_prompts_once_for_each_batch_and_peers_beside_the_first_format(run):
    run().run()
    assert FakeContest.asked == [(kv, b, d, METRICS if d == 0 else ("decode",), ("llama.cpp",) if kv == "f16" else ())
                                 for kv in ("f16", "q8") for b in (1, 2) for d in (0, 100)]


def test_report_rows_and_page(run):
    made = run().run()
    report = made.report()
    assert len(report["cells"]) == 8 and report["cells"][0]["contestants"]["llama.cpp"]["decode_ratio"] == 2.0
    rows = list(made.csv_rows("tag"))
    assert len(rows) == (4 + 2) * 2 + (4 + 2) and all(len(r) == len(suite.CSV) for r in rows)
    text = page(report)
    assert text.count("<svg") == 4 and "llama.cpp" in text and "2.00" in text and "Serving load" not in text


def test_ctrl_c_keeps_the_parts_that_were_complete(run):
    FakeContest.interrupt_at = 3
    made = run().run()
    report = made.report()
    assert report["interrupted"] and len(report["cells"]) == 2 and "interrupted" in page(report)
    FakeContest.asked.clear()
    FakeContest.interrupt_at = 1
    with pytest.raises(KeyboardInterrupt):
        run().run()


def test_sizes_are_checked_before_anything_is_measured(run):
    with pytest.raises(ConfigError, match="--batch must be at least 1"):
        run(batches=(1, 0))
    assert not FakeContest.asked
