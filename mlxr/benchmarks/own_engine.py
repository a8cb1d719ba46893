"""The contestant mlxr: its engine, stepped as the API steps it."""

import time

from ..config import EngineConfig
from ..engine import load_engine
from ..errors import ConfigError, KernelError
from ..kernels import host_call, library
from ..pace import Unpaced
from ..sequence import SamplingParams
from .children import serve
from .prompts import prompts


class OwnEngine:
    """An engine with room for `batch` sequences of `pp` prompt tokens, or of `depth` and `tg` more.

    config: fields of EngineConfig. Raises ConfigError when the model's context is too short, and what load_engine does.
    """

    def __init__(self, model, config, pp, tg, depth, batch):
        self.pp, self.tg, self.depth, self.batch = pp, tg, max(1, depth), batch
        # While the last sequences' prompts are read, the first ones already generate.
        steps = batch * (-(-self.depth // config.get("token_budget", 512)) + 1)
        self.most = tg + steps + 4
        tokens = max(pp + 2, self.depth + self.most)
        config = EngineConfig(**{**config, "prefix_cache": False, "max_batch": max(batch, config.get("max_batch", 0)),
                                 "pool_tokens": batch * (tokens + 2 * config.get("page_size", 64))})
        self.engine = load_engine(model, config)
        self.engine.pace = Unpaced(config.token_budget)
        if tokens > self.engine.context:
            raise ConfigError(f"the context is {self.engine.context} tokens, and this needs {tokens}: lower --depth, --tg or --pp")

    def info(self):
        return {**self.engine.info(), "backend": library.backend(), "threads": host_call.threads(),
                "vocabulary": self.engine.vocabulary}

    def prefill(self, seed):
        """Seconds from adding prompts of pp tokens to the last one's first token; first: to the first one's."""
        params = SamplingParams(max_tokens=1, ignore_eos=True)
        start = time.perf_counter()
        requests = [self.engine.add(p, params) for p in prompts(seed, self.batch, self.pp, self.engine.vocabulary)]
        while not all(r.sequence.finished for r in requests):
            self.engine.step()
        seconds = time.perf_counter() - start
        first = min(r.first - r.added for r in requests)
        self._end(requests)
        return {"tokens": self.batch * self.pp, "seconds": seconds, "first": first}

    def decode(self, seed):
        """Seconds of tg tokens in each sequence, from when all of them have begun."""
        engine, params = self.engine, SamplingParams(max_tokens=self.most, ignore_eos=True)
        requests = [engine.add(p, params) for p in prompts(seed, self.batch, self.depth, engine.vocabulary)]
        while not all(r.first for r in requests):
            engine.step()
        start, tokens = time.perf_counter(), 0
        while tokens < self.tg * self.batch and engine.busy:
            tokens += sum(len(chunk.token_ids) for _, chunk in engine.step())
        seconds = time.perf_counter() - start
        self._end(requests)
        if tokens < self.tg * self.batch:
            raise KernelError(f"the sequences ended after {tokens} of {self.tg * self.batch} tokens")
        return {"tokens": tokens, "seconds": seconds}

    def used(self):
        """Backends of the kernels that ran, by name, and peak memory."""
        kernels = {}
        for (name, backend), calls in sorted(library.used.items()):
            if calls:
                kernels.setdefault(name, []).append(backend)
        return {"kernels": {n: "+".join(b) for n, b in kernels.items()}, "peak_bytes": self.engine.stats()["peak_bytes"]}

    def _end(self, requests):
        for request in requests:
            self.engine.cancel(request)
        while self.engine.busy:
            self.engine.step()
        for request in requests:
            self.engine.release(request)


if __name__ == "__main__":
    serve(OwnEngine)
