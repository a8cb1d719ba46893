"""draw: tokens drawn from rows of logits, with top-k, top-p and min-p, without sorting. On the host; elsewhere the twin."""

import functools

import mlx.core as mx
import numpy as np

from .library import Kernel

LARGEST = 1e30     # larger logits and parameters are cut to it: infinity minus infinity would be no number


@functools.lru_cache(None)
def kernel(*, on=None, checked=False, sgs=1, flags=()):
    """The one specialisation."""
    return Kernel("draw", inputs=[("logits", "float"), ("settings", "float")], outputs=[("token", "int"), ("kept", "float")],
                  ints=["S", "V"], defines={"SGS": sgs}, on=on, checked=checked, flags=flags)


def settings(temperature, top_k, top_p, min_p, u, vocabulary):
    """float32 [S, 8] of five sequences of S numbers; top_k 0 is all; u: uniform in [0, 1)."""
    table = np.zeros((len(temperature), 8), np.float64)
    table[:, :5] = np.array([temperature, top_k, top_p, min_p, u], np.float64).T
    table[:, 0] = np.where(table[:, 0] > 0, np.clip(table[:, 0], 1 / LARGEST, LARGEST), 0)
    table[:, 1] = np.where((table[:, 1] <= 0) | (table[:, 1] > vocabulary), vocabulary, table[:, 1])
    return table.astype(np.float32)


@functools.lru_cache(64)
def _greedy(rows):
    return mx.array(np.zeros((rows, 8), np.float32))     # not lazy: engines on other threads take it too


def most_likely(logits):
    """int32 [S], lazily: of each row of float32 logits [S, V] the largest one's number, the first of equal ones."""
    k = kernel()
    if k.backend == "metal" or not k.ready():
        return mx.argmax(logits, axis=-1).astype(mx.int32)
    return _run(k, logits, _greedy(logits.shape[0]))


def apply(logits, given):
    """int32 [S], lazily: one token of each row of logits float32 [S, V], by its row of `given` (see `settings`).

    A row's token depends on that row alone. Kernel and twin may differ where u falls between two tokens to 1e-6.
    """
    k = kernel()
    if k.backend == "metal" or not k.ready():
        return reference(logits, given)
    return _run(k, logits, mx.array(given))


def _run(k, logits, given):
    rows, vocabulary = logits.shape
    return k([logits, given], [(rows,), logits.shape], (-(-rows // k.sgs), 1, 1), (rows, vocabulary))[0]


def reference(logits, given):
    """The same in plain MLX operations."""
    logits = mx.minimum(logits, LARGEST)
    greedy = mx.argmax(logits, axis=-1).astype(mx.int32)
    hot, top_k, top_p, min_p, u = (mx.array(given[:, i:i + 1]) for i in range(5))
    below = logits - mx.maximum(mx.max(logits, axis=-1, keepdims=True), -LARGEST)
    weights = mx.exp(_filter(below, given, top_k, top_p, min_p) / mx.where(hot > 0, hot, 1.0))
    sums = mx.cumsum(weights, axis=-1)
    token = mx.argmax((sums > u * sums[:, -1:]) & (weights > 0), axis=-1).astype(mx.int32)
    return mx.where((hot[:, 0] > 0) & (sums[:, -1] > 0), token, greedy)


def _filter(logits, given, top_k, top_p, min_p):
    """logits with what top-k, top-p and min-p exclude at -inf. Of equally likely tokens the lower ids come first."""
    vocabulary = logits.shape[-1]
    keep = None
    if (given[:, 3] > 0).any():
        keep = mx.exp(logits) >= min_p
    if ((given[:, 1] < vocabulary) | (given[:, 2] < 1)).any():
        order = mx.argsort(-logits, axis=-1)
        mass = mx.exp(mx.take_along_axis(logits, order, axis=-1))
        sums = mx.cumsum(mass, axis=-1)
        rank = mx.arange(vocabulary)[None]
        p = mx.where(top_p < 1, top_p, np.inf)
        kept = ((rank < top_k) & (sums - mass < p * sums[:, -1:])) | (rank == 0)
        kept = mx.put_along_axis(kept, order, kept, axis=-1)         # from ranks back to token ids
        keep = kept if keep is None else keep & kept
    return logits if keep is None else mx.where(keep, logits, -np.inf)
