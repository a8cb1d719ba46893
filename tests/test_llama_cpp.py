"""llama.cpp as the judge of a GGUF model: it quantizes activations, so that top tokens are compared, not logits."""

import numpy as np
import pytest

from helpers.requantized import requantized

from mlxr.config import EngineConfig
from mlxr.engine import load_engine
from mlxr.scheduler import Work
from mlxr.sequence import SamplingParams, Sequence
from mlxr.weights.quants import REGISTRY

pytestmark = pytest.mark.slow
POSITIONS = 500


def both_logits(path, text, positions):
    """(our logits, llama.cpp's logits), [positions, vocabulary] each, of the beginning of a text."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is the judge here: install mlxr[bench]")
    engine = load_engine(str(path), EngineConfig(kv="f16", context=positions + 8))
    tokens = engine.tokenizer.encode(text)[:positions]
    peer = llama_cpp.Llama(str(path), n_ctx=positions + 8, n_batch=positions, logits_all=True, verbose=False)
    assert peer.tokenize(text.encode(), add_bos=False)[:positions] == tokens
    peer.eval(tokens)
    sequence = Sequence(tokens, SamplingParams(), positions + 1)
    pages = engine.scheduler.allocator.take(positions // engine.config.page_size)
    ours = engine.runner.logits([Work(sequence, 0, positions, False, -1, 0, pages, every=True)])
    return np.array(ours), np.array(peer.scores[:positions])


@pytest.fixture(scope="module")
def both(smollm2_gguf, wikitext):
    return both_logits(smollm2_gguf, wikitext[3000:9000], POSITIONS)


@pytest.mark.parametrize("kind", [k for k in REGISTRY if k != "Q8_K"])      # that one is for activations
def test_the_same_top_token_in_every_type(smollm2_gguf, wikitext, tmp_path, kind, record_property):
    assert requantized(smollm2_gguf, tmp_path / "m.gguf", kind) >= 30
    ours, theirs = both_logits(tmp_path / "m.gguf", wikitext[3000:9000], 200)
    same = (ours.argmax(-1) == theirs.argmax(-1)).mean()
    distance = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    record_property("same_top_token", float(same))
    print(f"{kind}: same top token {same:.3f}, relative L2 {distance:.4f}")
    assert same >= 0.95 and distance <= 3e-2


def test_the_same_top_token_at_96_of_100_positions(both, record_property):
    ours, theirs = both
    same = (ours.argmax(-1) == theirs.argmax(-1)).mean()
    record_property("same_top_token", float(same))
    assert same >= 0.96


def test_logits_are_close(both, record_property):
    """Quantized activations cost llama.cpp a percent or two."""
    ours, theirs = both
    distance = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    record_property("relative_l2", float(distance))
    print(f"same top token {(ours.argmax(-1) == theirs.argmax(-1)).mean():.3f}, relative L2 {distance:.4f}")
    assert distance <= 3e-2
