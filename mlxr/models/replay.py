"""Steps of a model of fused blocks: the graph of a kind of step is built once, recorded, and replayed as one operation."""

import weakref
from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from ..errors import KernelError
from ..kernels import attend, library
from ..kernels.recording import Likeness, Recording, possible, reads
from ..kernels.seal import counted

# Recordings kept, of some 250 KB. A kind of step is a number of rows, of those read of prompts, of pages a sequence has, and how
# they are shared out; a kind of seal, a number of pages.
MOST = 48
KINDS = 4        # of blocks, at most, that a block is compared with
_ARRAYS = "records", "k_tail", "v_tail"      # of a layer's pool, in the order of its `arrays`: what a step may change


@dataclass
class _Pass:
    """A step that is being recorded: its kind, or None where the recording is for this step alone; each block's cache and what it
    held before, the block's input, what came of these (its output, then what changed in the cache), and which kernels it called."""

    key: tuple | None
    batch: object
    used: Counter
    reads: int
    shared: list
    layers: list = field(default_factory=list)
    before: list = field(default_factory=list)
    inputs: list = field(default_factory=list)
    outputs: list = field(default_factory=list)
    counts: list = field(default_factory=list)
    built: list = field(default_factory=list)
    changed: list = field(default_factory=list)
    called: Counter = field(default_factory=Counter)

    def enter(self, x, layer, likes):
        """The output of a block with input x, made of that of one that it is like; None where it must be built."""
        i, pool = len(self.layers), layer.pool
        self.layers.append(layer)
        self.before.append(pool.arrays)
        self.inputs.append(x)
        one, like = likes.get(i, (0, None))
        made = like and like.clone(self.part(one), self.outputs[one], self.part(i), self.shared)
        if not made:
            self.built.append(i)
            self.called = Counter(library.used)
            return None
        for name, array in zip(self.changed, made[1:]):
            setattr(pool, name, array)
        self.outputs.append(tuple(made))
        self.counts.append(self.counts[one])
        library.used.update(self.counts[one])
        return made[0]

    def part(self, i):
        """What block i computes from, beside what is the same for all."""
        return self.inputs[i], *self.before[i]

    def took(self, y):
        """The graph of the last block's output y is there, and that of its cache's tails."""
        pool = self.layers[-1].pool
        if not self.outputs:
            self.changed = [n for n, old in zip(_ARRAYS, self.before[0]) if getattr(pool, n) is not old]
        self.outputs.append((y, *(getattr(pool, n) for n in self.changed)))
        self.counts.append(Counter(library.used) - self.called)


def _late(batch):
    """Whether a step's pages can be sealed after its logits."""
    return batch.in_pages and batch.sampled is not None


class Stack:
    """A model's blocks and head. Steps that decode, and may read a few tokens of prompts beside, are recorded when one of their
    kind comes for the first time: its graph is built but not computed. They are replayed; `replays` counts those after the first.
    Other steps are recorded for themselves: as one operation they need no more memory than what lives at one time of them, where
    MLX computes far ahead, or waits where it may not.

    Of the first kind, all blocks are built in Python; of others those that are not like earlier ones: the rest is made of these.

    off: set to switch replays off. why: why the last kind of step that cannot be recorded cannot.
    """

    def __init__(self, blocks):
        self.first = blocks[0]
        self.rotations = list({b.rotation.key: b.rotation for b in blocks}.values())
        self.recordings, self.replays, self.off, self.why = OrderedDict(), 0, False, None     # a recording, or None
        self._attentions = {}
        self._likes = {}             # number of a block -> (an earlier one that it is like, their Likeness)
        self._pool = None            # of the engine whose steps these are
        self._step = None            # a _Pass, or None: of the step whose graph is being built

    def replay(self, batch, layers):
        """The logits [S, vocabulary] of a step whose kind was recorded, or None: then the model has to be called.

        layers: the PagedLayer of each block.
        """
        if self._pool is None or self._pool() is not layers[0].pool or not self._recordable(batch, layers[0]):
            return None
        key = self._key(batch)
        if not self.recordings.get(key):
            return None
        self.recordings.move_to_end(key)
        recording, used = self.recordings[key]
        batch.late = True
        logits = recording(self._inputs(batch, [p.pool.arrays for p in layers]))[0]
        library.used.update(used)
        self.replays += 1
        return self._sealed(batch, layers, logits.reshape(-1, logits.shape[-1]))

    def enter(self, block, x, layer):
        """What a block gives where the step is recorded, and the block is like another. Else None."""
        if block is self.first:
            self._step = None
            if self._pool is None or self._pool() is not layer.pool:     # another engine of this model
                self._pool = weakref.ref(layer.pool)
                self.recordings.clear()
                self._attentions, self._likes = {}, {}
            self._begin(layer.batch, layer)
            if layer.batch.settle and not (self._step and self._likes):
                layer.batch.settle()
        return self._step.enter(x, layer, self._likes) if self._step else None

    def built(self, y, layer):
        """Note a block's output, where the step is being recorded."""
        if self._step:
            self._step.took(y)

    def leave(self, logits):
        """The logits, given the head's output: those of a replay, where this step was recorded."""
        step, self._step = self._step, None
        if not step:
            return logits
        batch, last = step.batch, step.layers[-1].pool
        found = self._record(step, logits)
        if found:
            for layer, before in zip(step.layers, step.before):
                for name, array in zip(_ARRAYS, before):
                    setattr(layer.pool, name, array)             # as before: the replay writes to them
            made, = found(self._inputs(batch, step.before))
            if batch.sampled is None:                            # something that is computed has to come of it
                setattr(last, step.changed[-1], made)
            else:
                logits = made
        return self._sealed(batch, step.layers, logits) if batch.late else logits

    def _recordable(self, batch, layer):
        """Whether a step can be recorded, for all that is known of it before its graph is built."""
        return not (self.off or batch.embeds or layer.observer or batch.first_slots is not None and not _late(batch)
                    or isinstance(layer.offset, int)) and possible()

    def _key(self, batch):
        """A step's kind, or None where its recording is for it alone. Such that is kept seals pages last."""
        parts, order = batch.parts
        if not _late(batch) or parts[-1].chunks:
            return None
        return (batch.tokens.size, batch.slots, batch.sampled.size, order is None, tuple(p.table.shape for p in parts),
                self._launches(parts))

    def _begin(self, batch, layer):
        """Begin to record a step, where that can be."""
        if not self._recordable(batch, layer):
            return
        key = self._key(batch)
        if self.recordings.get(key, True):
            batch.late = _late(batch)
            self._step = _Pass(key, batch, Counter(library.used), reads(), self._shared(batch))

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

    def _launches(self, parts):
        return tuple(attend.signature(shape, part, window) for shape, window in self._attentions for part in parts)

    def _shared(self, batch):
        """What all blocks, and the head, are given of a step."""
        parts, order = batch.parts
        parts = [a for p in parts for a in (p.sequences, p.table, p.slots)]
        tails = batch.in_tails
        if not batch.late:
            tails = batch.tail_rows, batch.tail_source, batch.seal_pages, batch.seal_rows, batch.seal_numbers
            if batch.seal_pages is not None:
                tails = *tails, counted(batch.seal_pages.size)
        given = [batch.tokens, *(r.table(batch) for r in self.rotations), *parts, order, None if batch.all_sampled else batch.sampled, *tails]
        return [a for a in given if a is not None]

    def _inputs(self, batch, arrays):
        return [*self._shared(batch), *(a for layer in arrays for a in layer)]

    def _compare(self, step):
        """Note which blocks of a recorded step are like earlier ones, where more were built than those that others are like."""
        if set(step.built) <= {one for one, _ in self._likes.values()}:
            return
        firsts = []
        for i, out in enumerate(step.outputs):
            one, like = self._likes.pop(i, (None, None))
            pairs = [(one, like)] if like else [(one, Likeness()) for one in firsts[-KINDS:]]
            for one, like in pairs:
                if like.learn(step.part(one), step.outputs[one], step.part(i), out, step.shared):
                    self._likes[i] = one, like
                    break
            else:
                firsts.append(i)

    def _record(self, step, logits):
        """A Recording of a step's graph, or None."""
        if reads() != step.reads:
            self.off, self.why = True, "a layer reads values while the graph of a step is built"
            return None
        parts, _ = step.batch.parts
        written = [a for out in step.outputs for a in out[1:]]
        if step.batch.sampled is None and not written:
            return None                                          # it is for nothing
        try:
            recording = Recording(self._inputs(step.batch, step.before), [written[-1] if step.batch.sampled is None else logits], written)
        except KernelError as e:
            self.why = str(e)
            self._keep(step.key, None)
            return None
        self._compare(step)
        if not step.key:
            return recording
        if not self._attentions:
            self._attentions = {(shape, window): None for _, shape, window in parts[0].launches}
            step.key = *step.key[:-1], self._launches(parts)
        self._keep(step.key, (recording, Counter(library.used) - step.used))
        return recording

    def _keep(self, key, found):
        if not key:
            return
        self.recordings[key] = found
        if len(self.recordings) > MOST:
            self.recordings.popitem(last=False)
