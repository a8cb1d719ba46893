"""Progress on standard error: a bar with the time left on a terminal, a line now and then elsewhere."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

EVERY = 2.0      # seconds between lines, where there is no terminal


class Steps:
    """Counts steps of a whole. Use as a context manager; total may be corrected with `expect`."""

    def __init__(self, total, unit):
        self.total, self.unit, self.done = total, unit, 0
        self._start, self._said = time.perf_counter(), -EVERY
        self._bar = None
        if sys.stderr.isatty():
            columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeRemainingColumn()
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("", total=total)

    def __enter__(self):
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_):
        if self._bar:
            self._bar.stop()

    def begin(self, what):
        """Say what is done now."""
        if self._bar:
            self._bar.update(self._task, description=what)
            return
        now = time.perf_counter() - self._start
        if now - self._said >= EVERY:
            self._said = now
            left = f", about {self.left():.0f} s left" if self.done else ""
            print(f"mlxr: {self.unit} {self.done + 1} of {self.total}: {what}{left}", file=sys.stderr, flush=True)

    def step(self):
        """One step is done."""
        self.done += 1
        if self._bar:
            self._bar.update(self._task, completed=self.done)

    def left(self):
        """Seconds that the rest will take if it goes on as before."""
        return (time.perf_counter() - self._start) / max(1, self.done) * (self.total - self.done)
