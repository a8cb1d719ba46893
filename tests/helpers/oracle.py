"""The NumPy example examples/kv_cache_from_scratch.py as a module: the oracle of attention and cache tests."""

import importlib.util
import sys
from pathlib import Path

_PATH = Path(__file__).resolve().parents[2] / "examples" / "kv_cache_from_scratch.py"


def _load():
    spec = importlib.util.spec_from_file_location(_PATH.stem, _PATH)
    module = sys.modules[_PATH.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


scratch = _load()
paged_attention = scratch.paged_attention
FloatPages, Int8Pages = scratch.FloatPages, scratch.Int8Pages


def round_trip(form):
    """The `stored` argument of paged_attention for a page format of the example: what a page gives back when read."""
    return lambda k, v: form.decode(form.encode(k, v))
