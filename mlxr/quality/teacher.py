"""The harness: windows of text fed to an engine token by given token, through its own runner, pool and kernels."""

import mlx.core as mx
import numpy as np

from ..batch import build_batch, tail_slots
from ..errors import ConfigError
from ..models.modes import PAGED
from ..models.seam import PagedMask
from ..scheduler import Work
from ..sequence import SamplingParams, Sequence

SCORED = 128      # tokens scored after the context of a window
GREEDY = 100      # tokens of the greedy match


def window_tokens(context):
    """Tokens of a window: its context, what is scored, and the last one's target."""
    return context + SCORED + 1


def pages_of(context, page_size):
    """Pages that a window fills."""
    return -(-(context + max(SCORED, GREEDY)) // page_size)


class Feed:
    """Some windows as sequences of one engine, each with pages of its own. Use as a context manager.

    windows: lists of window_tokens(context) token ids. context: tokens before the scored ones; whole pages.
    What the engine's scheduler would decide is decided here, as it would: chunks of its token budget, one sequence's at a
    time; single tokens of all sequences together.
    """

    def __init__(self, engine, windows, context):
        self.engine, self.context, self.size = engine, context, engine.config.page_size
        each, first = pages_of(context, self.size), engine.scheduler.first
        firsts = min(first, each)
        self._tables = [engine.scheduler.allocator.take(each - firsts, firsts) for _ in windows]
        self._sequences = [self._sequence(w) for w in windows]
        self._last = []                           # logits [1, vocabulary] after the context
        engine.pool.reserve(tail_slots(len(windows)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.engine.scheduler.allocator.release([page for table in self._tables for page in table])
        for sequence in self._sequences:
            self.engine.runner.forget(sequence)

    def __len__(self):
        return len(self._sequences)

    @property
    def windows(self):
        """The windows, as they were given."""
        return [s.tokens for s in self._sequences]

    def last_from(self, other):
        """Take over what another Feed of the same windows found after their contexts: for pages that were sealed by hand."""
        self._last = other._last

    def prefill(self):
        """Compute the contexts: every page is sealed before a later token reads it."""
        self._last = []
        for i in range(len(self._sequences)):
            for start, count in self._chunks(0, self.context):
                logits = self._run([self._work(i, start, count, start + count == self.context)])
            self._last.append(logits)

    def score(self, i):
        """Logits [SCORED, vocabulary] after each token that follows window i's context."""
        rows = [self._run([self._work(i, start, count, True, True)]) for start, count in self._chunks(self.context, SCORED)]
        return rows[0] if len(rows) == 1 else mx.concatenate(rows)

    def prefill_logits(self, i, count):
        """Logits [count, vocabulary] of the last `count` tokens of window i's context, out of its prefill in chunks."""
        rows = []
        for start, n in self._chunks(0, self.context):
            logits = self._run([self._work(i, start, n, True, True)])
            rows = [x[-count:] for x in [mx.concatenate([*rows, logits])]]
        return rows[0]

    def decode(self, i, count):
        """Logits [count, vocabulary] after each of the tokens that follow window i's context, computed one at a time."""
        return mx.concatenate([self._run([self._work(i, self.context + t, 1, True, True)]) for t in range(count)])

    def greedy(self, n, path=None):
        """int [windows, n]: the tokens that each context is continued with, the most likely one each time.

        path: int [windows, n], tokens that are gone on with in their place: what is given is then the most likely one
        after each beginning of the path.
        """
        if self.engine.recurrent:                 # its state has gone on to the scored tokens: start anew
            for old in self._sequences:
                self.engine.runner.forget(old)
            self._sequences = [self._sequence(s.tokens) for s in self._sequences]
            self.prefill()
        scored = self._sequences
        fresh = [self._sequence(s.tokens[:self.context]) for s in scored]
        for old, new in zip(scored, fresh):
            new.id = old.id                       # the same state, for models that have one
        self._sequences = fresh
        try:
            tokens, found = [int(mx.argmax(x[-1]).item()) for x in self._last], []
            for step in range(n):
                found.append(tokens)
                for sequence, token in zip(fresh, tokens if path is None else path[:, step].tolist()):
                    sequence.tokens.append(token)
                if step < n - 1:
                    works = [self._work(i, self.context + step, 1, True) for i in range(len(fresh))]
                    tokens = np.array(mx.argmax(self._run(works), axis=-1)).tolist()
        finally:
            self._sequences = scored
        return np.array(found).T

    # ------------------------------------------------------------------ pages, by hand

    def pages_of_context(self, i):
        """Ids of the pages that hold window i's context."""
        return self._tables[i][:self.context // self.size]

    def stored(self, i, layer):
        """(k [context, kv_heads, dk], v [context, kv_heads, dv]) float32, as the pages of one layer's pool keep them."""
        pool, spec = self.engine.pool.layers[layer], self.engine.pool.layers[layer].spec
        pages, held = self.pages_of_context(i), self.engine.pool.held
        records = pool.records[mx.array([held.record(p) for p in pages] if held else pages)]
        plain = pool.format.decode(records, self.size, spec.dk, spec.dv, mx.arange(records.shape[0]))
        if held and held.first:
            firsts = mx.array([held.slot(p) for p in pages[:held.first]])
            plain = [mx.concatenate([f, x[held.first:]]) for f, x in zip(pool.held.get(firsts), plain)]
        return tuple(x.astype(mx.float32).swapaxes(1, 2).reshape(self.context, spec.kv_heads, -1) for x in plain)

    def seal(self, i, layer, k, v):
        """Put a context's k and v of one layer into its pages, as a prompt of one chunk would."""
        pool = self.engine.pool.layers[layer]
        pool.write(self._batch([self._work(i, 0, self.context, False)]), k, v)
        mx.eval(pool.arrays)

    def attend(self, i, read):
        """Attention output of a Read's queries over this engine's pages of window i."""
        layer = self.engine.runner.layers[read.layer]
        batch = self._batch([self._work(i, self.context, SCORED, True, True)])
        layer.bind(batch, serial=self.engine.mode != PAGED)
        out = layer.attend(read.q, read.k, read.v, read.scale, PagedMask(read.window), read.sinks)
        mx.eval(out, layer.pool.arrays)
        return out

    # ------------------------------------------------------------------

    def _sequence(self, tokens):
        return Sequence(list(tokens), SamplingParams(), self.context + max(SCORED, GREEDY) + 1)

    def _work(self, i, start, count, sample, every=False):
        pages = self._tables[i][:(start + count) // self.size]
        return Work(self._sequences[i], start, count, sample, -1, i, pages, every)

    def _chunks(self, start, count):
        most, end = self.engine.scheduler.token_budget, start + count
        while start < end:
            n = min(end - start, most)
            if self.engine.scheduler.align:
                n = min(n, self.size - start % self.size)
            yield start, n
            start += n

    def _batch(self, works):
        return build_batch(works, self.size, self.engine.pool.slots, held=self.engine.pool.held)

    def _run(self, works):
        logits = self.engine.runner.logits(works)
        mx.eval(self.engine.pool.arrays, *([] if logits is None else [logits]))
        return logits


class Read:
    """One layer's attention of a scored chunk: what went in, and what came out."""

    def __init__(self, layer, q, k, v, scale, window, sinks, out):
        self.layer, self.q, self.k, self.v = layer, q, k, v
        self.scale, self.window, self.sinks, self.out = scale, window, sinks, out


class Watch:
    """Notes every layer's Read of an engine while it is entered: .reads, the first of each layer, in order."""

    def __init__(self, engine):
        self._layers, self._seen = engine.runner.layers, {}

    def __enter__(self):
        place = {id(layer): i for i, layer in enumerate(self._layers)}

        def note(layer, *read):
            self._seen.setdefault(place[id(layer)], Read(place[id(layer)], *read))

        for layer in self._layers:
            layer.observer = note
        return self

    def __exit__(self, *_):
        for layer in self._layers:
            layer.observer = None

    @property
    def reads(self):
        found = [self._seen[i] for i in sorted(self._seen)]
        mx.eval([[r.q, r.k, r.v, r.out] for r in found])
        return found


def check_context(context, engine):
    """Raises ConfigError for a context that windows cannot have."""
    size = engine.config.page_size
    if context < size or context % size:
        near = max(size, round(context / size) * size)
        raise ConfigError(f"--contexts {context}: a context is a whole number of pages of {size} tokens, for example {near}")
    if window_tokens(context) > engine.context:
        raise ConfigError(f"--contexts {context}: a window has {window_tokens(context)} tokens, but the model's context is "
                          f"{engine.context}")
