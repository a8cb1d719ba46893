"""Fits what formats with K before RoPE go by, to a model's statistics: transforms, and levels for their coefficients."""

import numpy as np

from ..pages import trellis
from ..pages.formats.calibrated import COUNTS, TRELLIS

FLOOR = 1e-4          # of the mean eigenvalue, added to all of them: no direction is free
WIDER = 1.5           # leading coefficients' span, to the largest number seen
OUTLYING = 7          # coefficients after the first whose numbers count for that
ROUNDS = 25           # of Lloyd's algorithm
POINTS = 20000        # numbers that levels are fitted to, at most
PATHS = 8000          # of them on a trellis


def transform(covariance, metric):
    """(forward, inverse, variances), each of a block of B channels: forward [B, B] takes these to coefficients of unit
    variance, so that `variances` are their weights in the metric; the largest first."""
    size = len(metric)
    metric = metric + FLOOR * np.trace(metric) / size * np.eye(size)
    covariance = covariance + FLOOR * np.trace(covariance) / size * np.eye(size) * 1e-2
    root = np.linalg.cholesky(metric)
    variances, vectors = np.linalg.eigh(root.T @ covariance @ root)
    variances, vectors = np.maximum(variances[::-1], 1e-12 * variances[-1]), vectors[:, ::-1]
    scale = np.sqrt(variances)
    return (vectors.T @ root.T) / scale[:, None], np.linalg.solve(root.T, vectors) * scale, variances


def lloyd(x, count):
    """`count` levels of numbers x, the fewest squares away (Lloyd, "Least squares quantization in PCM", 1982)."""
    x = np.sort(x)
    levels = np.quantile(x, (np.arange(count) + 0.5) / count)
    sums = np.concatenate([[0], np.cumsum(x)])
    for _ in range(ROUNDS):
        edges = np.concatenate([[0], np.searchsorted(x, (levels[1:] + levels[:-1]) / 2), [len(x)]])
        counts = np.diff(edges)
        levels = np.where(counts > 0, np.diff(sums[edges]) / np.maximum(counts, 1), levels)
    return levels


def fit_head(mean, covariance, metric, sample, order, block):
    """One KV head: {forward, inverse, variances, span} (see Tables), `levels`, a list of what lloyd finds, and `paths`, numbers to fit those of
    a trellis to. sample [tokens, D]; order [D]."""
    dim = len(order)
    parts = [transform(covariance[np.ix_(i, i)], metric[np.ix_(i, i)]) for i in order.reshape(-1, block)]
    forward, inverse, variances = (np.stack([p[n] for p in parts]) for n in range(3))
    x = (sample - mean)[:, order].reshape(len(sample), -1, block)
    c = np.einsum("nij,tnj->tni", forward, x).reshape(len(sample), dim)
    variances = variances.reshape(dim)
    lead = int(np.argmax(variances))
    ranked = [i for i in np.argsort(-variances) if i != lead][:max(8, dim // 2)]     # those that get most bits
    weights = variances[ranked] / variances[ranked].sum()
    unit = c[:, ranked] / np.sqrt((c[:, ranked] ** 2 @ weights)[:, None])
    points = unit.reshape(-1)[::max(1, unit.size // POINTS)]
    levels = [lloyd(points, n) for n in COUNTS]
    return {"forward": forward, "inverse": inverse, "variances": variances, "levels": levels, "paths": unit[::max(1, unit.size // PATHS)],
            "span": WIDER * np.abs(c[:, [lead, *ranked[:OUTLYING]]]).max()}


def fit_layer(mean, first, covariance, metric, sample, frequencies, pairs, blocks):
    """A layer's arrays, by name as in a calibration file, for each size of blocks. mean and first [H, D], covariance and metric
    [H, D, D], sample [tokens, H, D]."""
    order = pairs.reshape(-1)
    out = {"order": order.astype(np.int32), "frequencies": frequencies.astype(np.float32), "mean": mean[:, order].astype(np.float32),
           "first": (first - mean)[:, order].astype(np.float32)}
    for block in blocks:
        heads = [fit_head(mean[h], covariance[h], metric[h], sample[:, h], order, block) for h in range(len(mean))]
        books = [np.stack(own) for own in zip(*(h.pop("levels") for h in heads))]
        books[:TRELLIS] = trellis.fit(np.stack([h.pop("paths") for h in heads]), books[:TRELLIS])
        out[f"{block}.levels"] = np.concatenate(books, axis=1).astype(np.float32)
        for name in heads[0]:
            out[f"{block}.{name}"] = np.stack([h[name] for h in heads]).astype(np.float32)
    return out
