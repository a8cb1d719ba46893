"""The runner: launches a batch through the model and the sampler, and leaves it in flight."""

import copy

import mlx.core as mx

from .batch import FEW, build_batch, tail_slots
from .kernels import library
from .kernels.recording import in_place
from .models import seam, surgery
from .models.modes import GATHERED, PAGED
from .sampler import sample

# Chunks of so many tokens are read by the kernel that decodes. On a CPU (Zen 5), beside 3 sequences that decode, it takes 0.85 of
# the time of a step with the other kernel for 16 and 32 tokens after 2,000 or 6,000.
FEW_ON = {"host": 32}
ONE_ROW = mx.array([0], mx.int32)      # not lazy: engines on other threads take it, too


def few_on():
    """Tokens of a chunk that the kernel that decodes takes on this backend."""
    return FEW_ON.get(library.backend(), FEW)


class Runner:
    """Runs plans on a model over a page pool.

    model: an mlx-lm Model with its weights. pool: a PagePool for seam.probe(model)'s layers. mode: PAGED, SERIAL or
    GATHERED (see seam.py). windows: sliding window of each attention layer or None. most: sequences at once, or None.
    """

    def __init__(self, model, pool, mode, windows, most=None):
        self.model, self.pool, self.mode = model, pool, mode
        pools = iter(pool.layers)
        kind = seam.GatheredLayer if mode == GATHERED else seam.PagedLayer
        self._layers = [kind(next(pools) if spec else None, w) for spec, w in zip(pool.specs, windows)]
        self._recurrent = {}             # sequence id -> its caches, for models with a recurrent state
        self._shared = None              # the caches, when no layer is recurrent
        self._head = surgery.select_rows(model)
        self._stack = model.__dict__.get("stack")        # of a model whose steps are replayed
        self._few = few_on()
        self._most = most
        self._settle = None              # of the step that is launched
        self._previous = None            # tokens of the last launched step
        self._wanted, self._hidden = False, []           # hidden states of this step's rows: [S', hidden] of each forward pass
        self.observer = None             # called as observer(works, logits [S, vocabulary]) at each step, by validation

    def launch(self, plan, settle=None, known=None):
        """Start computing a plan; returns Sampled (lazy, in flight), or None when nothing is sampled.

        settle: called before anything that takes long, such as waiting for the step before: so that its tokens need not wait.
        known: called before tokens are drawn that a guide bounds, which must have seen all before them; what they are drawn
        from is being computed then.
        """
        for sequence in plan.preempted:
            self.forget(sequence)
        self.pool.reserve(tail_slots(max(w.slot for w in plan.works) + 1, self._most))
        self._settle = settle if self.mode == PAGED else None
        # An update of an array is in its own memory only when nobody who reads it is in flight. Where seals write in place in any
        # case, that holds for pages that are held as plain numbers alone.
        if plan.seals(self.pool.page_size, (self.pool.held.first if self.pool.held else 0) if in_place() else None):
            if self._settle:
                self._settle()
            mx.synchronize()
        self._wanted, self._hidden = any(w.sequence.embed for w in plan.samples), []
        logits = self.logits(plan.works)
        works, previous = plan.samples, self._previous
        if self.observer and works:
            self.observer(works, logits)
        if known and any(w.sequence.guide for w in works):
            mx.async_eval(self.pool.arrays, logits)
            known()
        sampled = sample(logits, works, previous) if works else None
        if sampled and sum(h.shape[0] for h in self._hidden) == len(works):
            sampled.hidden = mx.concatenate(self._hidden).astype(mx.float32)
        self._previous = sampled.tokens if sampled else None
        mx.async_eval(self.pool.arrays, *(sampled.arrays if sampled else ()))
        return sampled

    @property
    def layers(self):
        """The PagedLayer of each attention layer, those that share another's K and V included."""
        return self._layers

    def forget(self, sequence):
        """Drop what is kept for a sequence outside of the pool."""
        self._recurrent.pop(sequence.id, None)

    def logits(self, works):
        """Logits [S, vocabulary] of the works that are sampled from, or None when none is. The pool takes their K and V."""
        self.pool.prepare(works, self._few)
        return self._paged(works) if self.mode == PAGED else self._one_by_one(works)

    def rehearse(self, works):
        """Build the graph of a step that is never computed: what is in the pool stays."""
        pool, slots = self.pool, self.pool.slots
        kept = [(layer.records, layer.k_tail, layer.v_tail, layer.held and layer.held.numbers) for layer in pool.layers]
        try:
            for layer in pool.layers:        # an update of an array changes all names of it
                layer.records, layer.k_tail, layer.v_tail = map(copy.copy, (layer.records, layer.k_tail, layer.v_tail))
                if layer.held:
                    layer.held.numbers = copy.copy(layer.held.numbers)
            pool.reserve(tail_slots(len(works)))
            batch = self._batch(works)
            paged = self.mode == PAGED
            self._forward(batch, self._caches(None if paged else works[0].sequence),
                          batch.tokens[:, None] if paged else batch.tokens[None], serial=not paged)
        finally:
            for layer, (*arrays, numbers) in zip(pool.layers, kept):
                layer.records, layer.k_tail, layer.v_tail = arrays
                if layer.held:
                    layer.held.numbers = numbers
            pool.slots = slots
            for work in works:
                self.forget(work.sequence)

    def _batch(self, works, previous=None):
        return build_batch(works, self.pool.page_size, self.pool.slots, previous, self.pool.held, self._few)

    def _paged(self, works):
        """Logits [S, vocabulary] of a ragged batch: one token a row."""
        batch = self._batch(works, self._previous)
        batch.settle, self._settle = self._settle, None
        replayed = self._stack.replay(batch, self._layers) if self._stack else None
        if replayed is not None:
            return replayed
        return self._forward(batch, self._caches(None), batch.tokens[:, None], serial=False)

    def _one_by_one(self, works):
        """The same, one sequence after the other; each is evaluated alone, so that its seal reuses the pool's buffer."""
        rows = []
        for work in works:
            batch = self._batch([work], self._previous)
            caches = self._caches(work.sequence)
            logits = self._forward(batch, caches, batch.tokens[None], serial=True)
            mx.eval(self.pool.arrays, [c.state for c in _recurrent(caches)], *([] if logits is None else [logits]))
            if logits is not None:
                rows.append(logits)
        return mx.concatenate(rows) if rows else None

    def _forward(self, batch, caches, tokens, serial):
        for layer in self._layers:
            layer.bind(batch, serial)
        head = self._head
        # Where nobody wants logits the head's graph is still built: for one row, whose kernel there is already.
        rows = ONE_ROW if batch.sampled is None else None if batch.all_sampled else batch.sampled
        head.rows, head.total, head.used = rows, tokens.size, False
        head.keep, head.kept = self._wanted, None
        logits = self.model(tokens, cache=caches)
        head.rows, head.keep = None, False
        if batch.sampled is None:
            return None                  # nobody wants these logits: they are never computed
        if head.kept is not None:
            self._hidden.append(head.kept)
        logits = logits.reshape(-1, logits.shape[-1])
        return logits if head.used or batch.all_sampled else logits[batch.sampled]

    def _caches(self, sequence):
        if self._shared is not None:
            return self._shared
        key = sequence.id if sequence else None
        if key not in self._recurrent:
            layers = iter(self._layers)
            stock = seam.stock_caches(self.model)
            caches = seam.map_caches(stock, lambda _: next(layers))
            if not list(_recurrent(caches)):
                self._shared = caches
                return caches
            self._recurrent[key] = caches
        return self._recurrent[key]


def _recurrent(caches):
    """The caches among these that hold a recurrent state of their own."""
    for cache in caches:
        if type(cache).__name__ == "CacheList":
            yield from _recurrent(cache.caches)
        elif not isinstance(cache, seam.PagedLayer):
            yield cache
