"""Steps of a model of fused blocks: the graph of a kind of step is built once, recorded, and replayed as one operation."""

import weakref
from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from ..errors import KernelError
from ..kernels import attend, library
from ..kernels.recording import Recording, possible, reads

MOST = 32   # recordings kept: a kind of step is a number of rows, of pages a sequence has, and of pages attended to at once
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
    """A model's blocks and head. Decode steps whose kind was seen before are replayed; `replays` counts them.

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
        """Note the head's output, where this step is being recorded."""
        if isinstance(self._step, _Pass):
            self._record(self._step, logits)
        self._step = None

    def _begin(self, x, layer):
        """The replayed logits. None where the step is not replayed; then _step says whether it is recorded."""
        batch = layer.batch
        parts, _ = batch.parts
        seals = batch.completes
        if (self.off or batch.embeds or layer.observer or not batch.all_sampled or len(parts) > 1 or parts[0].chunks or parts[0].most > 1
                or isinstance(layer.offset, int) or not possible()):
            return None
        key = *self._kind(x, batch), self._launches(parts[0])
        if key not in self.recordings:
            if not seals:
                self._step = _Pass(key, batch, Counter(library.used), reads())
            return None
        self.recordings.move_to_end(key)
        if self.recordings[key] is None:
            return None
        recording, used = self.recordings[key]
        library.used.update(used)
        self.replays += 1
        logits = recording(self._inputs(batch, [p.pool.arrays for p in self._layers]))[0]
        if seals:
            for p in self._layers:
                p.pool.seal_tails(batch, after=logits)
        return logits

    def _kind(self, x, batch):
        return x.shape, x.dtype, batch.slots, batch.parts[0][0].table.shape

    def _launches(self, part):
        return tuple(attend.signature(shape, part, window) for shape, window in self._attentions)

    def _inputs(self, batch, arrays):
        part = batch.parts[0][0]
        return [batch.tokens, *(r.table(batch) for r in self.rotations), part.sequences, part.table,
                *([] if part.slots is None else [part.slots]), *batch.in_tails, *(a for layer in arrays for a in layer)]

    def _record(self, step, logits):
        if reads() != step.reads:
            self.off, self.why = True, "a layer reads values while the graph of a step is built"
            return
        part = step.batch.parts[0][0]
        written = [t for p in step.layers for t in (p.pool.k_tail, p.pool.v_tail)]
        try:
            recording = Recording(self._inputs(step.batch, step.before), [logits], written)
        except KernelError as e:
            self.why = str(e)
            self._keep(step.key, None)
            return
        if not self._attentions:
            self._attentions = {(shape, window): None for _, shape, window in part.launches}
            step.key = *step.key[:-1], self._launches(part)
        self._layers = step.layers
        self._keep(step.key, (recording, Counter(library.used) - step.used))

    def _keep(self, key, found):
        self.recordings[key] = found
        if len(self.recordings) > MOST:
            self.recordings.popitem(last=False)
