"""A validation: every page format on every window, in both modes, with its errors by layer, its probes and its checks."""

import time
from dataclasses import asdict, dataclass
from datetime import datetime, timezone

import mlx.core as mx
import numpy as np

from .. import _version
from ..calibration import texts_read
from ..config import EngineConfig
from ..engine import load_engine
from ..errors import ConfigError, MlxrError, UnsupportedModel, WeightsError
from ..kernels import library
from ..pace import Unpaced
from ..pages.format import effective_bits
from . import checks, formats, recall, stock
from .metrics import OF_TOKENS, Reference, figures, perplexity
from .teacher import GREEDY, SCORED, Feed, Watch, check_context, pages_of, window_tokens
from .texts import Passages
from .verdict import ACCEPT, worst

MODES = "in-forward", "snapshot"
PEERS = ("mlx-lm",)
GROUP_BYTES = 512 << 20     # of unquantized pages and logits that are kept at once
MOST = 6                    # windows at once
MATCHED = 6                 # windows whose greedy tokens are compared: decoding takes as long as a prompt


@dataclass(frozen=True)
class Plan:
    """What is measured. Raises ConfigError for what cannot be.

    formats: page formats, as --kv takes them. contexts: tokens before the scored ones. windows: of each context.
    modes: in-forward, each layer attends to what was stored, as the engine runs; snapshot, the context is computed
    without quantization and sealed once. streams: modes in which K alone and V alone are measured, too.
    checks, recall: whether those run. against: peers (mlx-lm).
    """

    formats: tuple
    contexts: tuple = (1024,)
    windows: int = 12
    modes: tuple = MODES
    streams: tuple = ("snapshot",)
    checks: bool = True
    recall: bool = True
    against: tuple = ()

    def __post_init__(self):
        for name in self.formats:
            formats.known(name)
        for mode in (*self.modes, *self.streams):
            if mode not in MODES:
                raise ConfigError(f"unknown mode {mode!r}; there are {', '.join(MODES)}")
        if self.windows < 1:
            raise ConfigError(f"--windows must be at least 1, not {self.windows}")
        if not self.contexts or not self.modes:
            raise ConfigError("a validation needs a context and a mode at least")
        for name in self.against:
            if name not in PEERS:
                raise ConfigError(f"--against {name}: there are {', '.join(PEERS)}")

    @property
    def cells(self):
        """[(mode, stream)] measured for a format: stream "both", "k" or "v"."""
        return [(m, s) for m in MODES for s in ("both", "k", "v")
                if (s == "both" and m in self.modes) or (s != "both" and m in self.streams)]


class Quiet:
    """Progress that is told to nobody. Others have the same three methods."""

    def expect(self, steps):
        """There will be that many steps."""

    def begin(self, what):
        """One begins."""

    def step(self):
        """It is done."""


def validate(model, plan, text, *, page_size=64, dtype=None, calibration=None, progress=None, warn=None):
    """The report of a validation, a dict of JSON types (see Validation.report).

    model: anything that weights.locate takes. text: a texts.Text. progress: as Quiet. warn: called with one line.
    Raises MlxrError subclasses: a model that cannot be run, a text that is too short, a context that is too long.
    """
    config = EngineConfig(kv=formats.REFERENCE, calibration=calibration, page_size=page_size, dtype=dtype, token_budget=max(512, SCORED), pool_tokens=1,
                          prefix_cache=False)
    return Validation(load_engine(model, config, warn=warn), plan, text, progress or Quiet()).run()


class Validation:
    """Runs a Plan. base: any engine of the model, with unquantized pages; its pool may be small."""

    def __init__(self, base, plan, text, progress):
        self.base, self.plan, self.text, self.progress = base, plan, text, progress
        if not any(base.specs):
            raise UnsupportedModel(f"{base.architecture} has no attention layers: there is no KV cache to validate")
        for context in plan.contexts:
            check_context(context, base)
        self.passages = Passages(base.tokenizer, text)
        self.windows = {c: self.passages.windows(window_tokens(c), plan.windows) for c in plan.contexts}
        self.notes = []
        for context, windows in self.windows.items():
            if len(windows) < plan.windows:
                self.notes.append(f"the text holds {len(windows)} windows of {context} tokens of context, not {plan.windows}")
        fitted = [name for name in plan.formats if formats.known(name).needs_calibration]
        if fitted and text.digest in texts_read(base.name, base.model_config, base.config.calibration):
            self.notes.append(f"{', '.join(fitted)}: the calibration has read this text, so that the figures are better than on "
                              "others; give another with --text")
        self.scores = {}                 # (format, context, mode, stream) -> [Score]
        self.references = {}             # context -> [Score] of the reference against itself
        self.layers = {}                 # format -> {"k", "v", "attention": [squared error, squared norm] by layer}
        self._engines, self._pages = {}, 0
        self.cells = self._cells()
        self.against = self._against()

    def run(self):
        """Measure; returns the report."""
        start, plan = time.perf_counter(), self.plan
        groups = [(c, g) for c, ws in self.windows.items() for g in self._groups(c, ws)]
        self._pages = max(len(g) * pages_of(c, self.base.config.page_size) for c, g in groups)
        steps = 1 + len(plan.formats) * len(self.cells) + len(self.against) * len(plan.modes)
        probes = len({formats.REFERENCE, *plan.formats}) if plan.recall else 0
        self.progress.expect(len(groups) * steps + probes + (len(plan.formats) if plan.checks else 0))
        for context, windows in groups:
            self._group(context, windows)
        probed = recall.probe(self) if plan.recall else None
        checked = checks.check_all(self) if plan.checks else []
        return self._report(probed, checked, time.perf_counter() - start)

    def engine(self, kv, role=""):
        """The engine with pages of a format, made when it is first asked for; role: to have several of one format."""
        if (kv, role) not in self._engines:
            self._engines[kv, role] = self.engine_of(self._pages, kv=kv)
        return self._engines[kv, role]

    def engine_of(self, pages, **config):
        """A new engine with that many pages, whose schedule does not depend on measured times."""
        one = self.base.sibling(**config, pool_bytes=None, pool_tokens=1).info()["page_bytes"]
        engine = self.base.sibling(**config, pool_tokens=None, pool_bytes=(pages + 1) * one)
        engine.pace = Unpaced(engine.config.token_budget)
        return engine

    # ------------------------------------------------------------------ one group of windows

    def _groups(self, context, windows):
        """Windows that are computed together, spread over the text: the first group must not be its beginning."""
        each = window_tokens(context) * self.base.info()["kv_bytes_per_token"] + 4 * SCORED * self.base.vocabulary
        most = int(max(1, min(MOST, GROUP_BYTES // each)))
        n = -(-len(windows) // most)
        return [windows[i::n] for i in range(n)]

    def _group(self, context, windows):
        """Every format on these windows."""
        self.progress.begin(f"reference, {context} tokens")
        with Feed(self.engine(formats.REFERENCE), windows, context) as feed:
            references, reads = self._reference(feed, windows, context)
            greedy = feed.greedy(GREEDY) if len(self.references.setdefault(context, [])) < MATCHED else None
            self.references[context] += [r.score(r.logp) for r in references]
            self.progress.step()
            for name in self.plan.formats:
                for mode, stream in self.cells:
                    self.progress.begin(f"{name}, {mode}" + ("" if stream == "both" else f", {stream.upper()} only"))
                    scores = self._cell(name, mode, stream, feed, references, reads, greedy)
                    self.scores.setdefault((name, context, mode, stream), []).extend(scores)
                    self.progress.step()
            caches = [stock.StockCache(self.base.model, w, context) for w in windows] if self.against else []
            for name in self.against:
                self._peer(name, caches, references, greedy)

    def _reference(self, feed, windows, context):
        feed.prefill()
        references, reads = [], []
        for i, window in enumerate(windows):
            with Watch(feed.engine) as watch:
                logits = feed.score(i)
            if not mx.isfinite(logits).all().item():
                raise WeightsError(f"{self.base.architecture} gives logits that are no numbers (NaN or infinite) on this text, with "
                                   "unquantized pages: its weights are damaged, or --dtype is too narrow; nothing can be compared")
            reads.append(watch.reads)
            references.append(Reference(logits, window[context + 1:]))
        return references, reads

    def _cell(self, name, mode, stream, clean, references, reads, greedy):
        """Scores of a format's pages; of K alone or V alone with the other unquantized."""
        kv = name if stream == "both" else formats.streams(name)[stream]
        with Feed(self.engine(kv, "measured"), clean.windows, clean.context) as feed:
            if mode == "in-forward":
                feed.prefill()
            else:
                self._seal(name if stream == "both" else None, clean, feed)
            scores = [r.score(feed.score(i)) for i, r in enumerate(references)]
            if mode == "snapshot" and stream == "both":
                self._attention(name, feed, reads)
            if stream == "both" and greedy is not None:
                if mode == "snapshot":
                    feed.last_from(clean)
                for score, ours, theirs in zip(scores, feed.greedy(GREEDY, greedy), greedy):
                    score.matches = (ours == theirs).astype(float)
        return scores

    def _seal(self, name, clean, feed):
        """Fill the pages of `feed` with the unquantized K and V; under a name, note what reading them back gives."""
        layers = range(len(feed.engine.pool.layers))
        for i in range(len(feed)):
            for layer in layers:
                k, v = clean.stored(i, layer)
                feed.seal(i, layer, k, v)
                if name:
                    for what, right, wrong in zip("kv", (k, v), feed.stored(i, layer)):
                        self._error(name, what, layer, wrong, right)

    def _attention(self, name, feed, reads):
        for i, layers in enumerate(reads):
            for layer, read in enumerate(layers):
                self._error(name, "attention", layer, feed.attend(i, read), read.out)

    def _error(self, name, what, layer, wrong, right):
        wrong, right = wrong.astype(mx.float32), right.astype(mx.float32)
        sums = self.layers.setdefault(name, {}).setdefault(what, {}).setdefault(layer, np.zeros(2))
        sums += [mx.sum(mx.square(wrong - right)).item(), mx.sum(mx.square(right)).item()]

    def _peer(self, name, stocks, references, greedy):
        """mlx-lm's cache, of so many bits, on the same windows."""
        bits = stock.FORMATS[name]
        for mode in self.plan.modes:
            self.progress.begin(f"{name}, {mode}")
            for i, (window, reference) in enumerate(zip(stocks, references)):
                caches = window.in_forward(bits) if mode == "in-forward" else window.snapshot(bits)
                score = reference.score(window.score(caches))
                if greedy is not None:
                    score.matches = (window.greedy(caches, path=greedy[i]) == greedy[i]).astype(float)
                self.scores.setdefault((name, window.context, mode, "both"), []).append(score)
            self.progress.step()

    # ------------------------------------------------------------------ what can be measured

    def _cells(self):
        cells = self.plan.cells
        if self.base.recurrent and any(m == "snapshot" for m, _ in cells):
            self.notes.append("snapshot is left out: this model keeps a recurrent state beside its pages")
            cells = [c for c in cells if c[0] != "snapshot"]
        return cells

    def _against(self):
        if not self.plan.against:
            return []
        try:
            stock.supported(self.base)
        except MlxrError as e:
            self.notes.append(f"mlx-lm is left out: {e}")
            return []
        if self.base.dtype == mx.float32:
            self.notes.append("mlx-lm's scales and offsets were float32 here, as its activations; its bits are counted with "
                              "16-bit ones, as in half precision")
        return list(stock.FORMATS)

    # ------------------------------------------------------------------ the report

    def _bits(self, name, context, stream="both", tail=False):
        """Bits of an element of K and V, or of one of them alone; first tokens in f16 are counted, the tail where it is asked for."""
        if name in stock.FORMATS:
            return stock.bits_of(stock.FORMATS[name])
        size = self.base.config.page_size
        pool = self.engine(name, "measured").pool
        if stream != "both":
            parts = [(x.spec.kv_heads, getattr(x.format, stream), getattr(x.spec, f"d{stream}")) for x in pool.layers]
            return sum(n * e.words(size, d) * 32 for n, e, d in parts) / sum(n * d * size for n, _, d in parts)
        specs, stored = [x.spec for x in pool.layers], [x.format for x in pool.layers]
        return effective_bits(specs, stored, size, context, self.base.dtype if tail else None, formats.sink(name))

    def _rows(self, wanted):
        for (name, context, mode, stream), scores in self.scores.items():
            if (stream == "both") == wanted:
                matched = [s for s in scores if s.matches is not None]
                row = figures(scores)
                if matched and len(matched) < len(scores):
                    row |= {k: v for k, v in figures(matched).items() if k.startswith(OF_TOKENS)}
                tail = None if name in stock.FORMATS or not wanted else round(self._bits(name, context, tail=True), 4)
                yield {"format": name, "bits": round(self._bits(name, context, stream), 4), "mode": mode, "stream": stream,
                       "context": context, "bits_with_tail": tail, **row, "match_windows": len(matched)}

    def _layer_errors(self):
        out = {}
        for name, kinds in self.layers.items():
            out[name] = {}
            for what in ("k", "v", "attention"):
                sums = kinds.get(what)
                total = sum(sums.values()) if sums else None
                out[name][what] = [_ratio(sums[i]) for i in sorted(sums)] if sums else None
                out[name][f"{what}_all"] = _ratio(total) if sums else None
        return out

    def _report(self, probed, checked, seconds):
        """The report: rows and streams as the README says; layers {format: {k, v, attention: [relative L2 error of each
        layer], k_all, v_all, attention_all}}; checks, recall; formats {name: verdict over all in-forward rows}."""
        base, rows = self.base, list(self._rows(True))
        named = {n: worst([r["verdict"] for r in rows if r["format"] == n and r["mode"] == self.plan.modes[0]])
                 for n in self.plan.formats}
        info = base.info()
        self.notes += [f"{n}: its logits are no numbers (NaN or infinite) where those of unquantized pages are: rejected"
                       for n in dict.fromkeys(r["format"] for r in rows if r["kl"] is None)]
        return {
            "model": base.name, "architecture": base.architecture, "version": _version.__version__,
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"), "seconds": round(seconds, 1),
            "backend": library.backend(), "dtype": info["dtype"], "page_size": info["page_size"],
            "kv": {"layers": info["layers"], "heads": [[s.kv_heads, s.dk, s.dv] for s in base.specs if s]},
            "reference": f"unquantized pages ({formats.REFERENCE})",
            "reference_ppl": {str(c): perplexity(s) for c, s in self.references.items()},
            "text": {"name": self.text.name, "digest": self.text.digest, "tokens": len(self.passages.tokens)},
            "plan": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self.plan).items()}, "scored": SCORED, "greedy": GREEDY,
            "formats": named, "rows": rows, "streams": list(self._rows(False)), "layers": self._layer_errors(),
            "recall": probed, "checks": checked, "notes": self.notes,
        }


def accepted(report, name):
    """Whether a format passed: ACCEPT in every in-forward row, and no check of it failed."""
    return report["formats"].get(name) == ACCEPT and all(c["ok"] for c in report["checks"] if c["format"] == name)


def _ratio(sums):
    return float(f"{(sums[0] / max(sums[1], 1e-30)) ** 0.5:.4g}")

