"""Runs `mlxr serve` as a process of its own, on a free port."""

import json
import os
import re
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

from helpers.command import MLXR, environment


class Server:
    """A server process. url: where it listens. log: what it wrote so far; to a file, as a pipe that nobody reads fills up."""

    def __init__(self, *args, env=None):
        self._file, self.log = tempfile.TemporaryFile(), ""
        self.process = subprocess.Popen([*MLXR, "serve", "--port", "0", *map(str, args)], stderr=self._file,
                                        env={**environment(), **(env or {})})
        self.url = self.wait(r"serving .* on (http://\S+)")[1]

    def wait(self, pattern, timeout=180):
        """Wait until the log has this; the match."""
        end = time.monotonic() + timeout
        while True:
            ended = self.process.poll()
            found = re.search(pattern, self.read_log())
            if found:
                return found
            assert ended is None, f"the server ended ({ended}) after {self.log!r}"
            assert time.monotonic() < end, f"{pattern!r} did not appear in {self.log!r}"
            time.sleep(0.02)

    def read_log(self):
        """All that was written so far."""
        size = os.fstat(self._file.fileno()).st_size
        self.log = os.pread(self._file.fileno(), size, 0).decode(errors="replace")
        return self.log

    def ask(self, path, body=None, headers=None, method=None, timeout=180):
        """(status, parsed JSON or text, headers). body: JSON, or bytes as they are."""
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json", **(headers or {})}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, _parsed(answer.read()), dict(answer.headers)
        except urllib.error.HTTPError as e:
            with e:
                return e.code, _parsed(e.read()), dict(e.headers)

    def stats(self):
        return self.ask("/stats")[1]

    def idle(self, timeout=60):
        """Wait until nothing runs; the stats then."""
        end = time.monotonic() + timeout
        while True:
            stats = self.stats()
            if not stats["running"] and not stats["waiting"]:
                return stats
            assert time.monotonic() < end, stats
            time.sleep(0.05)

    def stop(self, timeout=40):
        """SIGTERM; (exit code, log)."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout), self.read_log()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._file.close()


def _parsed(data):
    try:
        return json.loads(data)
    except ValueError:
        return data.decode(errors="replace")
