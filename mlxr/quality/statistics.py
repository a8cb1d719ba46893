"""What calibration needs to know of a model: K before RoPE, its mean and covariance, its queries, first tokens' V."""

import mlx.core as mx
import numpy as np

from ..models.fusion import Rotation
from .teacher import Feed

DISTANCES = 96       # sampled between a query and the keys it meets, of each kind
RIDGE = 1e-3         # of the mean variance of K, added in a fit of V to it
KEPT = 2048          # tokens of each layer whose K is kept, for codebooks


class HeadStatistics:
    """Of one layer: sums over tokens, float64, H KV heads of D channels each.

    frequencies [D / 2]: radians a token of each pair of channels; pairs int [D / 2, 2]: these channels. `sample`: K before
    RoPE, float32 [tokens, H, D].
    """

    def __init__(self, heads, dim, v_dim, frequencies, pairs):
        self.frequencies, self.pairs = frequencies, pairs
        self.count, self.queries = 0, 0
        self.mean, self.square, self.query = np.zeros((heads, dim)), np.zeros((heads, dim, dim)), np.zeros((heads, dim, dim))
        self.first, self.sequences, self.sample = np.zeros((heads, dim)), 0, []
        self.first_value, self.value_square = np.zeros((heads, v_dim)), np.zeros(heads)
        self.value, self.both = np.zeros((heads, v_dim)), np.zeros((heads, dim, v_dim))

    def add(self, q, k, v, positions):
        """q [T, heads, D], k [T, H, D], v [T, H, DV] as attention sees them, at these positions."""
        q, k = (turn(np.array(x.astype(mx.float32)), positions, self.frequencies, self.pairs, back=True) for x in (q, k))
        t, heads, dim = k.shape
        grouped = q.reshape(t, heads, -1, dim).transpose(1, 0, 2, 3).reshape(heads, -1, dim)
        at_start = np.asarray(positions) == 0
        self.first += k[at_start].sum(axis=0)
        v = np.array(v.astype(mx.float32))
        values = v[at_start]
        self.first_value += values.sum(axis=0)
        self.value_square += (values * values).sum(axis=(0, 2))
        self.sequences += int(at_start.sum())
        k = k[~at_start]                       # attention sinks, often: unlike all others, and alike
        keys = k.transpose(1, 0, 2)
        self.count += len(k)
        self.queries += grouped.shape[1]
        self.mean += k.sum(axis=0, dtype=np.float64)
        self.square += keys.swapaxes(1, 2) @ keys
        self.query += grouped.swapaxes(1, 2) @ grouped
        v = v[~at_start]
        self.value += v.sum(axis=0, dtype=np.float64)
        self.both += keys.swapaxes(1, 2) @ v.transpose(1, 0, 2)
        self.sample.append(k)

    def given(self):
        """(mean [H, DV], map [H, DV, D]) of V: the linear map of K less its mean that has the fewest squares left (ridge
        regression; Hoerl and Kennard, 1970)."""
        mean, value = self.mean / self.count, self.value / self.count
        covariance = self.square / self.count - mean[:, :, None] * mean[:, None]
        ridge = RIDGE * np.trace(covariance, axis1=1, axis2=2)[:, None, None] / mean.shape[1] * np.eye(mean.shape[1])
        return value, np.linalg.solve(covariance + ridge, self.both / self.count - mean[:, :, None] * value[:, None]).swapaxes(1, 2)

    def values(self):
        """[H, DV]: what the V of a sequence's first token is, as far as it is alike in all sequences: their mean, shrunk by
        how much of it may be chance (James and Stein, 1961)."""
        n, mean = self.sequences, self.first_value / self.sequences
        square = (mean * mean).sum(axis=1)
        chance = (self.value_square / n - square) / max(1, n - 1)
        return mean * np.maximum(0, 1 - chance / np.maximum(square, 1e-30))[:, None]

    def finish(self):
        """(mean [H, D], mean of first tokens [H, D], covariance [H, D, D], query second moments [H, D, D], sample
        [KEPT, H, D])."""
        mean = self.mean / self.count
        covariance = self.square / self.count - mean[:, :, None] * mean[:, None]
        sample = np.concatenate(self.sample)
        step = max(1, len(sample) // KEPT)
        return mean, self.first / self.sequences, covariance, self.query / self.queries, sample[::step][:KEPT]


def turn(x, positions, frequencies, pairs, back=False):
    """x [T, heads, D] with each pair of channels rotated by its frequency times the token's position; back: undone."""
    angles = np.asarray(positions, np.float64)[:, None] * np.asarray(frequencies, np.float64)
    cos, sin = np.cos(angles)[:, None], np.sin(-angles if back else angles)[:, None]
    a, b = x[..., pairs[:, 0]], x[..., pairs[:, 1]]
    cos, sin = cos.astype(x.dtype), sin.astype(x.dtype)
    out = np.empty_like(x)
    out[..., pairs[:, 0]], out[..., pairs[:, 1]] = a * cos - b * sin, a * sin + b * cos
    return out


def met(moments, frequencies, pairs, longest, rng):
    """Second moments [H, D, D] of the queries that a key meets at all distances: half of these uniform up to `longest`,
    half log-uniform. A key at distance t meets the query turned by t."""
    distances = np.concatenate([rng.uniform(0, longest, DISTANCES), np.exp(rng.uniform(0, np.log(longest), DISTANCES))])
    dim = moments.shape[1]
    total = np.zeros_like(moments)
    for t in np.round(distances):
        turned = turn(moments.transpose(1, 0, 2), np.full(dim, t), frequencies, pairs).transpose(1, 0, 2)   # rows: S R'
        total += turn(turned.transpose(2, 0, 1), np.full(dim, t), frequencies, pairs).transpose(1, 2, 0)
    return total / len(distances)


def rotations(engine):
    """[(frequencies [D / 2], pairs [D / 2, 2])] of each layer that stores K; frequencies of zero where K is not known to be
    rotated, or in another way than in pairs of constant frequencies."""
    blocks = getattr(getattr(engine.model, "model", engine.model), "layers", [])
    found = []
    for i, spec in enumerate(engine.specs):
        if spec:
            found.append(_rotation(blocks[i] if len(blocks) == len(engine.specs) else None, spec.dk))
    return found


def _rotation(block, dim):
    rotation = getattr(block, "rotation", None)
    if rotation is None:
        rope = next((m for n, m in block.named_modules() if n.endswith("rope")), None) if block is not None else None
        rotation = Rotation(rope) if type(rope).__name__ in ("RoPE", "Llama3RoPE") else None
    if rotation is None or rotation.dims > dim:
        half = np.arange(dim // 2)
        return np.zeros(dim // 2), np.stack([half, half + dim // 2], axis=1)
    dims = rotation.dims
    half = np.arange(dims // 2)
    pairs = np.stack([2 * half, 2 * half + 1] if rotation.interleaved else [half, half + dims // 2], axis=1)
    rest = np.arange(dims, dim).reshape(-1, 2)
    frequencies = np.concatenate([rotation.inverse.astype(np.float64) * rotation.scale, np.zeros(len(rest))])
    return frequencies, np.concatenate([pairs, rest])


def collect(engine, windows, context, step=lambda: None):
    """[HeadStatistics] of each layer that stores K, from the prefill of windows of `context` tokens. engine: with
    unquantized pages and room for one window."""
    layers = [layer for layer in engine.runner.layers if layer.pool]
    stats = [HeadStatistics(s.kv_heads, s.dk, s.dv, *r) for s, r in zip([layer.pool.spec for layer in layers], rotations(engine))]
    place = {id(layer): s for layer, s in zip(layers, stats)}
    waiting = []

    def note(layer, q, k, v, *rest):
        waiting.append((place[id(layer)], q, k, v, layer.batch.host_positions))

    for layer in layers:
        layer.observer = note
    try:
        for window in windows:
            with Feed(engine, [window], context) as feed:
                feed.prefill()
            for one, q, k, v, positions in waiting:
                one.add(q, k, v, positions)
            waiting.clear()
            step()
    finally:
        for layer in layers:
            layer.observer = None
    return stats
