"""The memory budget: what weights, page pool, tails and scratch take, and how large a pool may be. All in bytes."""

import contextlib
import ctypes
import os
import resource
import sys
from dataclasses import replace
from pathlib import Path

import mlx.core as mx

from .errors import ConfigError

KEPT = 3                    # of the scratch, one part in so many is for freed buffers that are kept for the next step
REQUESTS = 34 << 20         # bytes that a server's requests take beside all else: texts, threads, recorded steps. As measured
BIG = 256 << 10             # bytes: larger pieces of the C library's heap go back to the system as soon as they are freed
DEFAULT_CONTEXT = 32768     # tokens a default pool holds at most, when the model's context is longer


def give_back():
    """Return to the system what freed arrays left behind: in MLX's cache, and in the C library's heap (glibc's keeps it)."""
    mx.clear_cache()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def steady_heap():
    """Have the C library return what is freed (glibc; elsewhere nothing is changed). For the whole process, from now on.

    Left alone it learns, from the first large array that is freed, to keep pieces of up to 32 MiB, and a heap for each thread:
    holes between arrays that lived side by side then stay resident, up to twice what a step's arrays take.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((-3, BIG), (-1, BIG), (-8, 2)):       # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_ARENA_MAX
            mallopt(option, value)


def per_layer(formats, specs):
    """[PageFormat] of the layers that store something: the list given, or the one given for each."""
    count = sum(1 for s in specs if s)
    formats = list(formats) if isinstance(formats, (list, tuple)) else [formats] * count
    if len(formats) != count:
        raise ConfigError(f"{len(formats)} page formats are given for {count} layers with a KV cache")
    return formats


def page_bytes(specs, formats, page_size):
    """Bytes of one page in all layers. specs: None for a layer that stores nothing; formats: as per_layer takes them."""
    stored = [s for s in specs if s]
    return sum(s.kv_heads * f.words(page_size, s.dk, s.dv) * 4 for s, f in zip(stored, per_layer(formats, stored)))


def token_bytes(specs, formats, page_size):
    """Bytes of K and V of one token in all layers, in full pages."""
    return page_bytes(specs, formats, page_size) / page_size


def table_bytes(specs, formats, page_size, context):
    """Bytes of what layers keep beside their pages: tables of calibrated formats, for sequences of `context` tokens."""
    stored = [s for s in specs if s]
    return sum(f.k.table_bytes(s.kv_heads, s.dk, s.dv, page_size, context // page_size) for s, f in zip(stored, per_layer(formats, stored)))


def tail_bytes(specs, page_size, slots, dtype):
    """Bytes of the tails of `slots` sequences in all layers."""
    return sum(s.kv_heads * (s.dk + s.dv) * page_size * slots * dtype.size for s in specs if s)


def held_bytes(specs, page_size, slots, size):
    """Bytes of `slots` pages that are held as plain numbers of `size` bytes, beside the pool, in all layers."""
    return slots * sum(s.kv_heads * (s.dk + s.dv) for s in specs if s) * page_size * size


def held_pages(specs, config, sink, dtype):
    """(first, firsts, decoded, bytes) of a pages.held.Held: pages at a sequence's beginning and slots for them, one sequence
    each for max_batch, slots for decoded pages, and what all take. sink: first tokens that are kept in f16.

    Raises ConfigError where kv_dequant_cache holds no page.
    """
    first = -(-sink // config.page_size)
    size = 4 if config.kv_dequant_cache and dtype == mx.float32 else 2
    one, firsts = held_bytes(specs, config.page_size, 1, size), first * config.max_batch
    if config.pool_tokens is not None and config.pool_bytes is None:       # no more than these tokens can fill
        firsts = min(firsts, max(first, -(-config.pool_tokens // config.page_size)))
    decoded = config.kv_dequant_cache // one if one else 0
    if config.kv_dequant_cache and one and not decoded:
        raise ConfigError(f"kv_dequant_cache (--kv-dequant-cache) is {config.kv_dequant_cache} bytes, but one decoded page takes {one}")
    return first, firsts, decoded, (1 + firsts + decoded) * one if firsts + decoded else 0


def machine_bytes():
    """Bytes that this machine can give to a model: the recommended working set on a Mac, else what is available now."""
    if mx.metal.is_available():
        return int(mx.device_info()["max_recommended_working_set_size"])
    if sys.platform == "linux":
        with open("/proc/meminfo") as f:
            for line in f:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def pool_pages(specs, formats, config, context, weights, dtype):
    """Pages that the pool gets: config.pool_bytes' worth, or enough for one full context (or pool_tokens, where that
    is less) if the machine has room.

    context: tokens of the longest sequence. weights: bytes that the weights take.
    Raises ConfigError when the budget holds no page at all.
    """
    size = config.page_size
    one = page_bytes(specs, formats, size)
    if not one:                       # no attention layers: pages are bookkeeping alone
        return -(-context // size) * config.max_batch
    if config.pool_bytes is not None:
        pages = config.pool_bytes // one - 1      # page 0 is part of the pool
        if pages < 1:
            raise ConfigError(f"pool_bytes is {config.pool_bytes}, but two pages of this model take {2 * one}")
        return pages
    room = int(0.6 * (machine_bytes() - weights)) - tail_bytes(specs, size, config.max_batch, dtype)
    tokens = min(context, DEFAULT_CONTEXT, config.pool_tokens or context)
    pages = min(-(-tokens // size) + 1, room // one - 1)
    if pages < 1:
        raise ConfigError(f"no memory is left for the KV cache beside {weights} bytes of weights; use a smaller model")
    return pages


def scratch_bytes(model_config, vocabulary, token_budget, max_batch, size=4):
    """An estimate, from above, of what a step needs beside weights and cache: activations of token_budget tokens in one
    layer, the sampler's arrays of max_batch rows of logits, and freed buffers that wait for the next. size: bytes of an activation.

    Limits holds MLX to it: it would compute further ahead otherwise, and have the arrays of many layers at once.
    """
    text = {**model_config, **(model_config.get("text_config") or {})}
    hidden = int(text.get("hidden_size") or text.get("n_embd") or text.get("d_model") or 4096)
    wide = int(text.get("intermediate_size") or 4 * hidden)
    heads = int(text.get("num_attention_heads") or 1) * int(text.get("head_dim") or 0)
    arrays = token_budget * (8 * hidden + 4 * wide + 4 * max(heads, hidden)) * size + 8 * max_batch * vocabulary * 4
    return arrays * KEPT // (KEPT - 1)


def pool_budget(config, weights, tails, scratch, held=0):
    """Bytes for the page pool in a budget for everything: config.memory_bytes, or memory_share of the machine. held: of pages
    beside the pool.

    The machine is its recommended working set on a Mac, else its main memory. Raises ConfigError, saying what is needed,
    when weights, tails and scratch leave nothing.
    """
    total = config.memory_bytes
    if total is None:
        whole = machine_bytes() if mx.metal.is_available() else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        total = int(config.memory_share * whole)
    left = total - weights - tails - scratch - held
    if left <= 0:
        beside = f", held pages ({held})" if held else ""
        raise ConfigError(f"--memory gives {total} bytes, but weights ({weights}){beside}, tails ({tails}) and scratch ({scratch}) "
                          f"take {total - left}; give more, or lower --max-batch or --token-budget")
    return left


def settled_pages(specs, formats, config, context, weights, scratch, dtype, held=0):
    """Pages that an engine of this config makes, with or without a budget for everything (memory_bytes, memory_share).

    Bytes as for pool_pages; scratch: of scratch_bytes; held: of held_pages. Raises ConfigError as pool_budget and pool_pages do.
    """
    if config.memory_bytes or config.memory_share:
        tails = tail_bytes(specs, config.page_size, config.max_batch, dtype)
        left = pool_budget(config, weights, tails, scratch, held)
        most = config.max_batch * (context // config.page_size + 1) + 1       # more could never be used
        left = min(left, most * page_bytes(specs, formats, config.page_size))
        config = replace(config, pool_bytes=left, memory_bytes=None, memory_share=None)
    return pool_pages(specs, formats, config, context, weights + held, dtype)


def resident_bytes():
    """Memory of this process that is in RAM now (where the system does not say: at its peak)."""
    try:
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak_bytes()


def process_bytes(known):
    """What this process has beside `known` bytes of a model: Python and libraries. 0 where a GPU's memory is counted alone."""
    return 0 if mx.metal.is_available() else max(0, resident_bytes() - known)


def requests_bytes():
    """What a server's requests will take of this process beside that."""
    return 0 if mx.metal.is_available() else REQUESTS


def memory_bytes(info):
    """Bytes that an engine's weights, tables, page pool, held pages, tails and scratch take together at most. info: of Engine.info."""
    return sum(info[name] for name in ("weights_bytes", "table_bytes", "pool_bytes", "held_bytes", "tail_bytes_most", "scratch_bytes"))


class Limits:
    """MLX's limits for this process, as they were and as a server wants them."""

    def __init__(self):
        self._before = {}

    def set(self, total, scratch):
        """Let MLX hold `total` bytes at most, of which `scratch` are for steps: in freed buffers a part of that. On a Mac, `total`
        is kept wired, within what is advised. MLX looks every few operations, so that it is told less than it may have.

        A GPU's freed buffers are not among what MLX holds to be in use. A CPU's are: kernels keep them (library.keep).
        """
        kept = scratch // KEPT
        wanted = {mx.set_cache_limit: kept, mx.set_memory_limit: total - (2 if mx.metal.is_available() else 1) * kept}
        if mx.metal.is_available():
            wanted[mx.set_wired_limit] = min(total, int(mx.device_info()["max_recommended_working_set_size"]))
        for setter, value in wanted.items():
            self._before.setdefault(setter, setter(value))

    def restore(self):
        """Set what was there before. Idempotent."""
        for setter, value in self._before.items():
            setter(value)
        self._before.clear()


def reset_peak():
    """Let peak_bytes count from now on, where the system can (Linux, and MLX's own count)."""
    mx.reset_peak_memory()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes():
    """Peak memory of this process: MLX's own peak on a GPU, else the resident set's."""
    if mx.metal.is_available():
        return mx.get_peak_memory()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)
