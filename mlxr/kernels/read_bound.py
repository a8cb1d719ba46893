"""read_bound: reads words and adds them up, as fast as memory gives them: what other kernels' reading is held against."""

import functools

import mlx.core as mx

from ..errors import KernelError
from . import host_call, library
from .library import Kernel

STEP = 128         # words of a step
CHUNKS = 8         # units a thread, on the host
GPU_UNITS = 2048   # SIMD-groups that keep a GPU busy


@functools.lru_cache(None)
def kernel(on=None, checked=False, sgs=None, flags=()):
    """The one specialisation."""
    on = on or library.backend()
    return Kernel("read_bound", inputs=[("w", "uint")], outputs=[("y", "uint")], ints=["count", "own"],
                  defines={"SGS": sgs or (1 if on == "host" else 4)}, on=on, checked=checked, flags=flags)


def launch(k, count):
    """(units, words of a unit) for that many words."""
    wanted = host_call.threads() * CHUNKS if k.backend == "host" else GPU_UNITS
    own = -(-count // (wanted * STEP)) * STEP
    return -(-count // (own * k.sgs)) * k.sgs, own


def apply(words):
    """uint32 [units, 32] of a uint32 array of 8 to 2^31 - 1 words: sums modulo 2^32, a unit's words dealt to 32 lanes. Lazy.

    Raises KernelError for another size or type.
    """
    if words.dtype != mx.uint32 or not 8 <= words.size < 1 << 31:
        raise KernelError(f"read_bound takes 8 to 2^31 - 1 words of uint32, got {words.size} of {words.dtype}")
    k = kernel()
    units, own = launch(k, words.size)
    if not k.ready():
        return reference(words, units, own)
    return k([words], [(units, 32)], (units // k.sgs, 1, 1), (words.size, own))[0]


def reference(words, units, own):
    """The same in plain MLX operations."""
    flat = mx.pad(words.reshape(-1), (0, units * own - words.size))
    return flat.reshape(units, own // 32, 32).sum(axis=1).astype(mx.uint32)
