"""Every page format means one thing: chunks, batches, prefix hits, preemption and held pages leave the logits as they are."""

import numpy as np
import pytest

from helpers.quality import WIDE, byte_engine, passages_text
from helpers.tiny import Observer, relative, run
from mlxr.pages.formats import NAMES
from mlxr.quality.calibrate import calibrate_engine
from mlxr.quality.texts import shipped_text
from mlxr.sequence import SamplingParams

LENGTHS = 70, 600
ROOM = 1 << 23
TOKENS = 40
SCHEDULES = {
    "chunks of 64": dict(token_budget=64), "chunks of 100": dict(token_budget=100), "chunks of 512": dict(token_budget=512),
    "one after the other": dict(token_budget=2048, max_batch=1),
}
APART = "k:q8,v:q2", "k:q2:block=16,v:q4", "q4,skip=0,-1", "q3,sink=40"       # combinations, with more than a name


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    file = tmp_path_factory.mktemp("calibration") / "c.safetensors"
    calibrate_engine(byte_engine(WIDE, scale=1.0, pool_bytes=ROOM, page_size=32), passages_text(20000), windows=4, context=128, out=file, costs_on=1)
    return str(file)


def prompts():
    text = shipped_text().content.encode()
    return [[b % 131 for b in text[5000 * i:5000 * i + n]] for i, n in enumerate(LENGTHS)]


def outcome(kv, calibration, again=False, tokens=TOKENS, **config):
    """(tokens, logits of each prompt, engine); again: of a second time, when the prefix cache has their pages."""
    engine = byte_engine(WIDE, scale=1.0, page_size=32, kv=kv, calibration=calibration, **{"pool_bytes": ROOM, "prefix_cache": True, **config})
    for _ in range(2 if again else 1):
        seen = Observer(engine)
        made = [engine.add(p, SamplingParams(max_tokens=tokens, ignore_eos=True)) for p in prompts()]
        drawn = run(engine, made)
    return drawn, [np.stack(seen.of(r)) for r in made], engine


def check(kv, calibration, names=None):
    """Each schedule's tokens and logits against those of whole prompts in one batch."""
    drawn, logits, engine = outcome(kv, calibration, token_budget=2048)
    tight = dict(token_budget=512, pool_bytes=(pages_in(kv) + 1) * engine.info()["page_bytes"], prefix_cache=False)
    cases = {**SCHEDULES, "on a prefix hit": dict(token_budget=512, again=True), "preempted": tight}
    for name, config in cases.items():
        if names is None or name in names:
            ours_drawn, ours, engine = outcome(kv, calibration, **config)
            assert ours_drawn == drawn, name
            assert max(relative(a, b) for a, b in zip(ours, logits)) <= 1e-4, name
            assert name != "preempted" or engine.preemptions
            assert name != "on a prefix hit" or engine.scheduler.allocator.kept


def pages_in(kv):
    """One page fewer than both prompts come to need: the later one is preempted."""
    first = 2 if "sink" in kv else 0
    return sum((n + TOKENS - 1) // 32 - first for n in LENGTHS) - 1


def test_one_meaning_on_a_few_schedules(calibrated):
    check("q3", calibrated, ("chunks of 100", "preempted"))


@pytest.mark.slow
@pytest.mark.parametrize("kv", [*NAMES, *APART])
def test_one_meaning_whatever_the_schedule(calibrated, kv):
    check(kv, calibrated)
