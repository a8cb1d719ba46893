"""CSV files that runs are appended to, with a tag, so that they can be compared later."""

import csv
import os

from ..errors import ConfigError


def check(path, columns):
    """Raises ConfigError when rows of these columns cannot be appended to that file."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise ConfigError(f"--csv {path}: there is no folder {folder}")
    try:
        with open(path, newline="") as f:
            header = next(csv.reader(f), None)
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"--csv {path}: cannot read it: {e}") from e
    if header is not None and tuple(header) != tuple(columns):
        raise ConfigError(f"--csv {path} has other columns than these rows; name another file")


def append(path, columns, rows):
    """Append rows, with a header where the file is new. Raises ConfigError when it cannot be written."""
    try:
        with open(path, "a", newline="") as f:
            writer = csv.writer(f)
            if f.tell() == 0:
                writer.writerow(columns)
            writer.writerows(rows)
    except OSError as e:
        raise ConfigError(f"--csv {path}: cannot write it: {e.strerror}") from e
