"""Steps of a model of fused blocks: the graph of a kind of step is built once, recorded, and replayed as one operation."""

import weakref
from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from ..errors import KernelError
from ..kernels import attend, library
from ..kernels.recording import Recording, possible, reads

# Recordings kept, of some 250 KB. A kind of step is a number of rows, of those read of prompts, of pages a sequence has, and how
# they are shared out; a kind of seal, a number of pages.
MOST = 48
_DONE = "replayed"


@dataclass
class _Pass:
    """A step that is being recorded: its kind, and what each block's cache held before it."""

    key: tuple
    batch: object
    used: Counter
    reads: int
    layers: list = field(default_factory=list)
    before: list = field(default_factory=list)


class Stack:
    """A model's blocks and head. Steps that decode, and may read a few tokens of prompts beside, are recorded when one of their
    kind comes for the first time: its graph is built but not computed. They are replayed; `replays` counts those after the first.

    off: set to switch replays off. why: why the last kind of step that cannot be recorded cannot.
    """

    def __init__(self, blocks):
        self.first = blocks[0]
        self.rotations = list({b.rotation.key: b.rotation for b in blocks}.values())
        self.recordings, self.replays, self.off, self.why = OrderedDict(), 0, False, None     # a recording, or None
        self._attentions, self._layers = {}, []
        self._pool = None            # of the engine whose steps these are
        self._step = None            # a _Pass, _DONE, or None: of the step whose graph is being built

    def enter(self, block, x, layer):
        """What a block gives where the step is replayed: the logits. Else None."""
        if block is self.first:
            self._step = None
            if self._pool is None or self._pool() is not layer.pool:     # another engine of this model
                self._pool = weakref.ref(layer.pool)
                self.recordings.clear()
                self._attentions, self._layers = {}, []
            logits = self._begin(x, layer)
            if logits is not None:
                self._step = _DONE
                return logits
            if layer.batch.settle:
                layer.batch.settle()
        if isinstance(self._step, _Pass):
            self._step.layers.append(layer)
            self._step.before.append(layer.pool.arrays)
        return x if self._step is _DONE else None

    def replayed(self):
        """Whether the step's logits are there already. Asked by the head, once a step: what comes next is another one."""
        done = self._step is _DONE
        if done:
            self._step = None
        return done

    def leave(self, logits):
        """The logits, given the head's output: those of a replay, where this step was recorded."""
        step, self._step = self._step, None
        if not isinstance(step, _Pass):
            return logits
        found = self._record(step, logits)
        if found:
            for p, (_, k_tail, v_tail, *_) in zip(step.layers, step.before):
                p.pool.k_tail, p.pool.v_tail = k_tail, v_tail        # as before: the replay writes to them
            logits = found(self._inputs(step.batch, step.before))[0]
        return self._sealed(step.batch, step.layers, logits)

    def _begin(self, x, layer):
        """The replayed logits. None where the step is not replayed; then _step says whether it is recorded."""
        batch = layer.batch
        parts, order = batch.parts
        if (self.off or batch.embeds or layer.observer or batch.sampled is None or order is not None or parts[-1].chunks
                or not batch.in_pages or isinstance(layer.offset, int) or not possible()):
            return None
        key = *self._kind(x, batch), self._launches(parts)
        if key not in self.recordings:
            self._step, batch.late = _Pass(key, batch, Counter(library.used), reads()), True
            return None
        self.recordings.move_to_end(key)
        if self.recordings[key] is None:
            return None
        recording, used = self.recordings[key]
        library.used.update(used)
        self.replays += 1
        return self._sealed(batch, self._layers, recording(self._inputs(batch, [p.pool.arrays for p in self._layers]))[0])

    def _sealed(self, batch, layers, logits):
        """The logits; what pages the batch completes are sealed after them: in one operation, where no page is held."""
        pools = [p.pool for p in layers]
        if batch.completes and not (batch.first_slots is None and self._replay_seals(batch, pools, logits)):
            for pool in pools:
                pool.seal_tails(batch, after=logits)
        return logits

    def _replay_seals(self, batch, pools, logits):
        """Seal by a recording, which is made where there is none of so many pages; whether that can be."""
        key = "seals", batch.slots, batch.seal_pages.size
        inputs = [batch.seal_pages, batch.full_tails[0], batch.seal_numbers]
        inputs += [a for pool in pools for a in (pool.records, pool.k_tail, pool.v_tail)]
        if key not in self.recordings:
            before = Counter(library.used)
            made = [pool.sealed_from_tails(batch) for pool in pools]
            used = Counter(library.used) - before
            library.used.subtract(used)          # they are counted when they are computed
            try:
                self._keep(key, (Recording(inputs, made), used))
            except KernelError:                  # such as of formats that only twins seal
                self._keep(key, None)
        self.recordings.move_to_end(key)
        if self.recordings[key] is None:
            return False
        recording, used = self.recordings[key]
        library.used.update(used)
        for pool, records in zip(pools, recording(inputs, after=[logits])):
            pool.records = records
        return True

    def _kind(self, x, batch):
        return x.shape, x.dtype, batch.slots, batch.sampled.size, tuple(p.table.shape for p in batch.parts[0])

    def _launches(self, parts):
        return tuple(attend.signature(shape, part, window) for shape, window in self._attentions for part in parts)

    def _inputs(self, batch, arrays):
        parts = [a for p in batch.parts[0] for a in (p.sequences, p.table, p.slots) if a is not None]
        return [batch.tokens, *(r.table(batch) for r in self.rotations), *parts, *([] if batch.all_sampled else [batch.sampled]),
                *batch.in_tails, *(a for layer in arrays for a in layer)]

    def _record(self, step, logits):
        """A Recording of a step's graph, or None."""
        if reads() != step.reads:
            self.off, self.why = True, "a layer reads values while the graph of a step is built"
            return None
        parts, _ = step.batch.parts
        written = [t for p in step.layers for t in (p.pool.k_tail, p.pool.v_tail)]
        try:
            recording = Recording(self._inputs(step.batch, step.before), [logits], written)
        except KernelError as e:
            self.why = str(e)
            self._keep(step.key, None)
            return None
        if not self._attentions:
            self._attentions = {(shape, window): None for _, shape, window in parts[0].launches}
            step.key = *step.key[:-1], self._launches(parts)
        self._layers = step.layers
        self._keep(step.key, (recording, Counter(library.used) - step.used))
        return recording

    def _keep(self, key, found):
        self.recordings[key] = found
        if len(self.recordings) > MOST:
            self.recordings.popitem(last=False)
