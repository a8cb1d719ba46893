"""Logits processors and sampling, on the device, for the whole batch at once.

Order, as in mlx-lm: logit bias, repetition, presence and frequency penalties; then what a guide forbids; then top-p, min-p
and top-k, each looking at the distribution before temperature; then one draw with temperature. The draw takes one random
number, made of a request's seed and its count of tokens alone, so that no other row of the batch can change it.
"""

import copy
import sys
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from .kernels import draw, recording
from .kernels.draw import LARGEST

BLOCK = 128         # columns of a row of logits whose largest is looked at first
_MASK64 = (1 << 64) - 1


def _mix64(x):
    """A 64-bit mixing function (the finaliser of SplitMix64, Steele et al. 2014)."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK64
    return x ^ (x >> 31)


def draw_key(seed, index):
    """The random key, 64 bits, of a request's index-th draw."""
    return _mix64((_mix64(seed & _MASK64) + index) & _MASK64)


def draw_number(seed, index):
    """The random number of a request's index-th draw: uniform in [0, 1), a multiple of 2^-24, so that fp32 holds it."""
    return (draw_key(seed, index) >> 40) / (1 << 24)


@dataclass
class Sampled:
    """What one step drew: tokens int32 [S], and where asked for the chosen and the most likely tokens' logprobs, and hidden
    states [S, hidden size]."""

    tokens: mx.array
    chosen: mx.array | None = None          # float32 [S]
    top_ids: mx.array | None = None         # int32 [S, n], most likely first
    top_logprobs: mx.array | None = None    # float32 [S, n]
    hidden: mx.array | None = None          # float32 [S, hidden size]

    @property
    def arrays(self):
        return [a for a in (self.tokens, self.chosen, self.top_ids, self.top_logprobs, self.hidden) if a is not None]


def sample(logits, works, previous=None):
    """Draw one token for each row of logits [S, vocabulary], which may be changed; works: the step's works that sample, in that order.

    previous: the last step's tokens [S'], for penalties over tokens that are not read back yet.
    """
    params = [w.sequence.params for w in works]
    raw = logits.astype(mx.float32)
    logits = raw
    if any(p.logit_bias for p in params):
        logits = _bias(raw, params, keep=any(p.logprobs is not None for p in params))
    if any(_penalties(p) for p in params):
        logits = mx.minimum(_penalise(mx.minimum(logits, LARGEST), works, previous), LARGEST)
    logits = _guided(logits, works)
    if not any(p.temperature for p in params):
        return _with_logprobs(Sampled(draw.most_likely(logits)), raw, params)
    numbers = [draw_number(w.sequence.seed, w.start + w.count) for w in works]
    given = draw.settings(*([getattr(p, n) for p in params] for n in ("temperature", "top_k", "top_p", "min_p")), numbers,
                          raw.shape[-1])
    return _with_logprobs(Sampled(draw.apply(logits, given)), raw, params)


def _penalties(p):
    return p.repetition_penalty != 1 or p.presence_penalty or p.frequency_penalty


def _column(values):
    return mx.array(np.clip(np.array(values, np.float64), -LARGEST, LARGEST).astype(np.float32))[:, None]


def _with_logprobs(sampled, raw, params):
    """Logprobs are those of the model itself: before bias, penalties, filters and temperature."""
    asked = [p.logprobs for p in params if p.logprobs is not None]
    if asked:
        total = mx.logsumexp(raw, axis=-1, keepdims=True)
        sampled.chosen = (mx.take_along_axis(raw, sampled.tokens[:, None], axis=-1) - total)[:, 0]
        n = min(max(asked), raw.shape[-1])
        if n:
            top = _top(raw, n)
            values = mx.take_along_axis(raw, top, axis=-1) - total
            order = mx.argsort(-values, axis=-1)
            sampled.top_ids = mx.take_along_axis(top, order, axis=-1).astype(mx.int32)
            sampled.top_logprobs = mx.take_along_axis(values, order, axis=-1)
    return sampled


def _top(x, n):
    """The numbers [S, n] of the n largest in each row of x [S, V]: those of the n blocks whose largest are the largest."""
    rows, width = x.shape
    if width % BLOCK or 4 * n * BLOCK > width:
        return mx.argpartition(-x, n - 1, axis=-1)[:, :n]
    blocks = x.reshape(rows, -1, BLOCK)
    which = _top(mx.max(blocks, axis=-1), n)
    near = mx.take_along_axis(blocks, which[:, :, None], axis=1).reshape(rows, -1)
    top = _top(near, n)
    return mx.take_along_axis(which, top // BLOCK, axis=-1) * BLOCK + top % BLOCK


def _guided(logits, works):
    """logits with what the sequences' guides forbid at -inf. Each guide's mask meets the row of its own sequence.

    A sequence that has ended since its step was planned has no mask; nobody reads what is drawn for it.
    """
    if not any(w.sequence.guide for w in works):
        return logits
    words = -(-logits.shape[-1] // 32)
    bits = np.full((len(works), words), 0xFFFFFFFF, np.uint32)
    for row, work in enumerate(works):
        if work.sequence.guide and not work.sequence.finished:
            bits[row] = work.sequence.guide.mask()
    allowed = np.unpackbits(bits.astype("<u4", copy=False).view(np.uint8), axis=1, bitorder="little")[:, :logits.shape[-1]]
    return mx.where(mx.array(allowed.view(bool)), logits, -np.inf)


def _bias(logits, params, keep):
    """logits with the rows' biases added; only these elements are looked at, of 16 rows some dozens in a million. keep: what is
    given must stay; else, where that can be, it is changed, as to copy it takes a twentieth of a step of 16 rows."""
    triples = [(r, t, b) for r, p in enumerate(params) for t, b in (p.logit_bias or {}).items()]
    rows, tokens, values = map(mx.array, zip(*triples))
    biased = mx.minimum(mx.minimum(logits[rows, tokens], LARGEST) + values.astype(mx.float32), LARGEST)
    if not keep and recording.in_place():
        numbers = mx.arange(rows.size, dtype=mx.int32)
        return recording.write_rows(logits.reshape(-1, 1), (rows * logits.shape[1] + tokens).astype(mx.int32), numbers,
                                    biased[:, None], biased, always=True).reshape(logits.shape)
    logits = copy.copy(logits)               # an update changes all names of an array
    logits[rows, tokens] = biased
    return logits


def _penalise(logits, works, previous):
    params = [w.sequence.params for w in works]
    if any(p.repetition_penalty != 1 for p in params):
        recent = [p.repetition_context if p.repetition_penalty != 1 else 0 for p in params]
        seen = _counts(logits.shape, works, previous, lambda s: s.tokens, recent) > 0
        penalty = _column([p.repetition_penalty for p in params])
        logits = mx.where(seen, mx.where(logits > 0, logits / penalty, logits * penalty), logits)
    if any(p.presence_penalty or p.frequency_penalty for p in params):
        recent = [sys.maxsize if p.presence_penalty or p.frequency_penalty else 0 for p in params]
        counts = _counts(logits.shape, works, previous, lambda s: s.generated, recent)
        presence = _column([p.presence_penalty for p in params])
        frequency = _column([p.frequency_penalty for p in params])
        logits = logits - presence * (counts > 0) - frequency * counts
    return logits


def _counts(shape, works, previous, history, recent):
    """float32 [S, vocabulary]: how often each token stands in the last recent[row] of history(sequence).

    A token that is still on the device is the newest of them.
    """
    rows, tokens = [], []
    late_rows, late = [], []
    for r, (work, n) in enumerate(zip(works, recent)):
        pending = int(work.source >= 0)
        past = history(work.sequence)[-(n - pending):] if n > pending else []
        rows += [r] * len(past)
        tokens += past
        if pending and n:
            late_rows.append(r)
            late.append(work.source)
    counts = mx.zeros(shape, mx.float32)
    if tokens:
        counts = counts.at[mx.array(rows), mx.array(tokens)].add(1.0)
    if late:
        counts = counts.at[mx.array(late_rows), previous[mx.array(late)]].add(1.0)
    return counts
