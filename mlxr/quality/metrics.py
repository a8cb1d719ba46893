"""From logits to figures: change of perplexity, top-1 agreement, KL, greedy match; with standard errors."""

import math
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from .verdict import verdict

OF_TOKENS = "match100", "prefix100"            # of greedy tokens: on fewer windows, and not by stream
FIGURES = "delta_ppl", "top1", "kl", "kl_p99", *OF_TOKENS


class Reference:
    """Log-probabilities of the reference at the scored positions of one window, and what they say of the targets.

    logits: [n, vocabulary]; targets: the n tokens that came next.
    """

    def __init__(self, logits, targets):
        self.targets = mx.array(targets)[:, None]
        self.logp = log_probabilities(logits)
        self.best = mx.argmax(self.logp, axis=-1)
        self.nll = -mx.take_along_axis(self.logp, self.targets, axis=-1)[:, 0]
        mx.eval(self.logp, self.best, self.nll)

    def score(self, logits):
        """The Score of another cache's logits [n, vocabulary] of the same positions."""
        logp = log_probabilities(logits)
        nll = -mx.take_along_axis(logp, self.targets, axis=-1)[:, 0]
        kl = divergence(self.logp, logp)
        same = mx.argmax(logp, axis=-1) == self.best
        return Score(*(np.array(x, np.float64) for x in (self.nll, nll, kl, same)))


@dataclass
class Score:
    """One window: float64 [n] each. nll: of the targets, in nats; kl: nats; same: 1 where the best token is the same.

    matches: float64 [m], 1 where the most likely token is the reference's own, of the tokens that the reference continues the
    context with; each follows the reference's tokens, whatever came of those before. None where not measured.
    """

    reference_nll: np.ndarray
    nll: np.ndarray
    kl: np.ndarray
    same: np.ndarray
    matches: np.ndarray | None = None


def log_probabilities(logits):
    """float32 [n, vocabulary] of logits of any floating type."""
    x = logits.astype(mx.float32)
    return x - mx.logsumexp(x, axis=-1, keepdims=True)


def divergence(p, q):
    """KL(p || q) [n] in nats of log-probabilities [n, vocabulary]; what rounding makes negative is 0."""
    return mx.maximum(mx.sum(mx.where(p > -1e30, mx.exp(p) * (p - q), 0.0), axis=-1), 0.0)


def _figures(scores):
    change = np.concatenate([s.nll - s.reference_nll for s in scores]).mean()
    kl = np.concatenate([s.kl for s in scores])
    found = {"delta_ppl": 100 * math.expm1(min(change, 50.0)), "top1": 100 * np.concatenate([s.same for s in scores]).mean(),
             "kl": kl.mean(), "kl_p99": np.percentile(kl, 99)}
    if all(s.matches is not None for s in scores):
        found["match100"] = 100 * np.concatenate([s.matches for s in scores]).mean()
        found["prefix100"] = 100 * np.mean([np.cumprod(s.matches).mean() for s in scores])
    return found


def figures(scores):
    """A row's figures from its windows' Scores, each with `<name>_se`, and its verdict.

    delta_ppl, top1, match100 in percent; kl, kl_p99 in nats; prefix100: percent of the tokens before the first that is another,
    which is where a greedy answer of the format's own would begin to differ. Standard errors by the jackknife over windows (Efron 1982):
    tokens of one window are not independent. None: not measured, or not a number.
    """
    n, row = len(scores), {}
    whole = _figures(scores)
    without = [_figures(scores[:i] + scores[i + 1:]) for i in range(n)] if n > 1 else []
    for name in FIGURES:
        value = whole.get(name)
        finite = value is not None and math.isfinite(value)
        row[name] = _rounded(value) if finite else None
        row[f"{name}_se"] = None
        if finite and without:
            values = np.array([w[name] for w in without])
            row[f"{name}_se"] = _rounded(math.sqrt((n - 1) / n * ((values - values.mean()) ** 2).sum()))
    row["verdict"] = verdict(row["delta_ppl"], row["top1"])
    row["windows"] = n
    row["tokens"] = int(sum(s.nll.size for s in scores))
    return row


def perplexity(scores):
    """Of the reference."""
    return _rounded(math.exp(np.concatenate([s.reference_nll for s in scores]).mean()))


def _rounded(x):
    return float(f"{x:.6g}")


def relative(wrong, right):
    """Relative L2 error of an array, as a float; 0 where both are zero."""
    a, b = (np.asarray(x.astype(mx.float32) if isinstance(x, mx.array) else x, np.float64) for x in (wrong, right))
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))
