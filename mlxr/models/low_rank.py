"""Layers with a correction of low rank beside their codes, y = Q x + L (R x): made for a folder that has such, and computed.

Its config.json says {"caldera": {"rank", "right": {layer: layer whose R it uses}, ...}}. The weights of such a layer are
<layer>.layer (Q, [out, in]), <layer>.left (L, [out, rank]) and, where no other's is used, <layer>.right (R, [rank, in]), each
in MLX's affine format, or plain.
"""

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from ..errors import ConfigError, WeightsError
from ..kernels import library
from . import stored

MOST_RANK = 4096


class LowRankLinear(nn.Module):
    """Three layers as one. right: a layer, or the LowRankLinear whose right this one uses as well."""

    def __init__(self, layer, left, right):
        super().__init__()
        self.layer, self.left = layer, left
        if isinstance(right, LowRankLinear):
            object.__setattr__(self, "owner", right)     # its weights are that one's
        else:
            object.__setattr__(self, "owner", self)
            self.right = right

    @property
    def weight(self):
        """float32 [out, in]."""
        return _plain(self.layer) + _plain(self.left) @ _plain(self.owner.right)

    def __call__(self, x):
        return self.layer(x) + self.left(self.owner.right(x))


def _plain(layer):
    """float32 [out, in]: the weights of a linear layer of any kind."""
    if isinstance(layer, nn.QuantizedLinear):
        return mx.dequantize(layer.weight, layer.scales, layer.biases, group_size=layer.group_size, bits=layer.bits).astype(mx.float32)
    return layer.weight.astype(mx.float32)


def prepare(model, said):
    """Put LowRankLinear around the linear layers that config.json's `caldera` names; their weights are not there yet.

    Raises WeightsError where it makes no sense.
    """
    rank, right = (said.get("rank"), said.get("right")) if isinstance(said, dict) else (None, None)
    if not (isinstance(rank, int) and 0 < rank <= MOST_RANK and isinstance(right, dict) and right):
        raise WeightsError("caldera in config.json must be an object with a rank and, as right, whose R each layer uses")
    modules, made = dict(model.named_modules()), {}
    for path, owner in sorted(right.items(), key=lambda pair: pair[0] != pair[1]):        # those with an R of their own first
        layer = modules.get(path)
        if type(layer) is not nn.Linear:
            raise WeightsError(f"caldera in config.json names {path}, which is no linear layer of this model")
        out, width = layer.weight.shape
        given = nn.Linear(width, rank, bias=False) if owner == path else made.get(owner) if isinstance(owner, str) else None
        if given is None or owner != path and given.layer.weight.shape[1] != width:
            raise WeightsError(f"caldera in config.json gives {path} the R of {owner!r}, which has none for {width} inputs")
        made[path] = LowRankLinear(layer, nn.Linear(rank, out, bias=False), given)
    model.update_modules(tree_unflatten(list(made.items())))


def settle(model, cache, dtype):
    """Where our kernels compute the parts, make one layer of them, whose L R is part of the product; and keep as plain
    numbers what `cache` (of config.CALDERA_CACHES) says. dtype: of those where MLX computes; our kernels take float16.

    Raises ConfigError for a cache that the model has no use for.
    """
    layers = {path: m for path, m in model.named_modules() if isinstance(m, LowRankLinear)}
    if not layers:
        if cache != "none":
            raise ConfigError(f"--cache {cache} is for models with corrections of low rank (mlxr convert --caldera); this has none")
        return
    changed, rights = {}, {}
    for path, m in layers.items():
        ours = all(isinstance(x, stored.StoredLinear) for x in (m.layer, m.left, m.owner.right))
        if cache == "qlr":
            changed[path] = _dense(m.weight, m.layer, ours, dtype)
            continue
        left = _dense(_plain(m.left), m.left, ours, dtype) if cache == "lr" else m.left
        if id(m.owner) not in rights:
            right = m.owner.right
            rights[id(m.owner)] = _dense(_plain(right), right, ours, dtype) if cache in ("r", "lr") else right
        right = rights[id(m.owner)]
        whole = m.layer.matrix.corrected(left.matrix, right.matrix) if ours else None
        if whole:
            changed[path] = stored.StoredLinear(whole, m.layer.get("bias"))
        else:
            m.left = left
            if m.owner is m:
                m.right = right
    model.update_modules(tree_unflatten(list(changed.items())))


def more_bytes(model, cache, sizes, dtype):
    """What a cache (of config.CALDERA_CACHES) adds to the bytes of a model's parameters, {name: bytes}, after `prepare`."""
    width = (dtype or mx.float16).size if library.backend() == "reference" else 2
    more = 0
    for path, m in model.named_modules():
        if isinstance(m, LowRankLinear):
            rank, own = _shape(m.left)[1], m.owner is m
            out, columns = _shape(m.layer)
            parts = {"none": (), "r": ("right",), "lr": ("left", "right"), "qlr": ("layer", "left", "right")}[cache]
            more -= sum(sizes.get(f"{path}.{part}.{kind}", 0) for part in parts for kind in ("weight", "scales", "biases"))
            more += width * {"none": 0, "r": own * rank * columns, "lr": rank * (out + own * columns), "qlr": out * columns}[cache]
    return more


def _shape(layer):
    """(out, in) of one of MLX's linear layers."""
    rows, columns = layer.weight.shape
    return rows, columns * 32 // layer.bits if isinstance(layer, nn.QuantizedLinear) else columns


def _dense(weight, layer, ours, dtype):
    """A layer of plain numbers, with the bias of another."""
    if ours:
        made = stored.StoredLinear(stored.StoredMatrix("F16", weight.astype(mx.float16), weight.shape[1]), layer.get("bias"))
    else:
        made = nn.Linear(1, 1, bias=False)
        made.weight = weight.astype(dtype or mx.float16)
        if "bias" in layer:
            made.bias = layer.bias
    mx.eval(made.parameters())
    return made
