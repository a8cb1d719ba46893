"""Results of validations, kept in the cache folder: one JSON file a model, found by what the model's files hold."""

import contextlib
import json
import os
import tempfile

from .. import _version
from ..home import cache_home, disk_errors
from ..weights.identity import identity  # noqa: F401  (results are found by it)
from .verdict import ACCEPT


def _file(key):
    return cache_home() / "validation" / f"{key}.json"


def load(key):
    """[{"format", "page_size", "bits", "verdict", ...}] stored for a model, by this version; [] where there is nothing."""
    try:
        stored = json.loads(_file(key).read_text())
        return [r for r in stored["results"] if r["version"] == _version.__version__]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def save(key, report):
    """Keep a report's verdicts. One on the same text with the same page size takes the place of an older one.

    Raises DownloadError (home.disk_errors) where the cache folder cannot be written.
    """
    new = [_entry(report, name) for name in report["formats"]]
    same = {_place(e) for e in new}
    results = [e for e in load(key) if _place(e) not in same] + new
    path = _file(key)
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "w") as f:
                json.dump({"model": report["model"], "results": results}, f, indent=1)
            os.replace(scratch, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(scratch)
            raise


def _entry(report, name):
    rows = [r for r in report["rows"] if r["format"] == name]
    failed = [c["check"] for c in report["checks"] if c["format"] == name and not c["ok"]]
    return {"format": name, "page_size": report["page_size"], "bits": rows[0]["bits"], "verdict": report["formats"][name],
            "failed_checks": failed, "in_forward": any(r["mode"] == "in-forward" for r in rows), "text": report["text"],
            "windows": sum(r["windows"] for r in rows if r["mode"] == rows[0]["mode"]), "dtype": report["dtype"],
            "time": report["time"], "version": report["version"]}


def _place(entry):
    return entry["format"], entry["page_size"], entry["text"]["digest"], entry["dtype"]


def smallest_accepted(results, page_size):
    """The entry of the accepted format with the fewest bits, or None.

    A format counts as accepted when every stored in-forward result of it with these pages is ACCEPT, whatever the text,
    and no check of it failed.
    """
    usable = [r for r in results if r["page_size"] == page_size and r["in_forward"]]
    refused = {r["format"] for r in usable if r["verdict"] != ACCEPT or r["failed_checks"]}
    return min((r for r in usable if r["format"] not in refused), key=lambda r: r["bits"], default=None)
