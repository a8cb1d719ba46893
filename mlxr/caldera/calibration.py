"""Calibration: what a model's linear layers are given when it reads text, and which blocks lose most by few bits."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_unflatten

_MEMORY = 1 << 30            # bytes of H = X^T X held at once: of more layers, the text is read again


class _Watch(nn.Module):
    """A layer that notes what it is given."""

    def __init__(self, layer, path, notes):
        super().__init__()
        self.layer = layer
        object.__setattr__(self, "path", path)
        object.__setattr__(self, "notes", notes)

    def __call__(self, x):
        self.notes.add(self.path, x)
        return self.layer(x)

    @property
    def weight(self):
        return self.layer.weight


class _Notes:
    """groups: paths of layers that were given one and the same array; sums: first path -> X^T X, lazily."""

    def __init__(self, wanted=None):
        self.wanted, self.sums = wanted, {}
        self.begin()

    def begin(self):
        self.groups, self._last = [], None

    def add(self, path, x):
        if x is self._last:
            self.groups[-1].append(path)
            return
        self._last = x
        self.groups.append([path])
        if self.wanted is not None and path in self.wanted:
            flat = x.reshape(-1, x.shape[-1]).astype(mx.float32)
            product = flat.T @ flat
            self.sums[path] = self.sums[path] + product if path in self.sums else product


def watched(model, paths, notes, windows):
    """Run windows of token ids through the model, `paths` watched; the model is as it was afterwards."""
    modules = dict(model.named_modules())
    model.update_modules(tree_unflatten([(p, _Watch(modules[p], p, notes)) for p in paths]))
    try:
        for window in windows:
            notes.begin()
            out = model(mx.array([window]))
            mx.eval(out, list(notes.sums.values()))
    finally:
        model.update_modules(tree_unflatten([(p, modules[p]) for p in paths]))


def groups_of(model, paths, window):
    """[[path, ...], ...]: which of the layers get the same input, in the order in which the model calls them.

    Layers that are not called, or more than once, are in none.
    """
    notes = _Notes()
    watched(model, paths, notes, [window])
    called = [p for group in notes.groups for p in group]
    return [group for group in notes.groups if all(called.count(p) == 1 for p in group)]


def inputs_of(model, paths, widths, windows, report):
    """Yields (first path, X^T X, float32 [n, n]) for each of `paths`, reading the windows as often as memory asks for.

    widths: path -> n. report: called with the number of windows read, and of those to read.
    """
    batches, room = [], 0
    for path in paths:
        size = 4 * widths[path] ** 2
        if size > room:
            batches.append([])
            room = _MEMORY
        batches[-1].append(path)
        room -= size
    for number, batch in enumerate(batches):
        notes = _Notes(set(batch))
        for i, window in enumerate(windows):
            watched(model, batch, notes, [window])
            report(number * len(windows) + i + 1, len(batches) * len(windows))
        for path in batch:
            yield path, np.array(notes.sums.pop(path))


def losses(model, blocks, replace, window):
    """{block: KL of the model's predictions, in nats a token, with that block in few bits}, over one window.

    blocks: block -> its layers' paths. replace(path, module): the layer in few bits.
    """
    ids, modules = mx.array([window]), dict(model.named_modules())
    log_p = _log_probabilities(model(ids))
    p, found = mx.exp(log_p), {}
    for block, paths in blocks.items():
        model.update_modules(tree_unflatten([(path, replace(path, modules[path])) for path in paths]))
        try:
            found[block] = mx.mean(mx.sum(p * (log_p - _log_probabilities(model(ids))), axis=-1)).item()
        finally:
            model.update_modules(tree_unflatten([(path, modules[path]) for path in paths]))
    return found


def _log_probabilities(logits):
    logits = logits[0].astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)
