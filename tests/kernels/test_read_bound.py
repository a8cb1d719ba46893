"""read_bound against NumPy: any number of words, every form of the host; and the gate."""

import mlx.core as mx
import numpy as np
import pytest
from kernels.gate import Gate, needs_simulator
from kernels.matrices import FORMS, needs_compiler

from mlxr.errors import KernelError
from mlxr.kernels import host_call, library, read_bound


def words(count):
    return np.random.default_rng(count).integers(0, 1 << 32, count, np.uint32)


def oracle(w, units, own):
    padded = np.zeros(units * own, np.uint64)
    padded[:len(w)] = w
    return (padded.reshape(units, own // 32, 32).sum(1) & 0xFFFFFFFF).astype(np.uint32)


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("count", [8, 33, 128, 1000, 4096, 100_003])
def test_every_word_once(count, threads, monkeypatch):
    monkeypatch.setattr(host_call, "threads", lambda: threads)
    w, before = words(count), library.used["read_bound", "host"]
    y = read_bound.apply(mx.array(w))
    units, own = read_bound.launch(read_bound.kernel(), count)
    assert y.dtype == mx.uint32 and np.array_equal(np.array(y), oracle(w, units, own))
    assert int(np.array(y, np.uint64).sum()) % 2 ** 32 == int(w.astype(np.uint64).sum()) % 2 ** 32
    assert library.used["read_bound", "host"] == before + 1, "the twin ran instead"


def test_twin(monkeypatch):
    monkeypatch.setenv("MLXR_BACKEND", "reference")
    w = words(100_003)
    y = np.array(read_bound.reference(mx.array(w), 16, 6272))
    assert np.array_equal(y, oracle(w, 16, 6272))
    sums = read_bound.apply(mx.array(w))
    assert int(np.array(sums, np.uint64).sum()) % 2 ** 32 == int(w.astype(np.uint64).sum()) % 2 ** 32


def test_what_it_does_not_take():
    for bad in (mx.zeros((7,), mx.uint32), mx.zeros((64,), mx.int32)):
        with pytest.raises(KernelError, match="read_bound takes 8 to"):
            read_bound.apply(bad)


@needs_compiler
@pytest.mark.parametrize("form", [None, *(pytest.param(f, marks=pytest.mark.slow) for f in FORMS)])
def test_no_index_outside(form):
    w = words(1000)
    k = read_bound.kernel(on="host", checked=True, flags=FORMS.get(form, ()))
    y, = k([mx.array(w)], [(4, 32)], (4, 1, 1), (1000, 256))
    assert np.array_equal(np.array(y), oracle(w, 4, 256))


def gate(count=1000):
    w = words(count)
    return Gate(read_bound.kernel(on="metal", sgs=2), [w], [(4, 32)], (2, 1, 1), (count, 256)), oracle(w, 4, 256)


@needs_simulator
def test_gate():
    run, want = gate()
    run.check([want], 0.0, traffic={"w": 1.0}, written={"y": 1.0})


FAULTS = {
    "a mask dropped": ("lane + i, first(lane, n - i))", "lane + i)"),
    "an index off by one": ("lane + (i + 32 * j)", "lane + (i + 32 * j + 1)"),
    "a unit too far": ("long(unit) * own", "long(unit + 1) * own"),
}


@needs_simulator
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(fault):
    run, want = gate()
    assert not run.run().report.errors and np.array_equal(run.outputs[0], want)
    run.run(cut=FAULTS[fault])
    assert run.report.errors or not np.array_equal(run.outputs[0], want)
