"""CALDERA on the real model beside plain quantization: perplexity on WikiText-2, size, and generation in turns."""

import math
import statistics
import time

import mlxr  # noqa: F401  (first: it decides which BLAS MLX uses)
import mlx.core as mx
import mlx.nn as nn
import pytest
from kernels.matrices import needs_compiler

from mlxr import LLM, SamplingParams
from mlxr.caldera.settings import Caldera
from mlxr.conversion import Options, convert
from mlxr.models.build import load_model
from mlxr.quality.texts import Passages, Text, shipped_text
from mlxr.tokenizer import load_tokenizer
from mlxr.weights.checkpoint import open_checkpoint

WINDOWS, LENGTH, TURNS = 6, 512, 9
EMBEDDINGS = ("*embed*", 8)
LESS = tuple((f"model.layers.{i}.*", 3) for i in range(0, 27, 3))       # so many that the file is as large as the compressed one
MODELS = {
    "plain, 4 bits": Options(bits=4, mix=(EMBEDDINGS,)),
    "CALDERA, 3 bits, rank 64": Options(bits=8, caldera=Caldera(bits=3, rank=64, factor_bits=4, protect=0, tokens=5120,
                                                                text=shipped_text().content)),
    "plain, 4 bits, 3 in 9 of 30 blocks": Options(bits=4, mix=(EMBEDDINGS, *LESS)),
    "plain, 3 bits": Options(bits=3, mix=(EMBEDDINGS,)),
}


def perplexity(model, windows):
    total = 0.0
    for window in windows:
        ids = mx.array([window])
        total += nn.losses.cross_entropy(model(ids)[0, :-1].astype(mx.float32), ids[0, 1:], reduction="sum").item()
    return math.exp(total / (len(windows) * (LENGTH - 1)))


def seconds(llm, n=48):
    began = time.perf_counter()
    llm.generate(["The inn"], SamplingParams(max_tokens=n, temperature=0, ignore_eos=True))
    return time.perf_counter() - began


@needs_compiler
@pytest.mark.slow
def test_better_than_plain_quantization_of_the_same_size(smollm2_gguf, wikitext, tmp_path):
    source = open_checkpoint(smollm2_gguf)
    windows = Passages(load_tokenizer(smollm2_gguf), Text("WikiText-2", wikitext)).windows(LENGTH, WINDOWS)
    print(f"\nas the file has them: {perplexity(load_model(source, 'float32'), windows):.2f}")
    found = {}
    for name, options in MODELS.items():
        folder = tmp_path / name.replace(" ", "-").replace(",", "")
        convert(smollm2_gguf, folder, options)
        size = (folder / "model.safetensors").stat().st_size
        found[name] = perplexity(load_model(open_checkpoint(folder), "float32"), windows), size, folder
        print(f"{name}: perplexity {found[name][0]:.2f}, {size / 1e6:.1f} MB", flush=True)
    four, ours, same, _ = found.values()
    with LLM(str(ours[2]), context=256) as a, LLM(str(same[2]), context=256) as b, LLM(str(four[2]), context=256) as c:
        turns = [[seconds(llm) for llm in (a, b, c)] for _ in range(TURNS + 1)][1:]
    for i, name in ((1, "plain of the same size"), (2, "plain 4 bits")):
        ratio, best = statistics.median(t[i] / t[0] for t in turns), min(t[i] for t in turns) / min(t[0] for t in turns)
        print(f"generation beside {name}: {ratio:.2f} of its speed, {best:.2f} by the fastest turns")
    assert ours[1] <= 1.001 * same[1] and ours[0] < 0.95 * same[0]
