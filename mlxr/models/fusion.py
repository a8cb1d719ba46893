"""Fused transformer blocks: what mlx-lm computes in some 40 operations, in 7 launches of our kernels.

    qkv = W_qkv norm(x);  q, k, v = rope(qkv);  a = attention;  h = x + W_o a;  y = h + W_down (silu(gate) * up)(norm(h))

Only blocks whose classes are listed here are fused: those that compute exactly this.
"""

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..kernels import rope
from . import stored
from .replay import Stack
from .seam import PagedLayer
from .zoo import lm_module

# Module of mlx_lm.models -> its block class. Their attention norms the heads of q and k where it has q_norm and k_norm.
BLOCKS = {"llama": "TransformerBlock", "qwen2": "TransformerBlock", "qwen3": "TransformerBlock"}


def fuse(model, architecture):
    """Replace the model's blocks by fused ones, where they can be; returns how many were."""
    if architecture not in BLOCKS:
        return 0
    block_class = getattr(lm_module(architecture), BLOCKS[architecture])
    layers, count = getattr(getattr(model, "model", None), "layers", []), 0
    for i, block in enumerate(layers):
        if type(block) is block_class and _fusable(block):
            layers[i] = FusedBlock(block)
            count += 1
    if count and count == len(layers):
        _stack(model)
    return count


def _stack(model):
    """Let decode steps of a model whose blocks are all fused be recorded, from its token ids to its logits."""
    inner, tied = model.model, "lm_head" not in model
    head = inner.embed_tokens if tied else model.lm_head
    if type(head) not in (stored.StoredEmbedding, stored.StoredLinear) or type(inner.norm) is not nn.RMSNorm:
        return
    stack = Stack(inner.layers)
    object.__setattr__(model, "stack", stack)            # no parameter, and no module
    for block in inner.layers:
        object.__setattr__(block, "stack", stack)
    fused = FusedHead(head, inner.norm, stack)
    inner.norm = PassedOn(inner.norm)
    if tied:
        object.__setattr__(head, "as_linear", fused)
    else:
        model.lm_head = fused


def _fusable(block):
    a, m = block.self_attn, block.mlp
    linears = [a.q_proj, a.k_proj, a.v_proj, a.o_proj, m.gate_proj, m.up_proj, m.down_proj]
    norms = [block.input_layernorm, block.post_attention_layernorm, *(a[n] for n in ("q_norm", "k_norm") if n in a)]
    return (all(type(x) is stored.StoredLinear for x in linears) and all(type(n) is nn.RMSNorm for n in norms)
            and stored.joinable([m.gate_proj.matrix, m.up_proj.matrix]) and not any("bias" in x for x in linears[4:])
            and type(a.rope).__name__ in ("RoPE", "Llama3RoPE"))


class Rotation:
    """What `rope` needs of a model's rotary embedding."""

    def __init__(self, module):
        self.dims, self.interleaved = module.dims, module.traditional
        if "_freqs" in module:
            self.scale, inverse = 1.0, 1.0 / module._freqs.astype(mx.float32)
        else:      # as mx.fast.rope computes them, to the last bit: positions of thousands amplify a difference
            half = module.dims // 2
            self.scale = module.scale
            inverse = mx.exp(mx.arange(0, -half, -1, dtype=mx.float32) * (math.log(module.base) / half))
        self.inverse = np.array(inverse)
        self.key = "rope", self.dims, self.scale, self.inverse.tobytes()

    def table(self, batch):
        """The batch's angles; computed once a step for all layers that rotate alike."""
        if self.key not in batch.shared:
            batch.shared[self.key] = self.angles(batch.host_positions)
        return batch.shared[self.key]

    def angles(self, positions):
        """float32 [T, dims] for positions [T], a NumPy array."""
        return rope.table(positions, self.inverse, self.scale)


class PassedOn(nn.Module):
    """A norm that the next module computes."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def __call__(self, x):
        return x


class FusedHead(nn.Module):
    """The output layer with the norm before it. layer: a StoredLinear, or the StoredEmbedding that it is tied to."""

    def __init__(self, layer, norm, stack):
        super().__init__()
        keep = lambda name, value: object.__setattr__(self, name, value)
        keep("norm", norm)
        keep("stack", stack)
        keep("matrix", layer.matrix)
        if isinstance(layer, stored.StoredLinear):
            self.layer = layer                   # its weights are no other module's

    def __call__(self, x):
        """x [..., hidden]: logits [..., vocabulary]."""
        bias = self.layer.get("bias") if "layer" in self else None
        more = {} if bias is None else {"bias": bias.astype(x.dtype)}
        y = self.matrix.product(x, norm=self.norm.weight, eps=self.norm.eps, **more)
        return self.stack.leave(y)

    @property
    def weight(self):
        return self.matrix.decoded()


class FusedBlock(nn.Module):
    """One block, on the weights of mlx-lm's. With a PagedLayer as its cache it reads pages; others work as in mlx-lm."""

    def __init__(self, block):
        super().__init__()
        a, m = block.self_attn, block.mlp
        keep = lambda name, value: object.__setattr__(self, name, value)     # no parameters: those are in `weights`
        keep("stack", None)
        keep("use_sliding", getattr(block, "use_sliding", False))
        keep("heads", a.n_heads)
        keep("kv_heads", a.n_kv_heads)
        keep("scale", a.scale)
        keep("dim", a.q_proj.matrix.shape[0] // a.n_heads)
        keep("v_dim", a.v_proj.matrix.shape[0] // a.n_kv_heads)
        keep("rotation", Rotation(a.rope))
        keep("qkv", stored.join([a.q_proj.matrix, a.k_proj.matrix, a.v_proj.matrix]))
        keep("o", a.o_proj.matrix)
        keep("gate_up", stored.join([m.gate_proj.matrix, m.up_proj.matrix])[0])
        keep("down", m.down_proj.matrix)
        dtype = block.input_layernorm.weight.dtype
        biases = [x.get("bias") for x in (a.q_proj, a.k_proj, a.v_proj)]
        keep("biases", stored.join_biases(biases, [x.matrix.shape[0] for x in (a.q_proj, a.k_proj, a.v_proj)], self.qkv, dtype))
        keep("norms", tuple((n.weight, n.eps) for n in (block.input_layernorm, block.post_attention_layernorm)))
        heads = [a[n] for n in ("q_norm", "k_norm") if n in a]
        keep("head_norms", tuple(n.weight.astype(mx.float32) for n in heads) or None)
        keep("head_eps", heads[0].eps if heads else None)
        keep("o_bias", a.o_proj.get("bias"))
        matrices = [*self.qkv, self.o, self.gate_up, self.down]
        arrays = [x for m in matrices for x in m.held] + [b for b in (*self.biases, self.o_bias) if b is not None]
        self.weights = arrays + [w for w, _ in self.norms] + list(self.head_norms or ())
        mx.eval(self.weights)

    def __call__(self, x, mask=None, cache=None):
        """x [T, 1, hidden] or [1, T, hidden]: the same shape."""
        stack = self.stack if isinstance(cache, PagedLayer) else None
        done = stack and stack.enter(self, x, cache)
        if done is not None:
            return done
        y = self._compute(x, mask, cache)
        if stack:
            stack.built(y, cache)
        return y

    def _compute(self, x, mask, cache):
        flat = x.reshape(-1, x.shape[-1])
        norm, eps = self.norms[0]
        parts = [m.product(flat, norm=norm, eps=eps, **({} if b is None else {"bias": b})) for m, b in zip(self.qkv, self.biases)]
        qkv = parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=-1)
        paged = isinstance(cache, PagedLayer)
        angles = self.rotation.table(cache.batch) if paged else self.rotation.angles(int(cache.offset) + np.arange(flat.shape[0]))
        q, k, v = rope.apply(qkv, angles, self.heads, self.kv_heads, self.dim, self.v_dim,
                             interleaved=self.rotation.interleaved, norms=self.head_norms, eps=self.head_eps)
        out = cache.attend(q, k, v, self.scale, mask) if paged else self._attend(q, k, v, mask, cache)
        out = out.reshape(flat.shape[0], -1)
        h = self.o.product(out, residual=flat, **({} if self.o_bias is None else {"bias": self.o_bias}))
        norm, eps = self.norms[1]
        y = self.down.product(self.gate_up.product(h, norm=norm, eps=eps, swiglu=True), residual=h)
        return y.reshape(x.shape)

    def _attend(self, q, k, v, mask, cache):
        """Attention as mlx-lm's blocks do it, of one sequence: [T, heads, v_dim]."""
        q, k, v = (x.swapaxes(0, 1)[None] for x in (q, k, v))
        k, v = cache.update_and_fetch(k, v)
        attention = lm_module("base").scaled_dot_product_attention
        return attention(q, k, v, cache=cache, scale=self.scale, mask=mask)[0].swapaxes(0, 1)
