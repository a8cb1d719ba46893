"""Compresses the linear layers of a whole model, group by group; finished groups lie in files, so that a run can go on."""

import os
import re

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..errors import ConfigError, WeightsError
from . import calibration
from .affine import Hessian
from .factor import decompose

WINDOW, _PROBE = 512, 256    # tokens of calibration read at once; of the window on which blocks are compared
_NUMBER = re.compile(r"^(.*?\.\d+)\.")


class Compression:
    """Which layers are compressed together, with how many bits; and their results.

    model: with its weights, to be read text with. shapes: path -> (out, in) of the layers that may be compressed.
    weight_of: path -> float32 [out, in], NumPy. folder: where finished groups are kept. report: called as
    report(what, done, total).
    """

    def __init__(self, settings, group_size, model, shapes, weight_of, folder, report):
        self.settings, self.group_size, self.folder, self.report = settings, group_size, folder, report
        self.model, self.shapes, self.weight_of = model, shapes, weight_of
        self.factor_group = 64 if settings.rank % 64 == 0 and group_size >= 64 else 32
        self.losses = {}                                 # path of a group's first layer -> (error with L R, without)

    def run(self, windows):
        """Compress: [windows of token ids] are what calibration reads. Sets `owners`: path -> first path of its group,
        whose R it shares, and `bits`: path -> bits of its Q."""
        folder = self.folder
        folder.mkdir(exist_ok=True)
        groups = calibration.groups_of(self.model, list(self.shapes), windows[0][:16])
        groups = [g for g in groups if self._gains(g)]
        if not groups:
            raise ConfigError(f"--caldera rank={self.settings.rank}: no layer of this model is so large that a correction of "
                              "this rank is smaller than the layer")
        self.owners = {path: group[0] for group in groups for path in group}
        self.bits = self._choose_bits(groups, windows[0][:_PROBE])
        files = {g[0]: folder / f"{i:05d}.safetensors" for i, g in enumerate(groups)}
        self._file_of = {path: files[owner] for path, owner in self.owners.items()}
        missing = {g[0]: g for g in groups if not files[g[0]].exists()}
        widths = {path: self.shapes[path][1] for path in missing}
        read = lambda done, total: self.report("reading text", done, total)
        done = len(groups) - len(missing)
        for path, products in calibration.inputs_of(self.model, list(missing), widths, windows, read):
            self._compress(missing[path], products, files[path])
            done += 1
            self.report("compressing", done, len(groups))

    def arrays(self, path):
        """{name in the folder's weights: array} of a compressed layer."""
        return {name: a for name, a in mx.load(str(self._file_of[path])).items() if name.startswith(path + ".")}

    def describe(self):
        """What config.json says about it, for models/low_rank.py."""
        s = self.settings
        return {"rank": s.rank, "factor_bits": s.factor_bits, "factor_group_size": self.factor_group, "right": self.owners}

    def _gains(self, group):
        """Whether L and R of a group have fewer numbers than its weights."""
        rows, width = sum(self.shapes[p][0] for p in group), self.shapes[group[0]][1]
        return self.settings.rank * (rows + width) < rows * width and width % max(self.group_size, self.factor_group) == 0

    def _choose_bits(self, groups, window):
        blocks = {}
        for path in (p for g in groups for p in g):
            blocks.setdefault(_block(path), []).append(path)
        count, order = self.settings.protected(len(blocks)), list(blocks)
        chosen = [order[-1], order[0]][:count]
        if count > len(chosen):
            found = _kept(self.folder / "losses.safetensors", order, lambda: self._losses(blocks, window))
            chosen += [b for b in sorted(found, key=found.get, reverse=True) if b not in chosen][:count - len(chosen)]
        self.protected = sorted(chosen, key=order.index)
        return {p: self.settings.more_bits if b in chosen else self.settings.bits for b, paths in blocks.items() for p in paths}

    def _losses(self, blocks, window):
        self.report("comparing blocks", 0, 1)
        found = calibration.losses(self.model, blocks, self._coarse, window)
        self.report("comparing blocks", 1, 1)
        return found

    def _coarse(self, path, module):
        """A layer with plain codes of so few bits."""
        how = {"bits": self.settings.bits, "group_size": self.group_size}
        layer = nn.Linear(1, 1, bias=False)
        layer.weight = mx.dequantize(*mx.quantize(mx.array(self.weight_of(path)), **how), **how)
        if "bias" in module:
            layer.bias = module.bias
        return layer

    def _compress(self, group, products, file):
        s = self.settings
        weights = [self.weight_of(p) for p in group]
        if not np.isfinite(products).all():
            raise WeightsError(f"{group[0]} is given numbers that are not finite when the model reads text")
        parts = decompose(np.concatenate(weights), Hessian(products), self.bits[group[0]], s.rank, s.factor_bits,
                          self.group_size, self.factor_group)
        out = _arrays(f"{group[0]}.right", parts.right, s.factor_bits)
        ends = np.cumsum([len(w) for w in weights])
        for path, end, w in zip(group, ends, weights):
            rows = slice(end - len(w), end)
            out |= _arrays(f"{path}.layer", parts.q, self.bits[group[0]], rows) | _arrays(f"{path}.left", parts.left, s.factor_bits, rows)
        _save(file, out)
        self.losses[group[0]] = parts.loss, parts.plain


def _block(path):
    """"model.layers.3" of "model.layers.3.mlp.up_proj"; a layer outside of blocks is one by itself."""
    found = _NUMBER.match(path)
    return found[1] if found else path


def _arrays(name, part, bits, rows=slice(None)):
    if part.codes is None:
        return {f"{name}.weight": mx.array(part.decoded[rows]).astype(mx.float16)}
    return {f"{name}.weight": mx.array(pack(part.codes[rows], bits)), f"{name}.scales": mx.array(part.scales[rows]),
            f"{name}.biases": mx.array(part.offsets[rows])}


def pack(codes, bits):
    """uint8 codes [m, n] -> uint32 [m, n * bits / 32], as mx.quantize lays them out: one stream of bits, low bits first."""
    stream = np.unpackbits(codes[..., None], axis=-1, count=bits, bitorder="little")
    return np.packbits(stream.reshape(len(codes), -1), axis=-1, bitorder="little").view(np.uint32)


def _save(file, arrays):
    scratch = file.with_name("writing.safetensors")
    mx.save_safetensors(str(scratch), arrays)
    os.replace(scratch, file)


def _kept(file, names, compute):
    """{name: number}, read from a file, or computed and kept there."""
    if file.exists():
        return {n: a.item() for n, a in mx.load(str(file)).items() if n in names}
    found = compute()
    _save(file, {n: mx.array(v) for n, v in found.items()})
    return found


def windows_of(tokens, wanted):
    """Windows of WINDOW tokens, up to `wanted` tokens in all, spread evenly over a text's. Raises ConfigError."""
    fit = len(tokens) // WINDOW
    if not fit:
        raise ConfigError(f"the text for calibration has {len(tokens)} tokens; {WINDOW} is the least, some thousands are good")
    count = min(fit, max(1, wanted // WINDOW))
    starts = [round(i * (len(tokens) - WINDOW) / max(1, count - 1)) for i in range(count)]
    return [tokens[s:s + WINDOW] for s in starts]
