"""Plain arithmetic in the place of mlx-lm kernels that exist for Metal only."""

import mlx.core as mx

from mlxr.models import zoo


def bit_linear(self, x, packed):
    """x [..., in] times ternary weights, stored as in-order quarters of the rows in two bits each."""
    rows = mx.concatenate([(packed >> shift) & 3 for shift in (0, 2, 4, 6)]).astype(x.dtype) - 1
    scale = 1 / self.weight_scale if self.invert_weight_scales else self.weight_scale
    return (x @ rows.T) * scale


def install(name):
    """Replace what architecture `name` cannot run without Metal."""
    if name == "bitnet" and not mx.metal.is_available():
        zoo.lm_module("bitlinear_layers").BitLinear.execute_matmul_kernel = bit_linear
