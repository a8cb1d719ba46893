"""Runs the mlxr command as a process of its own, through pipes or on a terminal."""

import os
import pty
import select
import subprocess
import sys
import time

MLXR = [sys.executable, "-m", "mlxr"]


def environment():
    """This process's, with wide lines and no colour."""
    return {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb", "PYTHONUNBUFFERED": ""}


def mlxr(*args, stdin="", timeout=300):
    """The finished process: returncode, stdout, stderr (text)."""
    return subprocess.run([*MLXR, *map(str, args)], input=stdin, capture_output=True, text=True, timeout=timeout,
                          env=environment())


def refused(*args, **kw):
    """The one line with which a command line is refused: exit code 2, nothing on stdout, no traceback."""
    result = mlxr(*args, **kw)
    assert result.returncode == 2, (result.returncode, result.stderr)
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("mlxr: error: ") and result.stdout == "", result.stderr
    assert "Traceback" not in lines[0]
    return lines[0].removeprefix("mlxr: error: ")


class Terminal:
    """An mlxr process whose stdin, stdout and stderr are a terminal."""

    def __init__(self, *args):
        self._fd, child = pty.openpty()
        self.process = subprocess.Popen([*MLXR, *map(str, args)], stdin=child, stdout=child, stderr=child,
                                        env=environment(), start_new_session=True, preexec_fn=_own_terminal)
        os.close(child)
        self.seen = ""                       # what was shown since the last wait

    def wait(self, text, timeout=180):
        """Text shown up to and with `text`."""
        end = time.monotonic() + timeout
        while text not in self.seen:
            left = end - time.monotonic()
            assert left > 0, f"{text!r} was not shown, but {self.seen!r}"
            if select.select([self._fd], [], [], left)[0]:
                data = self._read()
                assert data is not None, f"the process ended ({self.process.poll()}) after {self.seen!r}"
                self.seen += data
        head, _, self.seen = self.seen.partition(text)
        return head + text

    def send(self, text):
        os.write(self._fd, text.encode())

    def end(self, timeout=120):
        """(exit code, what was shown since the last wait)."""
        code = self.process.wait(timeout)
        while select.select([self._fd], [], [], 0)[0]:
            data = self._read()
            if data is None:
                break
            self.seen += data
        return code, self.seen

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._fd)

    def _read(self):
        try:
            return os.read(self._fd, 65536).decode(errors="replace").replace("\r\n", "\n") or None
        except OSError:                      # Linux says so when the other end is closed
            return None


def _own_terminal():
    """In the child: make its stdin the terminal that Ctrl-C acts on."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
