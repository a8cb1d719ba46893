"""From logits to figures, against plain NumPy; standard errors; verdicts at their borders."""

import mlxr  # noqa: F401
import mlx.core as mx
import numpy as np
import pytest

from mlxr.quality.metrics import Reference, figures, perplexity
from mlxr.quality.verdict import ACCEPT, MARGINAL, REJECT, verdict, worst


def logits_of(seed, n=20, vocabulary=50):
    return np.random.default_rng(seed).normal(0, 3, (n, vocabulary)).astype(np.float32)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True).astype(np.float64))
    return e / e.sum(-1, keepdims=True)


@pytest.fixture
def windows():
    """[(reference logits, other logits, targets)] of four windows."""
    rng = np.random.default_rng(9)
    made = []
    for seed in range(4):
        a = logits_of(seed)
        made.append((a, a + rng.normal(0, 0.3, a.shape).astype(np.float32), rng.integers(0, 50, len(a))))
    return made


def scores_of(windows):
    return [Reference(mx.array(a), t.tolist()).score(mx.array(b)) for a, b, t in windows]


def test_figures_are_what_numpy_says(windows):
    row = figures(scores_of(windows))
    a, b = (softmax(np.concatenate([w[i] for w in windows])) for i in (0, 1))
    targets = np.concatenate([w[2] for w in windows])
    at = np.arange(len(targets)), targets
    ppl = [np.exp(-np.log(p[at]).mean()) for p in (a, b)]
    kl = (a * np.log(a / b)).sum(-1)
    assert row["delta_ppl"] == pytest.approx(100 * (ppl[1] / ppl[0] - 1), rel=1e-4)
    assert row["top1"] == pytest.approx(100 * (a.argmax(-1) == b.argmax(-1)).mean())
    assert row["kl"] == pytest.approx(kl.mean(), rel=1e-4) and row["kl_p99"] == pytest.approx(np.percentile(kl, 99), rel=1e-4)
    assert row["match100"] is None and row["windows"] == 4 and row["tokens"] == 80
    assert perplexity(scores_of(windows)) == pytest.approx(ppl[0], rel=1e-5)


def test_the_standard_error_of_a_mean_is_the_usual_one(windows):
    """For means over windows of equal size the jackknife is the standard deviation over the root of n."""
    scores = scores_of(windows)
    means = [s.kl.mean() for s in scores]
    assert figures(scores)["kl_se"] == pytest.approx(np.std(means, ddof=1) / 2, rel=1e-4)
    alone = figures(scores[:1])
    assert alone["kl"] > 0 and alone["kl_se"] is None


def test_the_reference_against_itself_differs_in_nothing(windows):
    a, _, targets = windows[0]
    row = figures([Reference(mx.array(a), targets.tolist()).score(mx.array(a))])
    assert (row["delta_ppl"], row["top1"], row["kl"], row["verdict"]) == (0, 100, 0, ACCEPT)


def test_logits_that_are_no_numbers_are_rejected(windows):
    a, b, targets = windows[0]
    b[3] = np.nan
    row = figures([Reference(mx.array(a), targets.tolist()).score(mx.array(b))])
    assert row["verdict"] == REJECT and row["delta_ppl"] is None and row["kl"] is None


def test_greedy_matches_are_a_share(windows):
    scores = scores_of(windows)
    for i, s in enumerate(scores):
        s.matches = np.array([1.0] * i + [0.0] * (4 - i))
    row = figures(scores)
    assert row["match100"] == row["prefix100"] == 37.5
    scores[3].matches = np.array([0.0, 1, 1, 1])
    row = figures(scores)
    assert row["match100"] == 37.5 and row["prefix100"] == pytest.approx(100 * 3 / 16)


@pytest.mark.parametrize("delta, top1, expected", [
    (1.0, 95.0, ACCEPT), (-1.0, 95.0, ACCEPT), (1.01, 99.0, MARGINAL), (-1.01, 99.0, MARGINAL), (0.0, 94.9, MARGINAL),
    (19.9, 75.0, MARGINAL), (20.0, 99.0, REJECT), (0.0, 74.9, REJECT), (-30.0, 99.0, MARGINAL), (None, 99.0, REJECT),
    (float("nan"), 99.0, REJECT),
])
def test_verdicts(delta, top1, expected):
    assert verdict(delta, top1) == expected


def test_the_worst_verdict():
    assert worst([ACCEPT, REJECT, MARGINAL]) == REJECT and worst([ACCEPT, MARGINAL]) == MARGINAL and worst([]) is None
