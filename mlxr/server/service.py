"""Between asyncio and the engine's thread: requests go in, chunks come back, limits are kept, and nothing is left behind."""

import asyncio
import contextlib
import math
import time
from collections import deque
from dataclasses import dataclass

from ..api import EngineThread
from ..engine import load_engine
from ..errors import RequestError
from ..guides import GuideMaker
from ..output import StreamChunk
from ..quality.auto import resolve
from .errors import ApiError, as_api_error

OPEN_TOKENS = 400_000        # of all prompts that were taken and not answered, which wait as Python's numbers: 36 bytes each
PULSE = 15.0         # seconds after which a silent stream gets a comment, so that proxies keep it


@dataclass(frozen=True)
class ServeConfig:
    """How requests are treated. Sizes in bytes, times in seconds.

    api_key: what they must show, or None. max_queue: sequences that may wait.
    max_body: of a request. max_tokens: generated where a request says nothing. timeout: of a request, or None.
    body_timeout: until a request's body has arrived. grace: to finish after SIGTERM. cors: origins that may read answers.
    hosts: values of the Host header that are accepted, or None for all. log_prompts: write prompts to the log.
    """

    api_key: str | None = None
    max_queue: int = 256
    max_body: int = 4 << 20
    max_tokens: int = 4096
    timeout: float | None = None
    body_timeout: float = 30.0
    grace: float = 30.0
    cors: tuple = ()
    hosts: frozenset | None = None
    log_prompts: bool = False


class Service:
    """One loaded model and the requests that are open.

    name: the model's name for clients. model: as LLM takes it. config: ServeConfig. engine_config: EngineConfig. Raises what load_engine does.
    """

    def __init__(self, name, model, config, engine_config, warn=None, progress=None):
        self.name, self.config = name, config
        def load():
            engine = load_engine(model, resolve(model, engine_config, False, warn), progress=progress, warn=warn)
            engine.pool.reserve(engine.config.max_batch, now=True)      # all that it may take, rather than as sequences come
            return engine

        self.thread = EngineThread(load)
        self.engine = self.thread.engine
        self.tokenizer, self.info = self.engine.tokenizer, self.engine.info()
        self.guides = GuideMaker(self.tokenizer, self.engine.vocabulary)
        self.guides.prepare()                # before anybody's tokens would wait for it
        self.draining, self.claims, self.used = False, 0, time.monotonic()
        self.open = self.tokens = 0          # sequences that were taken and have not ended, and tokens of their prompts
        self.jobs = set()
        self.observers = []                  # called as observer(job, index, chunk, when) for each chunk
        self._due, self._called = deque(), False         # jobs that have something to read, and whether the loop was told
        self._seconds = 1.0                  # of a sequence from its start to its end, averaged

    @property
    def ready(self):
        return not self.draining and not self.thread.failed

    @property
    def limit(self):
        """Sequences that may be open."""
        return self.engine.config.max_batch + self.config.max_queue

    @property
    def unused(self):
        """Whether no request needs it now."""
        return not self.open and not self.claims

    async def off_thread(self, function, *args):
        """function(*args) on another thread, so that neither the loop nor the engine waits for it."""
        try:
            return await asyncio.to_thread(function, *args)
        except RequestError as e:
            raise as_api_error(e) from None

    async def start(self, prompts, params, handling, endpoint="", streamed=True):
        """Queue token id lists, all or none; returns their Job. Raises ApiError: too many, too long, stopping.

        streamed: chunks are wanted as they come, not when their sequences have ended.
        """
        if not self.ready:
            raise ApiError(503, "the server is stopping" if self.draining else "the engine has failed", code="unavailable")
        if len(prompts) > self.limit:
            raise ApiError(400, f"{len(prompts)} sequences are more than the {self.limit} that this server takes at once")
        if self.open + len(prompts) > self.limit:
            wait = math.ceil(max(1.0, self._seconds * self.config.max_queue / self.engine.config.max_batch / 2))
            raise ApiError(429, f"{self.open} sequences are running or waiting, and the limit is {self.limit}; try again in "
                                f"{min(wait, 120)} seconds", code="queue_full", headers={"Retry-After": str(min(wait, 120))})
        tokens = sum(map(len, prompts))
        if self.open and self.tokens + tokens > OPEN_TOKENS:
            raise ApiError(429, f"{self.tokens} tokens of prompts are waiting, and the limit is {OPEN_TOKENS}; try again later",
                           code="queue_full", headers={"Retry-After": "5"})
        job = Job(self, len(prompts), tokens, endpoint, streamed)
        try:
            if self.engine.persistence:
                await asyncio.to_thread(self._read_ahead, prompts, handling.cache_salt)
            await job.begin(prompts, params, handling)
        except BaseException as e:
            job.close()
            if isinstance(e, Exception):
                raise as_api_error(e) from None
            raise
        return job

    def _read_ahead(self, prompts, salt):
        for prompt in {tuple(p) for p in prompts}:
            self.engine.persistence.prefetch(prompt, salt)

    def tell(self, loop, job):
        """Have a job read what has arrived. On the engine's thread; one call to the loop does for all jobs of a step."""
        self._due.append(job)
        if not self._called:
            self._called = True
            with contextlib.suppress(RuntimeError):          # the loop is closed: the server is gone
                loop.call_soon_threadsafe(self._deliver)

    def _deliver(self):
        self._called = False                 # before the rest: what is due from now on calls again
        while self._due:
            self._due.popleft().wake()

    def ended(self, seconds):
        """Note how long a sequence took."""
        self._seconds += 0.1 * (seconds - self._seconds)

    async def drain(self):
        """Take no more requests; wait for the open ones, and cut them off when the grace is over."""
        self.draining = True
        end = time.monotonic() + self.config.grace
        while self.jobs and time.monotonic() < end:
            await asyncio.sleep(0.05)
        for job in list(self.jobs):
            job.cut_off()

    def close(self):
        """Stop the engine, and let go of all that is large."""
        self.thread.close()
        self.engine = None


class Job:
    """The sequences of one HTTP request. `async for index, chunk in job` until all have ended; close() always."""

    def __init__(self, service, n, tokens, endpoint, streamed):
        self.service, self.tokenizer, self.n, self.left, self.endpoint = service, service.tokenizer, n, n, endpoint
        self.requests, self.began, self.first, self.last = [], time.perf_counter(), None, None
        self._streamed, self._closed = streamed, False
        self._chunks, self._waiter = deque(), None        # (index, chunk, when it came)
        self._ended, self._tokens = set(), tokens
        service.open += n
        service.tokens += tokens
        service.jobs.add(self)

    async def begin(self, prompts, params, handling):
        """Queue the sequences. Raises what engine.add does."""
        loop = asyncio.get_running_loop()

        def sink(i, chunk):                  # on the engine's thread
            self._chunks.append((i, chunk, time.perf_counter()))
            if self._streamed or isinstance(chunk, BaseException) or chunk.finish_reason:
                self.service.tell(loop, self)
        future = self.service.thread.start(prompts, params, sink, handling)
        try:
            self.requests = await asyncio.wrap_future(future)
        except asyncio.CancelledError:       # the client went away before the engine had answered
            future.add_done_callback(lambda f: f.cancelled() or f.exception() or self.service.thread.cancel(f.result()))
            raise

    def wake(self):
        """Something has arrived."""
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(True)

    async def _arrived(self):
        """Wait for a chunk; False after PULSE seconds without one."""
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        silent = loop.call_later(PULSE, lambda w: w.done() or w.set_result(False), self._waiter)
        try:
            return await self._waiter
        finally:
            silent.cancel()

    def __aiter__(self):
        return self

    async def __anext__(self):
        """(index, StreamChunk), or (None, None) after a while without any. Raises ApiError when the engine stops."""
        if not self.left:
            raise StopAsyncIteration
        i = None
        while i is None or i in self._ended:
            while not self._chunks:
                if not await self._arrived():
                    return None, None
            i, chunk, when = self._chunks.popleft()
            if isinstance(chunk, BaseException):
                raise as_api_error(chunk)
        self.first, self.last = self.first or when, when
        if chunk.finish_reason:
            self.left -= 1
            self._ended.add(i)
            self.service.ended(self.last - self.began)
        for observer in self.service.observers:
            observer(self, i, chunk, when)
        return i, chunk

    def end(self, i):
        """Sequence i is wanted no longer: free its pages."""
        if i not in self._ended:
            self._ended.add(i)
            self.left -= 1
            self.service.thread.cancel([self.requests[i]])

    def cut_off(self):
        """End all sequences with the reason "cancelled", which the client is told."""
        self.service.thread.cancel(self.requests)
        for i in range(self.n):
            self._chunks.append((i, StreamChunk(finish_reason="cancelled"), time.perf_counter()))
        self.wake()

    def close(self):
        """Free what is left of it. Idempotent."""
        if not self._closed:
            self._closed = True
            self.service.open -= self.n
            self.service.tokens -= self._tokens
            self.service.used = time.monotonic()
            self.service.jobs.discard(self)
            if self.requests and self.left:
                self.service.thread.cancel(self.requests)

    def usage(self, copies=1):
        """Usage of the sequences; `copies` of them in a row answer the same prompt, which counts once."""
        sequences = [r.sequence for r in self.requests]
        prompts = sequences[::copies]
        return Usage(sum(s.num_prompt for s in prompts), sum(min(s.cached or 0, s.num_prompt) for s in prompts),
                     sum(len(s.generated) for s in sequences), prompts[0].cache_note)


@dataclass(frozen=True)
class Usage:
    """Tokens of a request: in its prompts, of these found in the cache, generated; and why no more were found."""

    prompt: int
    cached: int
    generated: int
    note: str

    def openai(self):
        details = {"cached_tokens": self.cached, **({"cache_note": self.note} if self.note else {})}
        return {"prompt_tokens": self.prompt, "completion_tokens": self.generated,
                "total_tokens": self.prompt + self.generated, "prompt_tokens_details": details}
