"""rope: splits fused q, k and v, norms the heads of q and k where the model does, and rotates them."""

import functools

import mlx.core as mx
import numpy as np

from . import library
from .host_call import ELEMENT_OF
from .library import Kernel


def table(positions, inverse_frequencies, scale=1.0):
    """float32 [T, dims]: cosines, then sines, of the angles of positions int32 [T]. Once a step serves all layers.

    inverse_frequencies: float32 [dims / 2], the angle that a channel pair turns by from one position to the next. Both
    are NumPy arrays: a step's positions are known on the host, and a decode step is few rows.
    """
    angles = (positions.astype(np.float32) * np.float32(scale))[:, None] * inverse_frequencies
    return mx.array(np.concatenate([np.cos(angles), np.sin(angles)], axis=-1))


@functools.lru_cache(None)
def kernel(heads, kv_heads, dim, v_dim, dims, interleaved, eps=None, x_type="float", *, on=None, checked=False, sgs=None, flags=()):
    """The specialisation for one model's heads."""
    on = on or library.backend()
    defines = {"XTYPE": x_type, "HEADS": heads, "KV_HEADS": kv_heads, "D": dim, "DV": v_dim, "DIMS": dims,
               "INTERLEAVED": int(interleaved), "SGS": sgs or (1 if on == "host" else 4)}
    norms = []
    if eps is not None:
        defines["NORM_EPS"] = f"{float(eps)!r}f"
        norms = [("q_norm", "float"), ("k_norm", "float")]
    return Kernel("rope", inputs=[("qkv", x_type), ("table", "float"), *norms], outputs=[("q", x_type), ("k", x_type), ("v", x_type)],
                  ints=["tokens"], defines=defines, on=on, checked=checked, flags=flags)


def apply(qkv, angles, heads, kv_heads, dim, v_dim, *, interleaved=False, norms=None, eps=None):
    """(q [T, heads, dim], k [T, kv_heads, dim], v [T, kv_heads, v_dim]) of qkv [T, all of these], lazily, in its dtype.

    angles: float32 [T, dims] as `table` makes it; channels from dims on are not rotated. interleaved: pairs are channels
    2i and 2i + 1, else i and i + dims / 2. norms: (q_norm, k_norm), float32 [dim] each, with eps.
    """
    k = kernel(heads, kv_heads, dim, v_dim, angles.shape[1], interleaved, eps if norms else None, ELEMENT_OF[qkv.dtype])
    if not k.ready():
        return reference(qkv, angles, heads, kv_heads, dim, v_dim, interleaved=interleaved, norms=norms, eps=eps)
    t = qkv.shape[0]
    return k([qkv, angles, *(norms or ())], [(t, heads, dim), (t, kv_heads, dim), (t, kv_heads, v_dim)], (t, 1, 1), (t,))


def reference(qkv, angles, heads, kv_heads, dim, v_dim, *, interleaved=False, norms=None, eps=None):
    """The same in plain MLX operations."""
    t, cut = qkv.shape[0], (heads + kv_heads) * dim
    x = qkv[:, :cut].reshape(t, heads + kv_heads, dim).astype(mx.float32)
    if norms:
        gains = mx.concatenate([mx.broadcast_to(g.astype(mx.float32), (n, dim)) for g, n in zip(norms, (heads, kv_heads))])
        x = x * mx.rsqrt(mx.mean(x * x, axis=-1, keepdims=True) + eps) * gains
    dims = angles.shape[1]
    cosine, sine = (a[:, None] for a in mx.split(angles, 2, axis=-1))
    a, b = (x[..., 0:dims:2], x[..., 1:dims:2]) if interleaved else (x[..., :dims // 2], x[..., dims // 2:dims])
    turned = [a * cosine - b * sine, a * sine + b * cosine]
    turned = mx.stack(turned, axis=-1).reshape(*a.shape[:-1], dims) if interleaved else mx.concatenate(turned, axis=-1)
    x = mx.concatenate([turned, x[..., dims:]], axis=-1).astype(qkv.dtype)
    return [x[:, :heads], x[:, heads:], qkv[:, cut:].reshape(t, kv_heads, v_dim)]
