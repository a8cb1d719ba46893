"""Every page format means one thing: chunks, batches and prefix hits leave the logits as they are."""

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
SCHEDULES = {
    "chunks of 64": dict(token_budget=64), "chunks of 100": dict(token_budget=100), "chunks of 512": dict(token_budget=512),
    "one after the other": dict(token_budget=2048, max_batch=1),
}


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    file = tmp_path_factory.mktemp("calibration") / "c.safetensors"
    calibrate_engine(byte_engine(WIDE, scale=1.0, pool_bytes=ROOM, page_size=32), passages_text(20000), windows=4, context=128, out=file)
    return str(file)


def prompts():
    text = shipped_text().content.encode()
    return [[b % 131 for b in text[5000 * i:5000 * i + n]] for i, n in enumerate(LENGTHS)]


def outcome(kv, calibration, again=False, **config):
    """(tokens, logits of each prompt, engine); again: of a second time, when the prefix cache has their pages."""
    engine = byte_engine(WIDE, scale=1.0, page_size=32, kv=kv, calibration=calibration, **{"pool_bytes": ROOM, "prefix_cache": True, **config})
    for _ in range(2 if again else 1):
        seen = Observer(engine)
        made = [engine.add(p, SamplingParams(max_tokens=20, ignore_eos=True)) for p in prompts()]
        tokens = run(engine, made)
    return tokens, [np.stack(seen.of(r)) for r in made], engine


@pytest.mark.slow
@pytest.mark.parametrize("kv", [n for n in NAMES if n != "q6"])
def test_one_meaning_whatever_the_schedule(calibrated, kv):
    tokens, logits, _ = outcome(kv, calibrated, token_budget=2048)
    cases = [(name, dict(config)) for name, config in SCHEDULES.items()] + [("on a prefix hit", dict(token_budget=512, again=True))]
    for name, config in cases:
        ours_tokens, ours, _ = outcome(kv, calibrated, **config)
        assert ours_tokens == tokens, name
        assert max(relative(a, b) for a, b in zip(ours, logits)) <= 1e-4, name
