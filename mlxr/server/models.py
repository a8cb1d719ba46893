"""The models that are served, by name: loaded when somebody asks for them, unloaded when nobody does."""

import asyncio
import contextlib
import gc
import time

from ..errors import MlxrError
from ..memory import Limits, give_back, memory_bytes
from .errors import ApiError, as_api_error


def tidy():
    """Collect what circles hold, and have Python not look again through all that lasts: that would stop everybody for 40 ms."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


class Models:
    """Services by name. config: ServeConfig, of all. names: the first is the default, and is loaded at once.
    load: load(name) makes a Service. most: how many may be loaded. idle: seconds after which an unused one is unloaded, or None.

    Belongs to one event loop. Raises what load does.
    """

    def __init__(self, config, names, load, most=1, idle=None):
        self.config, self.names, self.load, self.most, self.idle = config, names, load, most, idle
        self.default, self.started, self.draining = names[0], time.time(), False
        self.observers = []                      # called as observer(job, index, chunk, when) for each chunk of any model
        self.loaded, self.loads = {}, 0
        self._lock, self._limits = asyncio.Lock(), Limits()
        self._add(self.default, load(self.default))

    def _add(self, name, service):
        service.observers, service.draining = self.observers, self.draining
        self.loaded[name] = service
        self.loads += 1
        self._bound()

    def _bound(self):
        """Tell MLX what the loaded models may take together."""
        infos = [s.info for s in self.loaded.values()]
        self._limits.set(sum(memory_bytes(i) for i in infos), sum(i["scratch_bytes"] for i in infos))

    @property
    def failed(self):
        """Whether an engine stopped by itself."""
        return any(s.thread.failed for s in self.loaded.values())

    @property
    def ready(self):
        return not self.draining and not self.failed

    @property
    def open(self):
        return sum(s.open for s in self.loaded.values())

    def check(self, name):
        """The name of a model that is served; None means the default. Raises ApiError."""
        if name is None:
            return self.default
        if name not in self.names:
            there = ", ".join(map(repr, self.names))
            raise ApiError(404, f"the model {name[:100]!r} is not served here; there is {there}", param="model",
                           code="model_not_found")
        return name

    @contextlib.asynccontextmanager
    async def use(self, name):
        """The Service of a model, loaded if need be, which is not unloaded meanwhile. Raises ApiError."""
        name = self.check(name)
        if name not in self.loaded:
            async with self._lock:
                if name not in self.loaded:
                    await self._load(name)
        service = self.loaded[name]
        service.claims += 1
        try:
            yield service
        finally:
            service.claims -= 1
            service.used = time.monotonic()

    async def _load(self, name):
        if self.draining:
            raise ApiError(503, "the server is stopping", code="unavailable")
        while len(self.loaded) >= self.most:
            unused = [n for n, s in self.loaded.items() if s.unused]
            if not unused:
                raise ApiError(503, f"{name!r} is not loaded, and the {len(self.loaded)} that may be are at work; try again later",
                               param="model", code="model_not_loaded", headers={"Retry-After": "5"})
            await self.unload(min(unused, key=lambda n: self.loaded[n].used))
        try:
            self._add(name, await asyncio.to_thread(self.load, name))
            tidy()
        except MlxrError as e:
            raise as_api_error(e) from None

    async def unload(self, name):
        """Close a model that nobody uses, and give its memory back."""
        service = self.loaded.pop(name)
        await asyncio.to_thread(service.close)
        del service
        tidy()
        give_back()
        self._bound()

    async def watch(self):
        """Unload what was not used for `idle` seconds, until cancelled."""
        while self.idle is not None:
            await asyncio.sleep(min(5.0, max(0.1, self.idle / 4)))
            async with self._lock:
                for name, service in list(self.loaded.items()):
                    if service.unused and time.monotonic() - service.used > self.idle:
                        await self.unload(name)

    async def drain(self):
        """Take no more requests; wait for the open ones, and cut them off when the grace is over."""
        self.draining = True
        await asyncio.gather(*(s.drain() for s in list(self.loaded.values())))

    def close(self):
        """Stop all engines, and restore MLX's limits. Idempotent."""
        for service in self.loaded.values():
            service.close()
        self._limits.restore()
