"""The log, to standard error, written by a thread of its own: a reader that stops reading must not stop the server."""

import contextlib
import logging
import logging.handlers
import os
import queue
import threading

LINES = 10_000       # that may wait to be written; more are counted and dropped


class _Bounded(logging.handlers.QueueHandler):
    dropped = 0

    def enqueue(self, record):
        if self.dropped and self.queue.qsize() < LINES // 2:
            record.msg, self.dropped = f"{record.msg}\n({self.dropped} lines before this one were dropped)", 0
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1


@contextlib.contextmanager
def to_stderr():
    """Within it, the server's and uvicorn's loggers write lines to standard error."""
    line, lines = logging.Formatter("%(asctime)s %(message)s"), queue.Queue(LINES)
    loggers = [logging.getLogger(name) for name in ("mlxr.server", "uvicorn.error")]
    for logger, level in zip(loggers, (logging.INFO, logging.WARNING)):
        logger.handlers, logger.propagate = [_Bounded(lines)], False
        logger.setLevel(level)

    def write():
        while (record := lines.get()) is not None:
            text = f"{line.format(record)}\n".encode("utf-8", "replace")
            with contextlib.suppress(OSError):       # the reader has gone
                while text:                          # past Python's own buffer, whose lock the process's end would want
                    text = text[os.write(2, text):]
    thread = threading.Thread(target=write, name="mlxr-log", daemon=True)
    thread.start()
    try:
        yield
    finally:
        for logger in loggers:
            logger.handlers = []
        with contextlib.suppress(queue.Full):
            lines.put(None, timeout=2)
        thread.join(2)                       # not for ever: nobody may be reading
