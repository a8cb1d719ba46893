"""Calibrates a model: statistics of its K and queries on real text, fits to them, and the file that page formats read."""

import numpy as np

from .. import _version
from ..calibration import COST, blocks_of, key_of, places, save
from ..config import EngineConfig
from ..engine import load_engine
from ..errors import UnsupportedModel, WeightsError
from . import formats
from .costs import costs
from .fitting import fit_layer
from .gains import STEPS, between, gains
from .statistics import collect, met
from .teacher import check_context, window_tokens
from .texts import Passages

LONGEST = 4096        # distance between a query and a key that the fit has in mind, at most


def calibrate(model, text, *, windows=12, context=1024, out=None, costs_on=0, gains_on=0, progress=None, warn=None):
    """Calibrate a model on a texts.Text; returns a report, a dict of JSON types: file, layers, tokens, text.

    model: a path, as weights.locate gives it. windows: passages of `context` tokens each. out: the file; None: in the cache
    folder. costs_on: windows between these, on which it is measured what each layer costs in few bits, for page format fit (where the
    text has no room for others, of these). gains_on: the same, of what each part of the calibration gains: report["gains"].
    progress: as validation.Quiet. Raises MlxrError subclasses: a text that is too short, no layer that can be fitted.
    """
    engine = load_engine(model, EngineConfig(kv=formats.REFERENCE, pool_tokens=context + 256, prefix_cache=False), warn=warn)
    return calibrate_engine(engine, text, windows=windows, context=context, out=out, costs_on=costs_on, gains_on=gains_on, progress=progress)


def calibrate_engine(engine, text, *, windows=12, context=1024, out=None, costs_on=0, gains_on=0, progress=None):
    """The same with an engine of unquantized pages that has room for one window."""
    specs = [s for s in engine.specs if s]
    if not any(blocks_of(s.dk) for s in specs):
        raise UnsupportedModel(f"{engine.architecture} has no layers whose K could be calibrated")
    check_context(context, engine)
    whole = Passages(engine.tokenizer, text)
    passages = whole.windows(window_tokens(context), windows)
    others = between(passages, window_tokens(context), whole.start, whole.tokens)
    unseen, weighed = _spread(others, gains_on), _spread(others or passages, costs_on)
    if progress:
        progress.expect(len(passages) + len(specs) + 2 * len(specs) * bool(weighed) + STEPS * bool(unseen))
        progress.begin("reading text")
    stats = collect(engine, passages, context, progress.step if progress else lambda: None)
    rng, arrays = np.random.default_rng(0), {}
    for i, one in enumerate(stats):
        if progress:
            progress.begin(f"fitting layer {i}")
        mean, first, covariance, queries, sample = one.finish()
        if not all(np.isfinite(a).all() for a in (mean, first, covariance, queries, one.both)):
            raise WeightsError(f"K, V or the queries of layer {i} are no numbers (NaN or infinite) on this text: the weights are damaged, "
                               "or the dtype is too narrow; nothing can be fitted")
        metric = met(queries, one.frequencies, one.pairs, min(LONGEST, engine.context), rng)
        fitted = fit_layer(mean, first, covariance, metric, sample, one.frequencies, one.pairs, blocks_of(specs[i].dk))
        value_mean, value_map = one.given()
        fitted |= {"first_value": one.values().astype(np.float32), "value_mean": value_mean.astype(np.float32),
                   "value_map": value_map[:, :, fitted["order"]].astype(np.float32)}
        arrays |= {f"layers.{i}.{n}": a for n, a in fitted.items()}
        if progress:
            progress.step()
    key = key_of(engine.name, engine.model_config)
    file = out or places(None, key)[-1]
    metadata = {"model": key, "name": engine.name.rsplit("/", 1)[-1], "architecture": engine.architecture, "text": text.name,
                "digest": " ".join([text.digest, *text.holds]), "tokens": str(len(passages) * context), "version": _version.__version__}
    if weighed:
        arrays |= {f"layers.{i}.{COST}": c for i, c in enumerate(costs(engine, arrays, metadata, weighed, context, progress))}
    save(file, arrays, metadata)
    measured = gains(engine, arrays, metadata, unseen, context, progress) if unseen else None
    turning = sum(bool(s.frequencies.any()) for s in stats)
    measured_costs = [arrays[f"layers.{i}.{COST}"].tolist() for i in range(len(stats))] if weighed else None
    return {"file": str(file), "layers": len(stats), "before_rope": turning, "tokens": len(passages) * context,
            "windows": len(passages), "context": context, "costs": measured_costs, "gains": measured, "gains_windows": len(unseen),
            "text": {"name": text.name, "digest": text.digest}}


def _spread(windows, count):
    """`count` of these, from the first to the last."""
    return [windows[i] for i in np.unique(np.linspace(0, len(windows) - 1, count).round().astype(int))] if windows else []
