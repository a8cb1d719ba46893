"""llama.cpp as the judge of a GGUF model: it quantizes activations, so that top tokens are compared, not logits."""

import numpy as np
import pytest

from mlxr.config import EngineConfig
from mlxr.engine import load_engine
from mlxr.scheduler import Work
from mlxr.sequence import SamplingParams, Sequence

pytestmark = pytest.mark.slow
POSITIONS = 500


@pytest.fixture(scope="module")
def both(smollm2_gguf, wikitext):
    """(our logits, llama.cpp's logits), [POSITIONS, vocabulary] each, of the same text and file."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is the judge here: install mlxr[bench]")
    engine = load_engine(str(smollm2_gguf), EngineConfig(kv="f16", context=POSITIONS + 8))
    tokens = engine.tokenizer.encode(wikitext[3000:9000])[:POSITIONS]
    peer = llama_cpp.Llama(str(smollm2_gguf), n_ctx=POSITIONS + 8, n_batch=POSITIONS, logits_all=True, verbose=False)
    assert peer.tokenize(wikitext[3000:9000].encode(), add_bos=False)[:POSITIONS] == tokens
    peer.eval(tokens)
    sequence = Sequence(tokens, SamplingParams(), POSITIONS + 1)
    pages = engine.scheduler.allocator.take(POSITIONS // engine.config.page_size)
    ours = engine.runner.logits([Work(sequence, 0, POSITIONS, False, -1, 0, pages, every=True)])
    return np.array(ours), np.array(peer.scores[:POSITIONS])


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
