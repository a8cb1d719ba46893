"""The Python API: LLM, usable from any thread. One engine thread owns MLX; callers and it meet in queues."""

import contextlib
import dataclasses
import queue
import threading
import time
import warnings
import weakref
from concurrent.futures import Future

from .config import EngineConfig
from .engine import leave_thread, load_engine
from .errors import ConfigError, EngineClosed, RequestError
from .output import Output
from .quality.auto import resolve
from .sequence import Handling, SamplingParams

_CLOSE = object()


class EngineThread:
    """Runs an engine on a thread of its own. build: makes the engine, on that thread; what it raises is raised here."""

    def __init__(self, build):
        self._inbox = queue.SimpleQueue()
        self._failure = None
        self._closed = threading.Event()
        ready = Future()
        self._thread = threading.Thread(target=self._run, args=(build, ready), name="mlxr-engine", daemon=True)
        self._thread.start()
        try:
            self.engine = ready.result()
        except Exception:
            self._thread.join()              # it must have left MLX before the process may end
            raise

    def call(self, function):
        """function(engine) on the engine thread; returns or raises what it does. Raises EngineClosed when closed."""
        return self._post(function).result()

    def _post(self, function):
        done = Future()
        self._inbox.put((function, done))
        if self._closed.is_set():            # it may have closed before it saw this call
            self._refuse_rest()
        return done

    def submit(self, prompts, params, sink):
        """Queue prompts, all or none. sink(index, chunk or exception) is called on the engine thread.

        Returns the requests. Raises RequestError or PromptTooLong, naming nothing queued.
        """
        return self.start(prompts, params, sink).result()

    def start(self, prompts, params, sink, handling=Handling()):
        """The same without waiting: a Future of the requests."""
        def add(engine):
            requests = []
            try:
                for i, (prompt, p) in enumerate(zip(prompts, params)):
                    request = engine.add(prompt, p, handling)
                    request.sink = lambda chunk, i=i: sink(i, chunk)
                    requests.append(request)
            except Exception:
                for request in requests:
                    engine.cancel(request)
                    engine.release(request)
                raise
            return requests
        return self._post(add)

    @property
    def failed(self):
        """Whether the engine stopped by itself."""
        return self._failure is not None

    def cancel(self, requests):
        """End requests; their pages are free before any later call is served. Does not wait, and never raises.

        Not to wait matters: an abandoned stream may be collected on any thread, this one's own included.
        """
        def cancel(engine):
            for request in requests:
                engine.cancel(request)
                engine.release(request)
        self._post(cancel)

    def close(self):
        """Cancel what runs, stop the thread and wait for it. Idempotent."""
        if not self._closed.is_set():
            self._inbox.put((_CLOSE, None))
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self.engine = None

    # ------------------------------------------------------------------ on the engine thread

    def _run(self, build, ready):
        try:
            self._serve(build, ready)
        finally:
            with contextlib.suppress(RuntimeError):          # a device that failed says so again; it was told already
                leave_thread()

    def _serve(self, build, ready):
        try:
            engine = build()
        except BaseException as e:
            self._closed.set()
            ready.set_exception(e)
            return
        ready.set_result(engine)
        try:
            self._loop(engine)
        except BaseException as e:            # a bug or a device failure: nobody may wait for ever
            self._failure = e
        self._closed.set()
        if not self._failure:
            engine.close()
        error = self._failure or EngineClosed("the engine was closed")
        for request in list(engine.requests.values()):       # whoever is not released still waits for something
            request.sink(error)
        self._refuse_rest()

    def _loop(self, engine):
        def deliver(chunks):
            for request, chunk in chunks:
                request.sink(chunk)
                if chunk.finish_reason:
                    engine.release(request)

        while True:
            while not engine.busy or not self._inbox.empty():
                function, done = self._inbox.get()
                if function is _CLOSE:
                    return
                if done.set_running_or_notify_cancel():
                    try:
                        done.set_result(function(engine))
                    except Exception as e:
                        done.set_exception(e)
            deliver(engine.step(deliver))

    def _refuse_rest(self):
        why = f": {self._failure}" if self._failure else ""
        while True:
            try:
                _, done = self._inbox.get_nowait()
            except queue.Empty:
                return
            if done:
                done.set_exception(EngineClosed(f"the engine is closed{why}"))


class LLM:
    """A loaded model.

    model: a folder, a .gguf file, a Hugging Face repo id, or an alias (None: smollm2-135m). config: the fields of
    EngineConfig. warn: called with one line where there is something to say (default: Python's warnings).
    progress: called as progress(bytes done, bytes in all) while weights load. size_pool: called with the tokenizer
    before that, gives the tokens to make room for in the page pool (EngineConfig.pool_tokens). kv="auto" takes the smallest
    page format that `mlxr validate` accepted for this model, and says so through warn; kv_auto_validate: where there is
    no such result, it may be measured now, which takes minutes (else q8 is taken).
    Use it as a context manager, or call close(). Safe to use from several threads at once; requests share batches.
    Raises ConfigError for an unknown or bad option, ModelNotFound, DownloadError, WeightsError, TokenizerError,
    UnsupportedModel.
    """

    def __init__(self, model=None, *, warn=None, progress=None, size_pool=None, kv_auto_validate=False, **config):
        known = {f.name for f in dataclasses.fields(EngineConfig)}
        for name in config:
            if name not in known:
                raise ConfigError(f"unknown option {name!r}; there are {', '.join(sorted(known))}")
        config = EngineConfig(**config)
        warn = warn or _warn
        self._thread = EngineThread(                 # a validation is computed on the engine's thread, too
            lambda: load_engine(model, resolve(model, config, kv_auto_validate, warn), progress=progress, warn=warn,
                                size_pool=size_pool))
        self.tokenizer = self._thread.engine.tokenizer
        self.info = self._thread.engine.info()
        self._exit = weakref.finalize(self, self._thread.close)

    def generate(self, prompts, params=None):
        """Text for prompts: a str or a list of token ids gives one Output; a list of those gives a list, in order.

        params: one SamplingParams for all, or a list, one for each. Raises RequestError or PromptTooLong before
        anything is computed, EngineClosed when the engine closes meanwhile.
        """
        one = isinstance(prompts, str)
        if not one:
            prompts = _listed(prompts, "prompts must be a str, a list of token ids, or a list of those")
            one = bool(prompts) and all(isinstance(t, int) for t in prompts)
        outputs = self._collect([prompts] if one else prompts, params)
        return outputs[0] if one else outputs

    def stream(self, prompt, params=None):
        """An iterator of StreamChunk for one prompt. Closing it, or leaving its loop, cancels the request.

        Raises RequestError or PromptTooLong here and now; EngineClosed, later, when the engine closes meanwhile.
        """
        return Stream(self._thread, prompt, params)

    def chat(self, messages, params=None, **template):
        """The answer to messages ([{"role": ..., "content": ...}]), as an Output.

        template: options of Tokenizer.encode_chat, such as tools or chat_template, and the template's own variables.
        """
        return self.generate(self.tokenizer.encode_chat(messages, **template), params)

    def stream_chat(self, messages, params=None, **template):
        """The same as an iterator of StreamChunk."""
        return self.stream(self.tokenizer.encode_chat(messages, **template), params)

    def stats(self):
        """Counts since the start, pages free and used, and peak memory in bytes."""
        return self._thread.call(lambda engine: engine.stats())

    def close(self):
        """Cancel what runs and free the model. Idempotent."""
        self._exit()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _collect(self, prompts, params):
        prompts = [_prompt(p) for p in prompts]
        arrived = queue.SimpleQueue()
        requests = self._thread.submit(prompts, _each(params, len(prompts)), lambda i, chunk: arrived.put((i, chunk)))
        parts = [[] for _ in prompts]
        try:
            left = len(prompts)
            while left:
                i, chunk = arrived.get()
                if isinstance(chunk, BaseException):
                    raise chunk
                parts[i].append(chunk)
                left -= chunk.finish_reason is not None
        finally:
            self._thread.cancel(requests)
        return [_output(r, p) for r, p in zip(requests, parts)]


class Stream:
    """The StreamChunks of one request as they come. close() cancels it, and so does forgetting the stream."""

    def __init__(self, thread, prompt, params):
        self._chunks, self._ended = queue.SimpleQueue(), False
        requests = thread.submit([_prompt(prompt)], _each(params, 1), _putter(self._chunks))
        self._cancel = weakref.finalize(self, thread.cancel, requests)
        self._cancel.atexit = False          # the engine's own end cancels it then

    def __iter__(self):
        return self

    def __next__(self):
        if self._ended:
            raise StopIteration
        chunk = self._chunks.get()
        if isinstance(chunk, BaseException):
            self.close()
            raise chunk
        if chunk.finish_reason:
            self.close()
        return chunk

    def close(self):
        """Cancel the request, if it has not ended. Idempotent."""
        self._ended = True
        self._cancel()


def _putter(chunks):
    """A sink that knows the queue alone, so that a stream that nobody holds any more can go away."""
    return lambda _, chunk: chunks.put(chunk)


def _output(request, chunks):
    sequence = request.sequence
    logprobs = [x for c in chunks for x in c.logprobs or ()] if sequence.params.logprobs is not None else None
    ids = [t for c in chunks for t in c.token_ids]
    return Output("".join(c.text for c in chunks), ids, chunks[-1].finish_reason, sequence.num_prompt, logprobs,
                  request_stats(request, len(ids)))


def request_stats(request, generated):
    """Seconds to the first token, and prompt and generation rates in tokens a second, of a finished request."""
    done = request.done or time.perf_counter()
    first = request.first or done
    prompt, rest = first - request.added, done - first
    return {"time_to_first_token": prompt, "prompt_tokens": request.sequence.num_prompt, "generated_tokens": generated,
            "prompt_tps": request.sequence.num_prompt / prompt if prompt > 0 else 0.0,
            "generation_tps": (generated - 1) / rest if generated > 1 and rest > 0 else 0.0,
            "preemptions": request.sequence.preemptions, "cached_tokens": request.sequence.cached or 0,
            "cache_note": request.sequence.cache_note}


def _each(params, n):
    if params is None:
        params = SamplingParams()
    if isinstance(params, SamplingParams):
        return [params] * n
    params = _listed(params, "params must be SamplingParams, or a list of them")
    if not all(isinstance(p, SamplingParams) for p in params):
        raise RequestError("params must be SamplingParams, or a list of them, and nothing else")
    if len(params) != n:
        raise RequestError(f"{len(params)} SamplingParams are given for {n} prompts; give one, or one for each")
    return params


def _prompt(prompt):
    return prompt if isinstance(prompt, str) else _listed(prompt, "a prompt must be a str or a list of token ids")


def _listed(values, what):
    """values as a list. Raises RequestError, beginning with `what`, for a dict and what is no collection."""
    if isinstance(values, (dict, str, bytes)):
        raise RequestError(f"{what}, not {type(values).__name__}")
    try:
        return list(values)
    except TypeError:
        raise RequestError(f"{what}, not {type(values).__name__}") from None


def _warn(message):
    warnings.warn(message, stacklevel=2)
