"""Validate the KV cache on a real model: token counts, pages, memory with and without GQA, and cached = recomputed.

    python examples/kv_cache_validation.py                  the default model
    python examples/kv_cache_validation.py MODEL --kv f32   any model, any page format

Prints a line for each check and exits with 1 when one fails.
"""

import argparse
import sys

import mlxr  # noqa: F401  (before mlx: it decides which BLAS a CPU uses)
import numpy as np

from mlxr import EngineConfig, SamplingParams
from mlxr.engine import load_engine
from mlxr.memory import token_bytes
from mlxr.pages.formats import page_format
from mlxr.pages.pool import LayerSpec

TEXT = "A cache of keys and values keeps what attention computed for earlier tokens, so that each token is computed once. "
FAILED = []


def check(what, ok, detail=""):
    print(f"  {'ok  ' if ok else 'FAIL'}  {what}{': ' + detail if detail else ''}")
    if not ok:
        FAILED.append(what)


def conserved(engine):
    """Allocated + free pages are all pages, each held by who should hold it."""
    engine.scheduler.check()
    allocator = engine.scheduler.allocator
    return allocator.free + allocator.used == engine.pool.pages


def token_counts(engine, prompt):
    """After prefill the cache holds the prompt; after n decode steps, n tokens more; full pages are sealed."""
    request = engine.add(prompt, SamplingParams(max_tokens=40, ignore_eos=True))
    sequence, size, steps, ok = request.sequence, engine.config.page_size, 0, True
    while sequence.computed < len(prompt):
        engine.step()
        steps += 1
        ok &= conserved(engine)
    check("tokens in the cache after prefill", sequence.computed == len(prompt), f"{sequence.computed} in {steps} steps")
    check("sealed pages after prefill", len(sequence.pages) == len(prompt) // size, f"{len(sequence.pages)} of {size} tokens")
    for _ in range(20):
        engine.step()
        ok &= conserved(engine)
    check("tokens in the cache after 20 decode steps", sequence.computed == len(prompt) + 20, f"{sequence.computed}")
    engine.cancel(request)
    check("pages conserved after every step", ok)
    check("all pages free after a cancel", conserved(engine) and engine.scheduler.allocator.used == 0)
    while engine.busy:
        engine.step()
    engine.release(request)


def memory(engine):
    """The pool takes what the formula says, and GQA saves the share of heads it shares."""
    info = engine.info()
    pages = info["pages"] + 1                    # page 0 pads block tables
    check("pool bytes as predicted", info["pool_bytes"] == pages * info["page_bytes"],
          f"{pages} pages x {info['page_bytes']} = {info['pool_bytes']} bytes, {info['kv_bytes_per_token']:.0f} a token")
    f16, size = page_format("f16"), 64
    grouped, full = (token_bytes([LayerSpec(heads, 128, 128)] * 32, f16, size) for heads in (4, 32))
    saving = 1 - grouped / full
    check("saving for 32 query heads and 4 KV heads", saving == 0.875, f"{100 * saving:.1f} % ({grouped:.0f} bytes a token, not {full:.0f})")


def cached_equals_recomputed(engine, prompt, n=24):
    """Decoding through the cache draws what computing everything anew at each step draws."""
    seen = {}
    engine.runner.observer = lambda works, logits: seen.update({(w.sequence.id, w.start + w.count): np.array(logits[i])
                                                                for i, w in enumerate(works)})
    request = engine.add(prompt, SamplingParams(max_tokens=n, ignore_eos=True))
    while engine.busy:
        engine.step()
    tokens, worst = prompt + request.sequence.generated, 0.0
    for end in range(len(prompt), len(tokens), 6):
        again = engine.add(tokens[:end], SamplingParams(max_tokens=1, ignore_eos=True))
        while engine.busy:
            engine.step()
        a, b = seen[request.sequence.id, end], seen[again.sequence.id, end]
        worst = max(worst, float(np.linalg.norm(a - b) / np.linalg.norm(b)))
        check(f"token {end} from the cache and from scratch", again.sequence.generated[0] == tokens[end])
    engine.runner.observer = None
    check("logits from the cache and from scratch", worst < 1e-3, f"relative L2 at most {worst:.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--kv", default="f16", help="page format (default: f16)")
    args = parser.parse_args()
    engine = load_engine(args.model, EngineConfig(kv=args.kv, context=512, token_budget=64))
    prompt = engine.tokenizer.encode(TEXT * 6)[:130]
    print(f"{engine.architecture}, pages {engine.format.name} of {engine.config.page_size} tokens, {len(prompt)} prompt tokens")
    token_counts(engine, prompt)
    memory(engine)
    cached_equals_recomputed(engine, prompt)
    print("FAILED: " + "; ".join(FAILED) if FAILED else "all checks passed")
    return 1 if FAILED else 0


if __name__ == "__main__":
    sys.exit(main())
