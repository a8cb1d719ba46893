"""Why a kernel's twin ran in its place: noted once for each kernel and reason, for statistics and tests."""

from . import library

reasons = {}  # kernel name -> {why: times}


def twin(name, why):
    """Note that a twin runs. Without a backend for kernels there is nothing to explain."""
    library.used[name, "reference"] += 1
    known = reasons.setdefault(name, {})
    known[why] = known.get(why, 0) + 1
