"""The cache folder of this project, and what every download into it needs."""

import contextlib
import errno
import fcntl
import os
import shutil
import sys
from pathlib import Path

from .errors import DownloadError


def cache_home():
    """The folder for downloads: MLXR_HOME, or the system's place for caches. It need not exist."""
    if os.environ.get("MLXR_HOME"):
        return Path(os.environ["MLXR_HOME"]).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mlxr"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlxr"


@contextlib.contextmanager
def disk_errors(folder, need=0):
    """Turn an OSError inside into a DownloadError that says what to do. `need`: bytes that will be written."""
    try:
        yield
    except DownloadError:
        raise
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(_no_space(folder, need)) from e
        raise DownloadError(f"cannot write to {folder}: {e.strerror or e}; set MLXR_HOME to another folder") from e


def check_space(folder, need):
    """Raise DownloadError when `folder` has less than `need` bytes free."""
    if shutil.disk_usage(folder).free < need:
        raise DownloadError(_no_space(folder, need))


def _no_space(folder, need):
    much = f"; {need / 1e6:.0f} MB are needed" if need else ""
    return f"no space left for {folder}{much}: free some, or set MLXR_HOME to a folder on another disk"


@contextlib.contextmanager
def locked(file):
    """Hold a lock file, waiting for another process that holds it; it vanishes with the process that holds it."""
    with open(file, "a") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield
