"""Runs the application on uvicorn: loopback or a key, and an orderly end on SIGTERM or Ctrl-C."""

import asyncio
import logging
import sys

import uvicorn

from ..errors import ConfigError
from . import logs
from .app import build_app
from .models import tidy

SWITCH = 0.0005      # seconds after which a thread that computes in Python lets another one: engine and event loop take turns in each step


class Server(uvicorn.Server):
    """uvicorn's, which lets open requests end before it stops. A second signal stops it at once."""

    def __init__(self, config, models):
        super().__init__(config)
        self.models, self._stopping = models, None

    def handle_exit(self, sig, frame):
        if self._stopping is not None or sig is None:
            self.force_exit = True
            self.should_exit = True
            return
        self._stopping = asyncio.run_coroutine_threadsafe(self._stop(), self._loop)

    async def _stop(self):
        logging.getLogger("mlxr.server").info('{"event": "stopping", "open": %d}', self.models.open)
        await self.models.drain()
        self.should_exit = True

    async def serve(self, sockets=None):
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)


def serve(models, host, port, started=None):
    """Serve until a signal ends it. started(url): called when it listens. Returns the exit code."""
    with logs.to_stderr():
        return _serve(models, host, port, started)


def _serve(models, host, port, started):
    config = uvicorn.Config(build_app(models), host=host, port=port, log_config=None, access_log=False, lifespan="on",
                            timeout_graceful_shutdown=5, timeout_keep_alive=65, server_header=False, h11_max_incomplete_event_size=64 << 10)
    server = Server(config, models)
    if started:
        startup = server.startup

        async def announced(sockets=None):
            await startup(sockets)
            if server.started:
                bound = server.servers[0].sockets[0].getsockname()
                started(f"http://{f'[{bound[0]}]' if ':' in bound[0] else bound[0]}:{bound[1]}")
        server.startup = announced
    sys.setswitchinterval(SWITCH)
    tidy()
    try:
        server.run()
    except KeyboardInterrupt:
        pass
    except SystemExit:                       # uvicorn's way to say that the port is taken; it has logged why
        raise ConfigError(f"cannot listen on {host} port {port}: is another server running there?") from None
    finally:
        models.close()
    return 0
