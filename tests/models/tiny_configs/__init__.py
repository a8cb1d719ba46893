"""A tiny random model of every architecture that the installed mlx-lm defines.

CONFIGS: architecture -> Hugging Face style config. NOT_RUNNABLE: architecture -> why it has none.
UNEVEN: architecture -> why mlx-lm itself does not give the same logits for one prefill and for token by token.
"""

import copy

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from mlxr.models import zoo

from . import dense, experts, hybrid, latent, sliding, stand_ins, wrappers
from ._common import VOCAB, WINDOW  # noqa: F401

CONFIGS = {name: config for part in (dense, experts, hybrid, latent, sliding, wrappers)
           for name, config in part.CONFIGS.items()}

NOT_RUNNABLE = {
    "muse_spark": "its fused kernels exist for Metal only",
    "olmo": "its module ends the process without the package ai2-olmo, and its attention adds the word 'causal' to "
            "the scores of a prompt",
    "phi3small": "its block-sparse layers add a boolean mask to the scores, so that a prompt's tokens see later ones",
    "prism_hadamard_qwen35": "a pack of 2-bit weights whose modules are listed in the checkpoint; the layers are "
                             "those of qwen3_5",
}

UNEVEN = {
    "plamo3": "a prompt's sliding layers see one token more than its cache keeps for decoding",
}


def tiny_model(name, seed=7):
    """The tiny model of an architecture in fp32, with random weights that leave no term at zero."""
    stand_ins.install(name)
    mx.random.seed(seed)
    model = zoo.instantiate(copy.deepcopy(CONFIGS[name]))
    model.eval()
    keys = mx.random.split(mx.random.key(seed), 4096)
    weights = [(path, _stirred(path, w, key)) for (path, w), key in zip(tree_flatten(model.parameters()), keys)]
    model.update(tree_unflatten(weights))
    mx.eval(model.parameters())
    return model


def _stirred(path, weight, key):
    """Weights that mlx-lm starts at a constant (norms, biases, sinks, routers, gates) get noise of their own."""
    if weight.dtype == mx.uint8:  # packed ternary weights: the codes 0, 1 and 2
        quarters = mx.random.randint(0, 3, (4, *weight.shape), key=key).astype(mx.uint8)
        return quarters[0] | (quarters[1] << 2) | (quarters[2] << 4) | (quarters[3] << 6)
    if not mx.issubdtype(weight.dtype, mx.floating):
        return weight
    weight = weight.astype(mx.float32)
    if bool((mx.max(weight) == mx.min(weight)).item()):
        return weight + 0.1 * mx.random.normal(weight.shape, key=key)
    return weight
