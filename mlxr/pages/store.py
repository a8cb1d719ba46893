"""Sealed pages on disk, written behind: one file a page, found by the key of the prefix cache. Plain bytes, no mlx.

A file is a head of 64 bytes (magic, version, bytes of the record, the page's key, a blake2b of key and record) and the
record: the page's words in every layer. It is written under another name and renamed, and read whole or not at all: what a
crash left half written has no name, and what does not match its head is deleted, never served. A folder holds the pages of
one model, page format and page size alone; its name is their hash.
"""

import contextlib
import hashlib
import os
import queue
import struct
import threading
from collections import OrderedDict
from pathlib import Path

from ..errors import ConfigError

MAGIC, VERSION = b"mlxrpage", 7      # 2: V of q8, q6, a4 and q4 by channels; 3, 4: other codes in q4; 5: trellises in q3, q2; 6, 7: V given K
HEAD = struct.Struct("<8sIIQ16s16s8x")           # magic, version, 0, bytes of the record, key, checksum
BEHIND = 64 << 20                                # bytes that may wait to be written, and as many read ahead
SUFFIX = ".page"


def _checksum(key, record):
    digest = hashlib.blake2b(key, digest_size=16)
    digest.update(record)
    return digest.digest()


class PageStore:
    """The pages of one kind under a folder. Threads may share it; one thread of its own writes.

    folder: of all kinds, made where it is missing. kind: text that says all that a page's bytes depend on, beside its
    key. record: bytes of a page. limit: bytes of all files of this kind; the longest unused are deleted first.
    Raises ConfigError where the folder cannot be used.
    """

    def __init__(self, folder, kind, record, limit):
        name = hashlib.blake2b(f"{VERSION}\n{kind}".encode(), digest_size=16).hexdigest()
        self.folder, self.record, self.limit = Path(folder).expanduser() / name, record, limit
        self._lock, self._queue = threading.Lock(), queue.SimpleQueue()
        self._index, self._ready = OrderedDict(), OrderedDict()      # keys on disk, the longest unused first; read ahead
        self._behind = self.bytes = 0
        self.written = self.read = self.damaged = self.failed = 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            (self.folder / "kind.txt").write_text(kind + "\n")
            self._scan()
        except OSError as e:
            raise ConfigError(f"--cache-dir {folder}: {e.strerror or e}") from e
        self._thread = threading.Thread(target=self._write_all, name="mlxr-pages", daemon=True)
        self._thread.start()

    def _scan(self):
        found = []
        for entry in os.scandir(self.folder):
            if entry.name.endswith(".tmp"):                          # of a process that was killed
                os.unlink(entry.path)
            elif entry.name.endswith(SUFFIX):
                info = entry.stat()
                if info.st_size == HEAD.size + self.record:
                    found.append((info.st_mtime_ns, entry.name))
                else:
                    self.damaged += 1
                    os.unlink(entry.path)
        for _, name in sorted(found):
            with contextlib.suppress(ValueError):
                self._index[bytes.fromhex(name.removesuffix(SUFFIX))] = None
        self.bytes = len(self._index) * (HEAD.size + self.record)
        self._evict()

    def __contains__(self, key):
        return key in self._index

    def __len__(self):
        return len(self._index)

    @property
    def room(self):
        """Pages that may be given to put now."""
        return max(0, (min(BEHIND, self.limit) - self._behind) // self.record)

    def put(self, key, record):
        """Have a page written, some time soon."""
        if len(record) != self.record:
            raise ValueError(f"a page has {self.record} bytes, not {len(record)}")
        with self._lock:
            self._behind += self.record
        self._queue.put((key, record))

    def fetch(self, keys):
        """Read the first of these keys' pages, up to one that is not there, so that take finds them at once."""
        for key in keys:
            if key not in self._ready:
                record = self._read(key)
                if record is None:
                    return
                with self._lock:
                    self._ready[key] = record
                    while len(self._ready) * self.record > BEHIND:
                        self._ready.popitem(last=False)

    def take(self, keys):
        """[(key, bytes)] of the first of these keys' pages, up to one that is not there."""
        pages = []
        for key in keys:
            with self._lock:
                record = self._ready.pop(key, None)
            record = record or self._read(key)
            if record is None:
                break
            pages.append((key, record))
        return pages

    def close(self, timeout=10.0):
        """Write what waits, for that many seconds at most. Idempotent."""
        self._queue.put(None)
        self._thread.join(timeout)

    def stats(self):
        return {"disk_pages": len(self._index), "disk_bytes": self.bytes, "disk_written": self.written,
                "disk_read": self.read, "disk_damaged": self.damaged}

    # ------------------------------------------------------------------ files

    def _path(self, key):
        return self.folder / (key.hex() + SUFFIX)

    def _read(self, key):
        """A page's record, or None where there is none, or none that can be trusted."""
        if key not in self._index:
            return None
        path = self._path(key)
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            self._drop(key)
            return None
        record = memoryview(data)[HEAD.size:]
        if len(record) != self.record or data[:HEAD.size] != self._head(key, record):
            self.damaged += 1
            self._drop(key)
            return None
        with self._lock:
            if key in self._index:
                self._index.move_to_end(key)
        self.read += 1
        return record

    def _head(self, key, record):
        return HEAD.pack(MAGIC, VERSION, 0, self.record, key, _checksum(key, record))

    def _write_all(self):
        while (job := self._queue.get()) is not None:
            key, record = job
            try:
                self._write(key, record)
            except OSError:                          # a full disk, for one: what is there goes on working
                self.failed += 1
            with self._lock:
                self._behind -= self.record

    def _write(self, key, record):
        if key in self._index:
            return
        path = self._path(key)
        scratch = path.with_suffix(".tmp")
        try:
            with open(scratch, "wb") as f:
                f.write(self._head(key, record))
                f.write(record)
            os.replace(scratch, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(scratch)
            raise
        with self._lock:
            self._index[key] = None
            self.bytes += HEAD.size + self.record
        self.written += 1
        self._evict()

    def _evict(self):
        while self.bytes > self.limit:
            self._drop(next(iter(self._index)))

    def _drop(self, key):
        with self._lock:
            if key not in self._index:
                return
            del self._index[key]
            self.bytes -= HEAD.size + self.record
        with contextlib.suppress(OSError):
            os.unlink(self._path(key))
