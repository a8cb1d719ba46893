"""draw against a sampler in fp64: real vocabularies, ties, raggedness; no index outside; and the gate."""

import mlx.core as mx
import numpy as np
import pytest
from kernels.gate import Gate, needs_simulator
from kernels.matrices import needs_compiler

from mlxr.kernels import draw, library

NOTHING = (0, 0, 1, 0)


def probabilities(row, temperature, top_k, top_p, min_p):
    """float64 [V] that one row is drawn from."""
    x = np.minimum(row.astype(np.float64), draw.LARGEST)
    if not temperature:
        return (np.arange(len(x)) == x.argmax()).astype(np.float64)
    p = np.exp(x - x.max())
    order = np.argsort(-p, kind="stable")
    before = np.cumsum(p[order]) - p[order]
    kept = (np.arange(len(p)) < (top_k or len(p))) & ((before < top_p * p.sum()) | (top_p == 1))
    kept[0] = True
    keep = np.zeros(len(p), bool)
    keep[order[kept]] = True
    w = np.where(keep & (p >= min_p), np.exp((x - x.max()) / temperature), 0)
    return w / w.sum()


def right(token, row, given, slack=2e-6):
    """Whether the token is that at u of the sum of probabilities, or next to it within `slack`.

    fp32 sums of up to 152,000 probabilities, 32 at a time, are right to some 1e-6 of the whole.
    """
    p = probabilities(row, *given[:4])
    after = np.cumsum(p)
    return p[token] > 0 and after[token] - p[token] - slack <= given[4] <= after[token] + slack


def rows(vocabulary, n, seed=0, ties=False):
    x = np.random.default_rng(seed).normal(size=(n, vocabulary)).astype(np.float32) * 3
    return np.round(x) if ties else x


CASES = [NOTHING, (1, 0, 1, 0), (0.7, 0, 0.9, 0), (1, 40, 1, 0), (0.8, 40, 0.95, 0.05), (2, 1, 1, 0), (1.5, 0, 1, 0.1), (0.01, 0, 0.999, 0)]


@needs_compiler
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("vocabulary", [5, 32, 37, 1000, 49152, pytest.param(151936, marks=pytest.mark.slow)])
def test_against_fp64(vocabulary, ties):
    rng = np.random.default_rng(vocabulary)
    given = [(*c, rng.random()) for c in CASES for _ in range(3)]
    x = rows(vocabulary, len(given), ties=ties)
    before = library.used["draw", "host"]
    table = draw.settings(*zip(*given), vocabulary)
    tokens = np.array(draw.apply(mx.array(x), table))
    assert library.used["draw", "host"] == before + 1, "the twin ran instead"
    twins = np.array(draw.reference(mx.array(x), table))
    for ours, theirs, row, one in zip(tokens, twins, x, given):
        u = float(np.float32(one[4]))
        assert right(ours, row, (*one[:4], u)), (one, ours)
        # The twin adds the whole vocabulary one by one.
        assert right(theirs, row, (*one[:4], u), 1e-4), (one, theirs)


@needs_compiler
def test_the_most_likely():
    x = rows(1000, 7, ties=True)
    x[3] = -np.inf
    before = library.used["draw", "host"]
    assert np.array_equal(np.array(draw.most_likely(mx.array(x))), x.argmax(-1))
    assert library.used["draw", "host"] == before + 1


@needs_compiler
@pytest.mark.parametrize("u", [0.0, 1 - 2 ** -24])
def test_the_ends_of_the_distribution(u):
    """The first and the last token that weigh anything: never one that does not."""
    x = np.full((1, 100), -np.inf, np.float32)
    x[0, [7, 50, 93]] = 1.0, 3.0, 2.0
    token = np.array(draw.apply(mx.array(x), draw.settings([1], [0], [1], [0], [u], 100))).item()
    assert token == (93 if u else 7)


def launched(third=(*NOTHING, 0), vocabulary=75, ties=True, case=(0.9, 9, 0.9, 0)):
    given = [(*case, 0.31), (*case, 0.999), third, (1.2, 0, 0.8, 0.01, 0.5)]
    x = rows(vocabulary, len(given), seed=4, ties=ties)
    return x, given, [mx.array(x), mx.array(draw.settings(*zip(*given), vocabulary))]


@needs_compiler
def test_no_index_outside():
    k = draw.kernel(on="host", checked=True)
    x, given, inputs = launched()
    tokens = np.array(k(inputs, [(4,), x.shape], (4, 1, 1), (4, 75))[0])
    assert all(right(t, row, one) for t, row, one in zip(tokens, x, given))


def gate():
    k = draw.kernel(on="metal", sgs=2)
    x, given, inputs = launched((1, 0, 1, 0.2, 0.7))     # a greedy row writes no scratch
    return Gate(k, inputs, [(4,), x.shape], (2, 1, 1), (4, 75)), x, given


@needs_simulator
def test_gate():
    run, x, given = gate()
    run.run()
    tokens, kept = (o.copy() for o in run.outputs)
    assert all(right(t, row, one) for t, row, one in zip(tokens, x, given))
    run.check([tokens, kept], 0)


FAULTS = {
    "a mask dropped at the store": ("st(p, lane + c, a, first(lane, V - c));", "st(p, lane + c, a);"),
    "rows not bounded": ("if (row < S)", ""),
    "ties not cut": ("a == least && vint(lane) + c < limit", "a == least"),
    "one too few": ("int allowed = min(k - more_than,", "int allowed = min(k - more_than - 1,"),
    "no sum over the lanes": ("total += simd_sum(weight(x, p, lane, c, V, base, steep, least, limit))",
                              "total += weight(x, p, lane, c, V, base, steep, least, limit)"),
}


@needs_simulator
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(fault):
    k = draw.kernel(on="metal", sgs=2)
    x = rows(75, 3, seed=4, ties=True)
    given = [(2.0, 9, 1, 0, u) for u in (0.1, 0.9, 0.999)]
    run = Gate(k, [mx.array(x), mx.array(draw.settings(*zip(*given), 75))], [(3,), x.shape], (2, 1, 1), (3, 75))

    def fine():
        return not run.report.errors and all(right(t, row, one) for t, row, one in zip(run.outputs[0], x, given))
    run.run()
    assert fine()
    run.run(cut=FAULTS[fault])
    assert not fine()
