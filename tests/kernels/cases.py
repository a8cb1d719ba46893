"""Ragged batches for attention tests: a pool filled through the engine's own writes, and the oracle's answer."""

import importlib.util
import itertools
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlxr.batch import build_batch
from mlxr.calibration import made_up
from mlxr.kernels import fallback, host_build, library
from mlxr.pages.held import Held, HeldLayer
from mlxr.pages.pool import LayerPool, LayerSpec
from mlxr.pages.spec import parse_kv
from mlxr.scheduler import Work
from mlxr.sequence import SamplingParams, Sequence

_spec = importlib.util.spec_from_file_location(
    "kv_cache_from_scratch", Path(__file__).resolve().parents[2] / "examples" / "kv_cache_from_scratch.py")
scratch = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(scratch)


@dataclass
class Layer:
    """One attention layer's shape."""

    heads: int = 6
    kv_heads: int = 2
    dk: int = 64
    dv: int = 64


class Story:
    """Sequences with random histories in one layer's pool. `write` adds tokens to some of them, in one batch. kv may say
    sink=N: then first pages are held."""

    def __init__(self, layer, kv="f16", page_size=16, dtype=mx.float32, seed=0, slots=4, pages=200):
        self.layer, self.page_size, self.dtype = layer, page_size, dtype
        self.rng = np.random.default_rng(seed)
        said, spec = parse_kv(kv), LayerSpec(layer.kv_heads, layer.dk, layer.dv)
        self.format = made_up(said.format, layer.kv_heads, layer.dk, layer.dv, page_size, pages)
        first = -(-said.sink // page_size)
        self.held = Held(first, first * slots, pages, 0) if first else None
        held = HeldLayer(spec, self.format, page_size, first * slots, mx.float16) if first else None
        self.pool = LayerPool(spec, self.format, page_size, pages, dtype, held)
        self.pool.grow(slots)
        self.slots = slots
        self.free = list(self.rng.permutation(np.arange(1, pages + 1)))
        self.sequences, self.history = [], []

    def add(self):
        s = Sequence([0], SamplingParams(), 1 << 20)
        s.tokens, s.slot = [], len(self.sequences)
        self.sequences.append(s)
        self.history.append([np.zeros((0, self.layer.kv_heads, d), np.float32) for d in (self.layer.dk, self.layer.dv)])
        return len(self.sequences) - 1

    def write(self, counts):
        """New K and V for sequences: {index: tokens}. Returns (batch, q, k, v, tails before) as kernels get them."""
        works, new = [], []
        for i, n in counts.items():
            s = self.sequences[i]
            s.tokens += [0] * n
            need = len(s.tokens) // self.page_size - len(s.pages)
            first, there = self.held.first if self.held else 0, len(s.pages)
            s.pages = s.pages + [self.held.base + 1 + s.slot * first + p if p < first else int(self.free.pop())
                                 for p in range(there, there + need)]
            works.append(Work(s, s.computed, n, True, -1, s.slot, s.pages))
            s.computed += n
            kv = [self._random(n, self.layer.kv_heads, d) for d in (self.layer.dk, self.layer.dv)]
            self.history[i] = [np.concatenate([a, b]) for a, b in zip(self.history[i], kv)]
            new.append(kv)
        batch = build_batch(works, self.page_size, self.slots, held=self.held)
        k, v = (mx.array(np.concatenate([x[j] for x in new])).astype(self.dtype) for j in (0, 1))
        q = mx.array(self._random(k.shape[0], self.layer.heads, self.layer.dk)).astype(self.dtype)
        tails = self.pool.write(batch, k, v)
        return batch, q, k, v, tails

    def _random(self, *shape):
        x = self.rng.standard_normal(shape).astype(np.float32)
        return np.array(mx.array(x).astype(self.dtype).astype(mx.float32))      # what the model's dtype can hold

    def stored(self, k, v, i=None, page=None):
        """What reading one page gives, in fp64: [page, heads, d] -> the same, through the page format. Where K is stored
        before RoPE, or rounding errors feed on each other, what sequence i's own page holds: another order of sums would give
        other codes here and there."""
        if self.held and page < self.held.first:
            plain = self.pool.held.get(mx.array(self.held.slot(self.sequences[i].pages[page])))
            for x, right in zip(plain, (k, v)):
                assert np.abs(np.array(x).swapaxes(0, 1) - right).max() < 4e-3
            return tuple(np.array(x).swapaxes(0, 1).astype(np.float64) for x in plain)
        if self.format.k.before_rope or self.format.k.name == "q4":
            records = self.pool.records[self.sequences[i].pages[page]]
        else:
            records = self.format.encode(*(mx.array(x.astype(np.float32)).swapaxes(0, 1) for x in (k, v)))
        out = self.format.decode(records, self.page_size, self.layer.dk, self.layer.dv, mx.array(page or 0))
        if self.format.k.name == "q4":
            assert relative(out[0], k.swapaxes(0, 1)) <= 0.13, "what was sealed is not this page's K"
        return tuple(np.array(x.astype(mx.float32)).swapaxes(0, 1).astype(np.float64) for x in out)

    def expect(self, counts, q, window=None, sinks=None, scale=None):
        """The oracle's output for the last `write`, [T, heads, dv] in fp64."""
        q, row, outs = np.array(q.astype(mx.float32)), 0, []
        for i, n in counts.items():
            k, v = self.history[i]
            positions = np.arange(len(k) - n, len(k))
            numbers = itertools.count()
            stored = lambda k, v, i=i, numbers=numbers: self.stored(k, v, i, next(numbers))
            outs.append(scratch.paged_attention(q[row:row + n], k, v, positions, self.page_size, stored, window,
                                                sinks, scale))
            row += n
        return np.concatenate(outs)


# Relative L2 against the fp64 oracle over decoded data: what the dtype of q, k, v and the output allows.
TOLERANCE = {mx.float32: 1e-5, mx.float16: 1e-3, mx.bfloat16: 4e-3}


def relative(out, expected):
    out = np.array(out.astype(mx.float32), np.float64)
    return np.linalg.norm(out - expected) / np.linalg.norm(expected)


@pytest.fixture(params=["reference", "host"])
def backend(request, monkeypatch):
    """Runs a test on the plain MLX twins and on kernels compiled for this CPU; on the latter, no twin may step in."""
    if request.param == "host" and host_build.compiler() is None:
        pytest.skip("no C++ compiler")
    monkeypatch.setenv("MLXR_BACKEND", request.param)
    twins = {n: library.used[n, "reference"] for n in ("attend", "seal")}
    yield request.param
    if request.param == "host":
        assert {n: library.used[n, "reference"] for n in twins} == twins, fallback.reasons


def launches():
    """Launches of attention kernels on this CPU so far."""
    return library.used["attend", "host"] + library.used["prefill", "host"]
