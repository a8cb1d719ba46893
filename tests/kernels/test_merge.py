"""merge against its own definition, where parts are empty too; its Metal text is run in test_paged_gate.py."""

import mlx.core as mx
import numpy as np

from kernels.cases import backend  # noqa: F401  (a fixture)
from mlxr.kernels import merge


def test_merge_against_its_twin(backend):
    """Empty parts weigh nothing, whatever they hold; a row without any part is zero."""
    rng = np.random.default_rng(0)
    part = mx.array(rng.standard_normal((5, 3, 4, 80)), mx.float32)
    lse = rng.standard_normal((5, 3, 4)).astype(np.float32) * 20
    lse[0, 0, 1:], lse[1, 1], lse[2, 2, 0] = -np.inf, -np.inf, -np.inf
    poisoned = mx.where(mx.array(lse)[..., None] > -mx.inf, part, mx.nan)
    out = np.array(merge.reference(poisoned, mx.array(lse)) if backend == "reference"
                   else merge.merge(poisoned, mx.array(lse), mx.float32, 80))
    top = np.where(np.isfinite(lse).any(-1, keepdims=True), lse.max(-1, keepdims=True), 0)
    weight = np.exp2(lse.astype(np.float64) - top)
    expected = (np.array(part) * weight[..., None]).sum(2) / np.maximum(weight.sum(-1), 1e-30)[..., None]
    assert np.abs(out - expected).max() < 1e-5 and not out[1, 1].any()
