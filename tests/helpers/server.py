"""Runs `mlxr serve` as a process of its own, on a free port."""

import json
import re
import select
import signal
import subprocess
import time
import urllib.error
import urllib.request

from helpers.command import MLXR, environment


class Server:
    """A server process. url: where it listens. log: what it wrote so far."""

    def __init__(self, *args, env=None):
        self.log = ""
        self.process = subprocess.Popen([*MLXR, "serve", "--port", "0", *map(str, args)], stderr=subprocess.PIPE,
                                        env={**environment(), **(env or {})})
        self.url = self.wait(r"serving .* on (http://\S+)")[1]

    def wait(self, pattern, timeout=90):
        """Read the log until it has this; the match."""
        end = time.monotonic() + timeout
        while True:
            found = re.search(pattern, self.log)
            if found:
                return found
            left = end - time.monotonic()
            assert left > 0, f"{pattern!r} did not appear in {self.log!r}"
            if select.select([self.process.stderr], [], [], left)[0]:
                data = self.process.stderr.read1(65536).decode()
                assert data, f"the server ended ({self.process.wait()}) after {self.log!r}"
                self.log += data

    def read_log(self):
        """All that was written so far."""
        while select.select([self.process.stderr], [], [], 0.05)[0]:
            data = self.process.stderr.read1(65536).decode()
            if not data:
                break
            self.log += data
        return self.log

    def ask(self, path, body=None, headers=None, method=None, timeout=60):
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

    def idle(self, timeout=20):
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
        rest = self.process.communicate(timeout=timeout)[1]
        self.log += rest.decode()
        return self.process.returncode, self.log

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def _parsed(data):
    try:
        return json.loads(data)
    except ValueError:
        return data.decode(errors="replace")
