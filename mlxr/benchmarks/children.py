"""Contestants as child processes: each keeps its model loaded and measures on command, so that they can take turns."""

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import traceback

from ..errors import ConfigError, MlxrError

STDERR = 2


class ChildFailed(MlxrError, RuntimeError):
    """A contestant could not be set up, or ended. The message is one line."""


class Child:
    """One contestant's process. module: what `python -m` runs (it calls `serve`); environment: further variables.

    quiet: its standard error is kept, and only its last line is shown, when it ends. Setting up is asked for with `ask`.
    """

    def __init__(self, name, module, environment=None, quiet=False):
        self.name = name
        self._log = tempfile.TemporaryFile("w+") if quiet else None
        self._process = subprocess.Popen(
            [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
            env={**os.environ, **(environment or {})}, start_new_session=True)     # Ctrl-C is for the parent alone

    def ask(self, command, **arguments):
        """What the contestant's method `command` returns. Raises ChildFailed, or ConfigError where it says so."""
        try:
            self._process.stdin.write(json.dumps([command, arguments]) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise ChildFailed(f"{self.name} ended ({self._process.wait(10)}){self._last_words()}")
        kind, value = json.loads(line)
        if kind == "config":
            raise ConfigError(value)
        if kind == "error":
            raise ChildFailed(f"{self.name}: {value}")
        return value

    def close(self):
        """End the process now, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _last_words(self):
        if not self._log:
            return ""
        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()]
        return f": {lines[-1]}" if lines else ""


def serve(make):
    """In the child: answer commands until the parent closes the pipe or is gone. The first makes the contestant: make(**arguments)."""
    commands = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(commands,), daemon=True).start()
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(STDERR, 1)                             # what libraries print must not meet the answers
        contestant = None
        while True:
            command, arguments = commands.get()
            try:
                if command == "setup":
                    contestant = make(**arguments)
                    answer = "value", contestant.info()
                else:
                    answer = "value", getattr(contestant, command)(**arguments)
            except ConfigError as e:
                answer = "config", str(e)
            except Exception as e:                     # told to the parent, which decides whether to go on without it
                if not isinstance(e, MlxrError):
                    traceback.print_exc()
                answer = "error", f"{type(e).__name__}: {e}" if not isinstance(e, MlxrError) else str(e)
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


def _listen(commands):
    """Pass commands on; end the process when the parent is gone, even in the middle of a measurement."""
    for line in sys.stdin:
        commands.put(json.loads(line))
    os._exit(0)
