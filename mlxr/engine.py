"""The engine: add requests, step, and read what each step brought. One thread owns it; see api.py for threads."""

import os
import time
from dataclasses import dataclass, field, replace
from functools import cached_property

import mlx.core as mx
import numpy as np

from . import calibration
from ._version import __version__
from .errors import PromptTooLong, RequestError, UnsupportedModel
from .kernels import host_call, library
from .memory import (KEPT, give_back, held_pages, page_bytes, peak_bytes, process_bytes, requests_bytes, scratch_bytes, settled_pages,
                     steady_heap, table_bytes, tail_bytes, token_bytes)
from .models import seam, zoo
from .models.build import load_model
from .models.fusion import fuse
from .models.modes import GATHERED, PAGED, REFUSED, mode_of, settle
from .models.stored import kinds_in
from .output import StopWatch, StreamChunk, TokenLogprob
from .pace import Pace
from .pages.format import effective_bits
from .pages.pool import PagePool, check_formats
from .pages.spec import parse_kv
from .pages.store import BEHIND, PageStore
from .persistence import Persistence
from .rehearsal import kernels_of
from .runner import Runner, few_on
from .scheduler import Scheduler
from .sequence import Handling, Sequence
from .tokenizer import ChatIds, load_tokenizer
from .trial import trial
from .weights.checkpoint import open_checkpoint
from .weights.identity import identity
from .weights.locate import locate


@dataclass(eq=False)
class Request:
    """A sequence, and what its user sees of it."""

    sequence: Sequence
    text: object                       # the tokenizer's TextStream
    watch: StopWatch
    added: float = field(default_factory=time.perf_counter)
    first: float | None = None         # when the first token was read back
    done: float | None = None
    deadline: float | None = None      # when it is ended, whatever it has
    sink: object = None                # who is told, where threads are involved (api.py)


def load_engine(model, config, progress=None, warn=None, size_pool=None):
    """An Engine for anything that weights.locate takes.

    progress: called as load_model says. warn: called with one line for the user, where there is something to say.
    size_pool: size_pool(tokenizer), called before the weights are read, gives config.pool_tokens.
    Raises MlxrError subclasses when the model cannot be found, read or run.
    """
    steady_heap()
    path = locate(model, progress=progress is not None)
    kv = parse_kv(config.kv)                     # a wrong name is told before gigabytes are read
    calibration.require(kv.format, path, config.calibration)
    checkpoint = open_checkpoint(path)
    architecture = zoo.architecture_name(checkpoint.config)
    mode, note = mode_of(architecture)
    if mode == REFUSED:
        raise UnsupportedModel(f"architecture {architecture!r} cannot run: {note}")
    zoo.model_classes(checkpoint.config)         # refuses what is no architecture, before more is said and read
    if note and warn:
        warn(note)
    tokenizer = load_tokenizer(path)
    if size_pool:
        config = replace(config, pool_tokens=size_pool(tokenizer))
    key = identity(path) if config.cache_dir else ""
    built = load_model(checkpoint, config.dtype, progress=progress, cache=config.caldera_cache,
                       check=lambda model, dtype: _check_sizes(model, dtype, checkpoint, config, kv))
    engine = Engine(built, checkpoint.config, tokenizer, config, settle(mode, built), str(path))
    if config.cache_dir:
        engine.persist(key, warn)
    if library.backend() == "metal":
        trial(engine)
    library.warm(engine.kernels)                 # now, all at once, rather than one by one in the middle of a text
    return engine


def _check_sizes(model, dtype, checkpoint, config, kv):
    """Raise now what Engine would raise when gigabytes were read: no room for pages, or a page format that does not fit.

    Weights are not known exactly yet: they count as a third of their files, which no form of them goes below.
    """
    seam.install()
    with library.rehearsal():
        shape = seam.probe(model)
    stored = [s for s in shape.specs if s]
    formats, dtype = kv.layers(len(stored)), dtype or shape.dtype
    if any(f.needs_calibration for f in formats):
        return                                   # these are fitted to the model first
    check_formats(stored, formats, config.page_size)
    context = context_limit(checkpoint.config, config.context, config.past_limit)
    scratch = scratch_bytes(checkpoint.config, shape.vocabulary, config.token_budget, config.max_batch)
    held = held_pages(shape.specs, config, max(config.kv_sink, kv.sink), dtype)[-1]
    settled_pages(shape.specs, formats, config, context, checkpoint.nbytes // 3, scratch, dtype, held)


class Engine:
    """A model, its page pool, a scheduler and a runner.

    model: an mlx-lm Model with its weights. model_config: its Hugging Face config dict. mode: how it runs (modes.py).
    Raises ConfigError when the pool cannot be made, UnsupportedModel when the model's caches cannot be paged.
    """

    def __init__(self, model, model_config, tokenizer, config, mode=PAGED, name=""):
        self.model, self.tokenizer, self.config, self.mode, self.name = model, tokenizer, config, mode, name
        self.model_config, self.architecture = model_config, zoo.architecture_name(model_config)
        self.kv = parse_kv(config.kv)
        self.format = self.kv.format
        seam.install()
        with library.rehearsal():                # a graph that is never computed needs no compiled kernels
            shape = seam.probe(model)
        self.specs, self.vocabulary, self.dtype, self.recurrent = shape.specs, shape.vocabulary, shape.dtype, shape.recurrent
        self.weights_bytes = _nbytes(model)
        self.context = context_limit(model_config, config.context, config.past_limit)
        formats = self.kv.layers(sum(1 for s in self.specs if s))
        if any(f.needs_calibration for f in formats):
            formats = calibration.fitted(formats, [s for s in self.specs if s], name, model_config, config, self.context)
        self.scratch_bytes = scratch_bytes(model_config, self.vocabulary, config.token_budget, config.max_batch)
        self.table_bytes = table_bytes(self.specs, formats, config.page_size, self.context)
        self.sink = max(config.kv_sink, self.kv.sink)
        *held, self.held_bytes = held_pages(self.specs, config, self.sink, self.dtype)
        pages = settled_pages(self.specs, formats, config, self.context, self.weights_bytes + self.table_bytes, self.scratch_bytes,
                              self.dtype, self.held_bytes)
        self.pool = PagePool(self.specs, formats, config.page_size, pages, self.dtype, held if self.held_bytes else None)
        self.scheduler = Scheduler(config.page_size, pages, config.token_budget, config.max_batch, align=mode == GATHERED,
                                   prefix_cache=config.prefix_cache and not self.recurrent, held=self.pool.held, few=few_on())
        self.fused = 0 if mode == GATHERED else fuse(model, self.architecture)
        give_back()                      # what loading and joining freed would stay resident beside the weights
        library.keep(self.scratch_bytes // KEPT)
        self.runner = Runner(model, self.pool, mode, shape.windows, config.max_batch)
        self.requests = {}               # sequence id -> Request
        self._in_flight = None           # (plan, Sampled) of the step launched last
        self.pace, self.persistence = Pace(), None
        self.steps = self.computed = self.preemptions = 0

    def sibling(self, **changes):
        """Another engine of the same model and weights, with fields of its EngineConfig changed. For validation."""
        engine = Engine(self.model, self.model_config, self.tokenizer, replace(self.config, **changes), self.mode, self.name)
        if library.backend() == "metal":
            trial(engine)
        return engine

    def persist(self, model, warn=None):
        """Keep sealed pages in config.cache_dir. model: identity of its files. Raises ConfigError where that cannot be."""
        if not self.scheduler.cache:
            return warn and warn(f"--cache-dir keeps nothing: {self.uncached}")
        formats = " ".join(map(repr, self.pool.formats))
        kind = (f"mlxr {__version__}, model {model}, {self.architecture}, {library.backend()}, {self.dtype}, "
                f"pages of {self.config.page_size} tokens: {formats}" + (f", {self.pool.held.first} first in f16" if self.sink else ""))
        self.persistence = Persistence(self.pool, self.scheduler, lambda record: PageStore(
            self.config.cache_dir, kind, record, self.config.cache_dir_bytes))

    def close(self):
        """Write what is to outlast this process."""
        if self.persistence:
            self.persistence.close()

    # ------------------------------------------------------------------ requests

    def add(self, prompt, params, handling=Handling()):
        """Queue a prompt (a str or token ids); returns its Request. Raises RequestError or PromptTooLong."""
        tokens = self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        if not tokens:
            raise RequestError("the prompt is empty; give at least one token")
        bad = next((t for t in tokens if isinstance(t, bool) or not isinstance(t, int) or not 0 <= t < self.vocabulary), None)
        if bad is not None:
            raise RequestError(f"the prompt's token ids must be whole numbers from 0 to {self.vocabulary - 1}, not {bad!r}")
        params.check_vocabulary(self.vocabulary)
        if len(tokens) >= self.context:
            raise PromptTooLong(f"the prompt has {len(tokens)} tokens, but the context is {self.context} with at least one "
                                "left to generate; shorten it")
        stops = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else self.tokenizer.eos_ids)
        seed = params.seed if params.seed is not None else int.from_bytes(os.urandom(8), "little")
        sequence = Sequence(tokens, params, min(self.context, len(tokens) + params.max_tokens), stops, seed,
                            priority=handling.priority, salt=handling.cache_salt, cache_note=self.uncached,
                            guide=handling.guide and handling.guide(), embed=handling.embed)
        if self.persistence:
            self.persistence.restore(tokens, handling.cache_salt)
        self.scheduler.add(sequence)
        text = self.tokenizer.stream(skip_special=not handling.show_special, continues=not isinstance(prompt, ChatIds))
        request = Request(sequence, text, StopWatch(params.stop))
        request.deadline = request.added + handling.timeout if handling.timeout else None
        self.requests[sequence.id] = request
        return request

    def cancel(self, request):
        """End a request now; its pages are free at once. Nothing happens when it has ended already."""
        if not request.sequence.finished:
            self._finish(request, "cancelled")

    @property
    def uncached(self):
        """Why no prompt of this engine can be cached; empty where it can."""
        if self.scheduler.cache:
            return ""
        return "this model keeps a recurrent state, which pages do not hold" if self.recurrent else "the prefix cache is off"

    @property
    def busy(self):
        return self.scheduler.busy or self._in_flight is not None

    # ------------------------------------------------------------------ one step

    def step(self, deliver=None):
        """Launch the next step, then read back the one before it: [(request, StreamChunk)] of what that brought.

        Where launching takes long, the other way round: deliver, where given, takes such a list then. Where a guide has to see
        a token before the next is drawn: amid the launch.
        """
        chunks, rest = self._expire(), []
        def known():
            taken = self._taken(*self._before(plan), plan) if self._in_flight else []
            chunks.extend((t[0], self._chunk(*t)) for t in taken if self._over(t[0].sequence, t[1]))
            rest.extend(t for t in taken if not t[0].sequence.finished)  # their texts need not keep the next step waiting
        self.scheduler.beside = self.pace.beside(self.scheduler.present)
        plan = self.scheduler.schedule()
        if self.persistence and plan.seals(self.config.page_size):
            self.persistence.save()      # waits for the step before where there is something to save
        launched = (plan, self.runner.launch(plan, lambda: (deliver or chunks.extend)(self._settle(plan)), known)) if plan else None
        self.steps += bool(plan)
        self.computed += plan.tokens
        self.preemptions += len(plan.preempted)
        before, self._in_flight = self._in_flight, launched
        chunks += [(t[0], self._chunk(*t)) for t in rest]
        chunks += self._read(*before) if before else []
        while self.persistence and not self.busy and self.persistence.save():
            pass
        return chunks

    def _settle(self, plan):
        """Read back the step in flight before `plan`, which comes next, is launched."""
        return self._read(*self._before(plan), plan) if self._in_flight else []

    def _before(self, plan):
        """The step in flight, to be read back before `plan` goes on: no token of its works is on the device then."""
        before, self._in_flight = self._in_flight, None
        for work in plan.works:
            work.source = -1
        return before

    def _expire(self):
        """End the requests whose time is over."""
        now, chunks = time.perf_counter(), []
        for request in list(self.requests.values()):
            if request.deadline and now > request.deadline and not request.sequence.finished:
                self._finish(request, "timeout")
                text = request.text.finish()
                chunks.append((request, StreamChunk(request.watch.add(text, last=True), finish_reason="timeout")))
        return chunks

    def _read(self, plan, sampled, following=None):
        return [(t[0], self._chunk(*t)) for t in self._taken(plan, sampled, following)]

    def _taken(self, plan, sampled, following=None):
        """[(request, token, sampled, row)] of a step, when it is computed; sequences and guides have their tokens then."""
        if sampled is None:              # nothing to wait for, so that nobody knows when it is computed
            self.pace.forget()
            return []
        tokens = sampled.tokens.tolist()
        self.pace.note(time.perf_counter(), plan, following or self._in_flight and self._in_flight[0])
        row = {work.sequence.id: i for i, work in enumerate(plan.samples)}
        taken = [(self.requests[s.id], t, sampled, row[s.id]) for s, t in self.scheduler.commit(plan, tokens)]
        for request, token, *_ in taken:
            if request.sequence.guide:
                request.sequence.guide.advance(token)
        return taken

    @staticmethod
    def _over(sequence, token):
        """Why a sequence ends with this token, whatever its text says; or None."""
        if sequence.guide and sequence.guide.failed:
            return "grammar"
        if sequence.guide and sequence.guide.complete or token in sequence.stop_ids:
            return "stop"
        return "length" if sequence.total - sequence.pending >= sequence.limit else None

    def _chunk(self, request, token, sampled, row):
        """Take one token into a request's text, and end the request where it ends."""
        sequence, params = request.sequence, request.sequence.params
        request.first = request.first or time.perf_counter()
        reason = self._over(sequence, token)
        text = "" if token in sequence.stop_ids else request.text.add(token)
        if reason:
            text += request.text.finish()
        text = request.watch.add(text, last=reason is not None)
        if request.watch.found:
            reason = "stop"
        logprobs = [self._logprob(token, sampled, row, params.logprobs)] if params.logprobs is not None else None
        if reason:
            self._finish(request, reason)
        hidden = np.array(sampled.hidden[row]) if sequence.embed and sampled.hidden is not None else None
        return StreamChunk(text, [token], logprobs, reason, hidden)

    def _logprob(self, token, sampled, row, n):
        top = {}
        if n:
            top = dict(zip(sampled.top_ids[row].tolist()[:n], sampled.top_logprobs[row].tolist()[:n]))
        return TokenLogprob(token, self.tokenizer.token_text(token), sampled.chosen[row].item(), top)

    def _finish(self, request, reason):
        self.scheduler.finish(request.sequence, reason)
        self.runner.forget(request.sequence)
        request.done = time.perf_counter()

    def release(self, request):
        """Forget a finished request."""
        self.requests.pop(request.sequence.id, None)

    # ------------------------------------------------------------------ what was built

    @cached_property
    def kernels(self):
        """The Kernels that steps of this engine call."""
        return kernels_of(self.runner, self.config.max_batch, self.context)

    def _kernels_text(self):
        """What computes layers and attention, in a few words."""
        names = sorted({k.name for k in self.kernels if k.backend != "reference"})
        kinds = kinds_in(m for _, m in self.model.named_modules())
        text = " ".join(names) + (f" on {', '.join(kinds)}" if kinds else "") if names else "mlx"
        return text if "attend" in names or not names else f"{text}; attention mlx"

    def info(self):
        """What was built: names, bytes and counts, all JSON types."""
        config = self.config
        heads = [s for s in self.specs if s]
        pool, tails = (sum(x.records.nbytes for x in self.pool.layers),
                       tail_bytes(heads, config.page_size, self.pool.slots, self.dtype))
        return {
            "model": self.name, "architecture": self.architecture, "mode": self.mode,
            "backend": library.backend(), "kernels": self._kernels_text(),
            **({"threads": host_call.threads()} if library.backend() == "host" else {}),
            "page_format": self.kv.text, "kv_bits": effective_bits(heads, self.pool.formats, config.page_size),
            "kv_bits_with_tail": effective_bits(heads, self.pool.formats, config.page_size, self.context, self.dtype, self.sink),
            "sink": self.pool.held.first * config.page_size if self.sink else 0, "held_bytes": self.held_bytes,
            "decoded_pages": self.pool.held.decoded if self.pool.held else 0,
            "page_size": config.page_size, "pages": self.pool.pages,
            "dtype": str(self.dtype).removeprefix("mlx.core."), "context": self.context,
            "layers": len(heads), "recurrent": self.recurrent,
            "weights_bytes": self.weights_bytes, "table_bytes": self.table_bytes, "pool_bytes": pool, "tail_bytes": tails,
            "tail_bytes_most": tail_bytes(heads, config.page_size, config.max_batch, self.dtype),
            "scratch_bytes": self.scratch_bytes,
            "process_bytes": process_bytes(self.weights_bytes + self.table_bytes + pool + tails + self.held_bytes),
            "requests_bytes": requests_bytes(), "disk_bytes_most": 2 * BEHIND if config.cache_dir else 0,
            "page_bytes": page_bytes(heads, self.pool.formats, config.page_size),
            "kv_bytes_per_token": token_bytes(heads, self.pool.formats, config.page_size),
        }

    def stats(self):
        """Counts since the start, and memory now."""
        allocator = self.scheduler.allocator
        cache = self.scheduler.cache
        return {"pages": self.pool.pages, "steps": self.steps, "tokens": self.computed, "preemptions": self.preemptions,
                "pages_free": allocator.free, "pages_used": allocator.used, "running": len(self.scheduler.running),
                "waiting": len(self.scheduler.waiting), "pages_cached": allocator.kept,
                "cache_evictions": cache.evicted if cache else 0, "peak_bytes": peak_bytes(),
                **(self.persistence.store.stats() if self.persistence else {})}


def leave_thread():
    """Wait for what this thread has in flight, and drop what MLX keeps for it. To be called before such a thread ends.

    MLX would drop it later, with Python's lock, which is gone when the process ends meanwhile: that aborts.
    """
    try:
        mx.synchronize()
    finally:
        mx.clear_streams()


def _arrays(tree):
    if isinstance(tree, mx.array):
        yield tree
    elif isinstance(tree, (dict, list, tuple)):
        for x in tree.values() if isinstance(tree, dict) else tree:
            yield from _arrays(x)


def _nbytes(model):
    return sum(a.nbytes for a in {id(a): a for a in _arrays(model.parameters())}.values())


def context_limit(model_config, wanted, past=False):
    """Tokens in one sequence at most: what the user wants, within what the model was made for (`past`: or past that)."""
    text = {**model_config, **model_config.get("text_config", {})}
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length", "n_ctx",
             "max_seq_length", "model_max_length")
    most = next((int(text[n]) for n in names if isinstance(text.get(n), (int, float)) and text[n] > 0), 1 << 20)
    return wanted if wanted and past else min(wanted or most, most)
