"""A whole validation of small random models: its rows, its layers, its checks, and what models cannot have."""

import json

import numpy as np
import pytest

import models.tiny_configs as tiny_configs
from helpers.quality import WIDE, Bytes, byte_engine, passages_text
from mlxr.config import EngineConfig
from mlxr.engine import Engine
from mlxr.errors import ConfigError, UnsupportedModel
from mlxr.models.modes import GATHERED, mode_of, settle
from mlxr.pages.pool import LayerPool
from mlxr.quality import checks
from mlxr.quality.validation import Plan, Validation, accepted

ROW = {"format", "bits", "mode", "delta_ppl", "top1", "kl", "kl_p99", "match100", "prefix100", "verdict", "delta_ppl_se", "top1_se", "kl_se",
       "kl_p99_se", "match100_se", "context", "windows"}


class Told:
    """Progress that counts."""

    def __init__(self):
        self.expected, self.begun, self.done = 0, [], 0

    def expect(self, steps):
        self.expected = steps

    def begin(self, what):
        self.begun.append(what)

    def step(self):
        self.done += 1


def row(report, name, mode="in-forward", key="rows", stream="both"):
    found = [r for r in report[key] if (r["format"], r["mode"], r["stream"]) == (name, mode, stream)]
    assert len(found) == 1
    return found[0]


@pytest.fixture(scope="module", autouse=True)
def reference():
    """No kernels to compile: how they are fed is looked at in test_teacher.py, on both backends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLXR_BACKEND", "reference")
        yield


@pytest.fixture(scope="module")
def measured(reference):
    """(report, progress) of three formats on heads of 64, which all formats can store."""
    told = Told()
    plan = Plan(("f32", "q8", "a4"), contexts=(64,), windows=3, streams=("in-forward", "snapshot"), against=("mlx-lm",))
    engine = byte_engine(WIDE, scale=3.0, page_size=32)
    return Validation(engine, plan, passages_text(), told).run(), told


def test_rows_are_complete_and_json(measured):
    report, told = measured
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert all(ROW <= r.keys() for r in report["rows"])
    assert {(r["format"], r["mode"]) for r in report["rows"]} == {
        (f, m) for f in ("f32", "q8", "a4", "mlx-lm 8-bit", "mlx-lm 4-bit") for m in ("in-forward", "snapshot")}
    assert len(report["streams"]) == 3 * 2 * 2
    assert told.done == told.expected == len(told.begun)


def test_unquantized_pages_lose_nothing(measured):
    for mode in ("in-forward", "snapshot"):
        r = row(measured[0], "f32", mode)
        assert abs(r["delta_ppl"]) < 1e-3 and r["top1"] == 100 and r["kl"] < 1e-8 and r["match100"] == 100
        assert r["bits"] == 32 and r["verdict"] == "ACCEPT"
    assert measured[0]["layers"]["f32"]["k_all"] == 0 and measured[0]["layers"]["f32"]["attention_all"] < 1e-6


def test_fewer_bits_cost_more(measured):
    report = measured[0]
    for mode in ("in-forward", "snapshot"):
        q8, a4 = row(report, "q8", mode), row(report, "a4", mode)
        assert q8["bits"] < 9.1 and a4["bits"] < 5.1 and 0 < q8["kl"] < a4["kl"] / 10
        assert 0 < row(report, "mlx-lm 8-bit", mode)["kl"] < row(report, "mlx-lm 4-bit", mode)["kl"] / 10
    assert row(report, "mlx-lm 4-bit")["bits"] == 4.5
    layers = report["layers"]
    assert len(layers["q8"]["k"]) == len(layers["q8"]["attention"]) == 3
    assert 0 < layers["q8"]["k_all"] < 0.01 < layers["a4"]["k_all"] and layers["q8"]["v_all"] < 0.01 < layers["a4"]["v_all"]


def test_k_and_v_alone_cost_less_than_both(measured):
    for mode in ("in-forward", "snapshot"):
        both = row(measured[0], "a4", mode)["kl"]
        alone = [row(measured[0], "a4", mode, "streams", s)["kl"] for s in "kv"]
        assert 0 < min(alone) and max(alone) < 1.5 * both and sum(alone) == pytest.approx(both, rel=0.6)


def test_checks_hold_and_probes_ran(measured):
    report = measured[0]
    assert {c["check"] for c in report["checks"]} == {
        "batch against alone", "chunks of 64 tokens against one", "preempted against not", "prefix hit against cold",
        "pages to a file and back"}
    assert all(c["ok"] for c in report["checks"]), report["checks"]
    exact = [c["difference"] for c in report["checks"] if c["format"] == "f32" and c["difference"] is not None]
    assert len(exact) == 4 and max(exact) < 1e-5
    assert report["recall"]["formats"].keys() == {"f32", "q8", "a4"} and len(report["recall"]["formats"]["q8"]["answers"]) == 3
    assert accepted(report, "f32") and not accepted(report, "q6")


def test_pages_that_go_wrong_are_found(validation, monkeypatch):
    """A pool that loses every second sealed page: rejected by its figures, and by the checks that compare schedules."""
    whole = LayerPool.write

    def lossy(self, batch, k, v):
        if batch.seal_pages is not None and self.format.name == "q8":
            v = v * 0 - 3 if batch.seal_pages.size > 1 else v
        return whole(self, batch, k, v)

    monkeypatch.setattr(LayerPool, "write", lossy)
    report = validation(formats=("q8",), streams=(), recall=False).run()
    assert row(report, "q8")["top1"] < 95 and report["formats"]["q8"] != "ACCEPT" and report["layers"]["q8"]["v_all"] > 0.5
    assert not all(c["ok"] for c in report["checks"]) and not accepted(report, "q8")


def test_a_row_for_each_context(validation):
    report = validation(contexts=(32, 64), modes=("in-forward",), streams=(), checks=False, recall=False).run()
    assert [r["context"] for r in report["rows"]] == [32, 64] and report["checks"] == [] and report["recall"] is None
    assert report["reference_ppl"].keys() == {"32", "64"}


def test_fewer_windows_than_asked_for_are_told(validation):
    report = validation(windows=99, modes=("in-forward",), streams=(), checks=False, recall=False).run()
    assert 2 < row(report, "q8")["windows"] < 99 and "not 99" in report["notes"][0]
    assert row(report, "q8")["match_windows"] >= 6


def test_gathered_models_have_no_attention_of_their_own(validation):
    report = validation(byte_engine(mode=GATHERED), streams=()).run()
    assert row(report, "q8", "snapshot")["kl"] < 0.01 and report["layers"]["q8"]["attention"] is None
    assert report["layers"]["q8"]["k_all"] < 0.01


def test_a_recurrent_state_rules_snapshots_out(validation):
    model = tiny_configs.tiny_model("lfm2")
    config = tiny_configs.CONFIGS["lfm2"]
    engine = Engine(model, config, Bytes(size=tiny_configs.VOCAB), EngineConfig(page_size=16, kv="f32", pool_tokens=1, prefix_cache=False),
                    settle(mode_of("lfm2")[0], model))
    assert engine.recurrent
    report = validation(engine, formats=("f32", "q8")).run()
    assert {r["mode"] for r in report["rows"]} == {"in-forward"} and "recurrent state" in report["notes"][0]
    assert row(report, "f32")["match100"] == 100 and row(report, "f32")["kl"] < 1e-8
    assert all(c["ok"] for c in report["checks"]) and not any("prefix" in c["check"] for c in report["checks"])


def test_models_without_pages_are_refused(validation):
    model, config = tiny_configs.tiny_model("mamba"), tiny_configs.CONFIGS["mamba"]
    engine = Engine(model, config, Bytes(), EngineConfig(page_size=16, kv="f32", pool_tokens=1), settle(mode_of("mamba")[0], model))
    with pytest.raises(UnsupportedModel, match="no attention layers"):
        validation(engine)


def test_what_mlx_lm_cannot_quantize_is_left_out(validation):
    report = validation(modes=("in-forward",), streams=(), checks=False, recall=False, against=("mlx-lm",)).run()
    assert [r["format"] for r in report["rows"]] == ["q8"] and "heads have 16" in report["notes"][0]


def test_contexts_are_checked_first(validation):
    with pytest.raises(ConfigError, match="whole number of pages"):
        validation(contexts=(64, 100))


def test_distance_stops_where_the_tokens_part():
    a = [5, 6, 7], {10: np.ones(3), 11: np.ones(3), 12: np.ones(3)}, 10
    b = [5, 9, 7], {10: np.ones(3), 11: np.full(3, 1.1), 12: np.full(3, 99.0)}, 10
    assert checks.distance(a, b) == pytest.approx(0.1) and checks.distance(a, a) == 0
