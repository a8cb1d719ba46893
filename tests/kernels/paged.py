"""Launches of the paged kernels on Metal, for the gate: a story's next batch, its arrays, and the oracle's answer."""

import mlx.core as mx
import numpy as np

from kernels.gate import Gate
from mlxr.kernels import attend, merge, prefill, seal
from mlxr.kernels.paged import PagedShape, paged_shape, unsupported


class Launches:
    """The next tokens of a story (counts: {sequence: tokens}, all few or all many), as launches of Metal kernels."""

    def __init__(self, story, counts, window=None, sinks=None):
        layer = story.layer
        self.story, self.window = story, window
        self.batch, q, k, v, tails = story.write(counts)
        scale = layer.dk ** -0.5
        self.shape = paged_shape(story.format, story.page_size, q, k, v, tails[0], scale, sinks is not None, story.pool.held)
        assert unsupported(self.shape) is None
        (self.part,), order = self.batch.parts
        assert order is None
        extra = [] if sinks is None else [mx.array(np.pad(np.asarray(sinks, np.float32), (0, max(0, 8 - len(sinks)))))]
        tables = [story.format.k.need().constants] if story.format.k.before_rope else []
        held = [self.part.slots, story.pool.held.numbers] if story.held else []
        self.inputs = [story.pool.records, self.part.table, self.part.sequences, q, *tails, k, v, *extra, *tables, *held]
        self.expected = story.expect(counts, q, window, sinks, scale)

    def attend(self, **options):
        """Gate of attend: its outputs are (out,), or (part, lse) where it splits."""
        tokens = attend.tokens_of(self.shape, self.part.most)
        k, shapes, grid, ints = attend.launch(self.shape, self.part, self.window,
                                              lambda split: attend.kernel(self.shape, tokens, split, "metal", **options),
                                              "metal", 1)
        return Gate(k, self.inputs, shapes, grid, ints)

    def merge(self, part, lse):
        """Gate of merge on what attend gave."""
        rows, heads, units = lse.shape
        k = merge.kernel(self.shape.dv, self.shape.q_type, "metal")
        groups = -(-rows * heads // k.sgs)
        return Gate(k, [part, lse], [(rows, heads, self.shape.dv)], (groups, 1, 1), (units, rows * heads))

    def prefill(self, **options):
        k = prefill.kernel(self.shape, "metal", **options)
        shapes, grid, ints = prefill.launch(k, self.shape, self.part, self.window)
        inputs = list(self.inputs)
        if k.defines["Q_PACKED"]:
            inputs[3] = prefill.pack(inputs[3], self.shape, k.sgs * k.defines["M"])
        return Gate(k, inputs, shapes, grid, (*ints, self.inputs[3].shape[0]))

    def seen(self):
        """Bytes of the records that the new tokens see, and of the plain tokens: what must be read once."""
        page, shape = self.story.page_size, self.shape
        stored = plain = 0
        for w in self.part.works:
            low = max(0, w.start - self.window + 1) if self.window else 0
            last = w.start + w.count - 1
            stored += last // page - min(low // page, last // page)
            plain += last + 1 - max(w.start // page * page, low)
        token = shape.kv_heads * (shape.dk + shape.dv)
        record = story_words(shape) * 4 * shape.kv_heads
        return stored * record, plain * token * {"float": 4}.get(shape.kv_type, 2)


def story_words(shape):
    """Words of a record that hold something."""
    return shape.format.k.words(shape.page, shape.dk) + shape.format.v.words(shape.page, shape.dv)


def sealing(story, count):
    """(Gate of seal, expected records) for the pages that `count` new tokens of sequence 0 complete."""
    layer = story.layer
    batch, _, k, v, (k_tail, v_tail) = story.write({0: count})
    shape = PagedShape(story.format, story.page_size, layer.kv_heads, 1, layer.dk, layer.dv, "float", paged_shape(
        story.format, story.page_size, k, k, v, k_tail, 1.0, False).kv_type)
    kernel = seal.kernel(shape, "metal")
    pages = batch.seal_pages.size
    gate = Gate(kernel, [batch.seal_rows, k_tail, v_tail, k, v, *seal.more_inputs(story.format, batch.seal_numbers)], [(pages, layer.kv_heads, story.pool.words)],
                (pages, layer.kv_heads, 1), (layer.kv_heads, k_tail.shape[0]))
    return gate, seal.reference(story.format, story.page_size, batch.seal_rows, k_tail, v_tail, k, v, batch.seal_numbers)
