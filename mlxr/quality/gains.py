"""What each part of a calibrated format gains on a model: the format without it and with it, in-forward, on text not fitted to."""

import tempfile
from pathlib import Path

import numpy as np

from ..calibration import save
from ..pages.format import effective_bits
from ..pages.formats.calibrated import COUNTS
from .metrics import Reference, figures
from .teacher import Feed

FORMAT = "q3"
STEPS = 8                  # that are measured
# Steps of the best quantizer of a unit normal with so many evenly spaced levels (Max, 1960).
EVEN = {4: 0.9957, 8: 0.5860, 16: 0.3352, 32: 0.1881}
SPAN = 8.0                 # of a leading coefficient of unit variance, where none was fitted


def between(windows, length, start, tokens):
    """Windows [list of tokens] that lie between those of a calibration, halfway; none where these are too close.

    windows: as Passages.windows gives them, of `length` tokens; start: what stands before each; tokens: of the whole text.
    """
    own, n = length - len(start), len(windows)
    starts = [round(i * (len(tokens) - own) / max(1, n - 1)) for i in range(n)]
    return [start + tokens[(a + b) // 2:(a + b) // 2 + own] for a, b in zip(starts, starts[1:]) if b - a >= 2 * own]


def variants(arrays):
    """[(what, arrays of a calibration)]: nothing but even levels of plain K, then one part more each time."""
    layers = sorted({n.split(".")[1] for n in arrays}, key=int)
    plain, centred, turned = dict(arrays), dict(arrays), dict(arrays)
    for layer in layers:
        blocks = {n.split(".")[2] for n in arrays if n.startswith(f"layers.{layer}.") and n.endswith(".forward")}
        mean = arrays[f"layers.{layer}.mean"]
        for name in ("first", "first_value", "value_mean", "value_map"):
            for out in (plain, centred, turned):
                out[f"layers.{layer}.{name}"] = np.zeros_like(arrays[f"layers.{layer}.{name}"])
        plain[f"layers.{layer}.mean"] = np.zeros_like(mean)
        for block in blocks:
            at = f"layers.{layer}.{block}."
            for out, left in ((plain, mean), (centred, np.zeros_like(mean))):
                out |= {at + n: a for n, a in _by_channel(arrays, at, left).items()}
            levels = np.concatenate([EVEN[n] * (np.arange(n) - (n - 1) / 2) for n in COUNTS])
            for out in (plain, centred, turned):
                out[at + "levels"] = np.broadcast_to(levels, arrays[at + "levels"].shape).astype(np.float32)
    firsts = dict(turned)
    for name in arrays:
        if name.endswith(".levels"):
            firsts[name] = arrays[name]
    given = firsts | {n: a for n, a in arrays.items() if n.endswith((".value_mean", ".value_map"))}
    return [("even levels of K's channels", plain), ("+ K's mean", centred), ("+ query-weighted transform", turned),
            ("+ fitted levels", firsts), ("+ V given K", given),
            ("+ what first tokens have (outliers)", arrays)]


def _by_channel(arrays, at, left):
    """forward, inverse, variances, span of channels as they are. left: the mean that is left in them [H, D]."""
    forward, inverse, variances = (arrays[at + n].astype(np.float64) for n in ("forward", "inverse", "variances"))
    heads, count, block, _ = forward.shape
    second = (inverse**2).sum(axis=-1) + left.reshape(heads, count, block).astype(np.float64) ** 2      # of each channel
    weights = (variances.reshape(heads, count, block, 1) * forward**2).sum(axis=-2)                     # of its errors
    scale, eye = np.sqrt(np.maximum(second, 1e-12)), np.eye(block)
    found = {"forward": eye / scale[..., None], "inverse": eye * scale[..., None], "variances": (second * weights).reshape(heads, -1),
             "span": np.maximum(arrays[at + "span"], SPAN)}
    return {n: a.astype(np.float32) for n, a in found.items()}


def gains(engine, arrays, metadata, windows, context, progress=None):
    """[{"what", "format", "bits", figures of metrics.figures}]: each step of `variants`, then boundary layers and first tokens in
    f16.

    engine: with unquantized pages and room for a window. windows: of window_tokens(context) tokens.
    """
    references = [score_window(engine, w, context) for w in windows]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        steps = [(what, FORMAT, found) for what, found in variants(arrays)]
        steps += [("+ first and last layer in f16", f"{FORMAT},skip=0,-1", arrays),
                  ("+ first page in f16 instead", f"{FORMAT},sink=1", arrays)]
        for i, (what, kv, found) in enumerate(steps):
            if progress:
                progress.begin(what)
            file = Path(folder) / f"{i}.safetensors"
            save(file, found, metadata)
            one = engine.sibling(kv=kv, calibration=str(file))
            scores = [score_window(one, w, context, r) for w, r in zip(windows, references)]
            bits = effective_bits([s for s in one.specs if s], one.pool.formats, one.config.page_size, context, None, one.sink)
            rows.append({"what": what, "format": kv, "bits": round(bits, 3), **figures(scores)})
            if progress:
                progress.step()
    return rows


def score_window(engine, window, context, reference=None):
    """A Reference of a window's scored logits; given one, the Score of this engine's."""
    with Feed(engine, [window], context) as feed:
        feed.prefill()
        logits = feed.score(0)
    return reference.score(logits) if reference else Reference(logits, window[context + 1:])
