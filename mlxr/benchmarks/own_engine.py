"""The contestant mlxr: its engine, stepped as the API steps it. One set of weights; an engine of its own for each cell."""

import gc
import time
from dataclasses import replace

from ..config import EngineConfig
from ..engine import context_limit, load_engine
from ..errors import ConfigError, KernelError
from ..kernels import host_call, library
from ..memory import give_back, held_pages, page_bytes, reset_peak, scratch_bytes, tail_bytes
from ..pace import Pace, Unpaced
from ..pages.spec import parse_kv
from ..sequence import SamplingParams
from .children import serve
from .copies import fill
from .machine import SPARE, memory_available
from .prompts import CONTEXT, prompts
from .serving_load import AT_ONCE, ServingLoad

COMPUTED = 4096      # tokens of a context that are computed; what is longer, and other sequences', is filled with copies of their pages


class OwnEngine:
    """config: fields of EngineConfig, of which page format and pool are each cell's own. Raises what load_engine does."""

    def __init__(self, model, config):
        self.config = {"token_budget": 512, "page_size": 64, "max_batch": 32, **config}
        self.loaded = load_engine(model, EngineConfig(**{**self.config, "kv": "f16", "pool_tokens": 1}))
        self.engine, self.fill_seconds = None, None

    def info(self):
        """What all cells share. kv_elements: of one token's K and V, from which a peer's need of memory follows."""
        engine = self.loaded
        return {**engine.info(), "backend": library.backend(), "threads": host_call.threads(), "vocabulary": engine.vocabulary,
                "kv_elements": sum(s.kv_heads * (s.dk + s.dv) for s in engine.specs if s)}

    def size(self, kv, pp, tg, depth, batch):
        """An engine for a cell: room for `batch` sequences of `depth` tokens, with pp or tg more. Returns its info.

        note: what the reader has to know. Raises ConfigError where the cell cannot be measured: no memory, no such context.
        """
        self.engine = None                            # first: two pools at once would be counted
        self.pp, self.tg, self.depth, self.batch = pp, tg, depth, batch
        steps = batch * (-(-self._uncached // self.config["token_budget"]) + 1)
        self.most = tg + steps + 4               # while the last sequences' prompts are read, the first ones generate
        tokens = max(1, depth) + max(pp + 2, self.most)
        # Behind a context that is kept, twice: what the turn before left is given up first, the context never.
        room = tokens + (max(pp, self.most) if depth else 0) + 2 * self.config["page_size"]
        note = self._check(kv, tokens, batch * room)
        self._engine(kv, batch, tokens, batch * room)
        self.fill_seconds = None
        notes = [note] if note else []
        if depth and not self.loaded.scheduler.cache:
            notes.append(f"prompts are not measured at this depth, as {self.loaded.uncached}")
        return {**self.engine.info(), "note": "; ".join(notes), "past_context": bool(note)}

    @property
    def _uncached(self):
        """Tokens of a context that are read again in each turn: of its last page, where the rest is found."""
        return min(max(1, self.depth), self.config["page_size"]) if self.loaded.scheduler.cache else max(1, self.depth)

    def _check(self, kv, tokens, pool_tokens):
        """A note for the reader, or "". Raises ConfigError for what cannot be."""
        engine, note = self.loaded, ""
        limit = context_limit(engine.model_config, self.config.get("context"))
        if tokens > limit:
            if any(name.endswith("wpe") for name, _ in engine.model.named_modules()):
                raise ConfigError(f"the context is {limit} tokens, for which this model has a table of positions, and this needs {tokens}: lower "
                                  "--depth, --tg or --pp")
            note = f"past this model's context of {limit} tokens; the speed is measured all the same, what a model writes there is worth little"
        heads, spec = [s for s in engine.specs if s], parse_kv(kv)
        config = replace(engine.config, max_batch=max(self.batch, engine.config.max_batch), pool_tokens=None)
        need = (held_pages(heads, config, max(config.kv_sink, spec.sink), engine.dtype)[-1]
                + page_bytes(heads, spec.layers(len(heads)), self.config["page_size"]) * (pool_tokens // self.config["page_size"] + 2)
                + tail_bytes(heads, self.config["page_size"], self.batch, engine.dtype)
                + scratch_bytes(engine.model_config, engine.vocabulary, self.config["token_budget"], self.batch))
        if need > SPARE * memory_available():
            raise ConfigError(f"{kv}, batch {self.batch}, depth {self.depth}: its pages, tails and scratch take {need / 2**30:.1f} GiB, and "
                              f"{memory_available() / 2**30:.1f} GiB are available; lower --depth or --batch")
        return note

    def _engine(self, kv, batch, tokens, pool_tokens):
        gc.collect()                                  # the engine before is part of circles, and its pool would be counted
        give_back()
        reset_peak()
        engine, size = self.loaded, self.config["page_size"]
        heads = [s for s in engine.specs if s]
        one = page_bytes(heads, parse_kv(kv).layers(len(heads)), size)
        pool = {"pool_bytes": one * (-(-pool_tokens // size) + 1)} if one else {}
        self.engine = engine.sibling(kv=kv, max_batch=max(batch, self.config["max_batch"]), context=tokens, past_limit=True, pool_tokens=None, **pool)
        self.engine.pace = Unpaced(self.config["token_budget"])
        library.warm(self.engine.kernels)

    def warm(self):
        """What compiles and what is slow at first is not measured. Makes the context, where there is one."""
        self._run(prompts(-1, self.batch, self.pp, self.engine.vocabulary), 1)
        contexts = self.contexts = prompts(CONTEXT, self.batch, max(1, self.depth), self.engine.vocabulary)
        if self.depth and self.engine.scheduler.cache:
            start, first = time.perf_counter(), contexts[0][:COMPUTED]
            self._run([first], 1)
            if self.depth <= COMPUTED:
                self.fill_seconds = time.perf_counter() - start
            fill(self.engine, first, contexts)
        self._end(self._begin(contexts, 8))

    def prefill(self, seed):
        """Seconds from adding prompts of pp tokens, after the context, to the last one's first token; first: to the first one's.

        None where the context cannot be kept, so that it would be read again.
        """
        engine = self.engine
        if self.depth and not engine.scheduler.cache:
            return None
        new = prompts(seed, self.batch, self.pp, engine.vocabulary)
        start = time.perf_counter()
        requests = self._run([a + b for a, b in zip(self.contexts, new)] if self.depth else new, 1)
        seconds = time.perf_counter() - start
        return {"tokens": sum(r.sequence.num_prompt - (r.sequence.cached or 0) for r in requests), "seconds": seconds,
                "first": min(r.first - r.added for r in requests)}

    def decode(self, seed):
        """Seconds of tg tokens in each sequence, from when all of them have begun. The context is the same in every turn."""
        requests = self._begin(self.contexts, self.most)
        start, tokens = time.perf_counter(), 0
        while tokens < self.tg * self.batch and self.engine.busy:
            tokens += sum(len(chunk.token_ids) for _, chunk in self.engine.step())
        seconds = time.perf_counter() - start
        self._end(requests)
        if tokens < self.tg * self.batch:
            raise KernelError(f"the sequences ended after {tokens} of {self.tg * self.batch} tokens")
        return {"tokens": tokens, "seconds": seconds}

    def used(self):
        """Backends of the kernels that ran, by name; peak memory of this cell; seconds that one sequence's context took, once (None:
        it was not read)."""
        kernels = {}
        for (name, backend), calls in sorted(library.used.items()):
            if calls:
                kernels.setdefault(name, []).append(backend)
        return {"kernels": {n: "+".join(b) for n, b in kernels.items()}, "peak_bytes": self.engine.stats()["peak_bytes"],
                "fill_seconds": self.fill_seconds, "preemptions": self.engine.preemptions}

    def extras(self, kv, pp, tg, reps):
        """Prefix hits and a small serving load: {"prefix": ..., "serving": ...}, as ServingLoad gives them."""
        self.engine, self.batch, self.depth = None, AT_ONCE, 0
        tokens = pp + tg + 2
        room = (AT_ONCE + 2) * (tokens + 2 * self.config["page_size"])
        self._check(kv, tokens, room)
        self._engine(kv, AT_ONCE, tokens, room)
        self.engine.pace = Pace()                     # here users wait for both
        load = ServingLoad(self.engine, pp, tg)
        load.serving(-1)                              # a warm-up
        return {"prefix": load.prefix(reps), "serving": load.serving(0)}

    def _begin(self, tokens, most):
        """Requests of these prompts, all of which have their first token."""
        params = SamplingParams(max_tokens=most, ignore_eos=True)
        requests = [self.engine.add(p, params) for p in tokens]
        while not all(r.first for r in requests):
            self.engine.step()
        return requests

    def _run(self, tokens, most):
        requests = self._begin(tokens, most)
        self._end(requests)
        return requests

    def _end(self, requests):
        for request in requests:
            self.engine.cancel(request)
        while self.engine.busy:
            self.engine.step()
        for request in requests:
            self.engine.release(request)


if __name__ == "__main__":
    serve(OwnEngine)
