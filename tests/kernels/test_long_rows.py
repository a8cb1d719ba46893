"""q_gemv where x is too long for the first cache: rows are read in parts."""

import mlx.core as mx
import pytest
from kernels.gate import relative
from kernels.matrices import activations, matrix, needs_compiler
from kernels.test_q_gemv import oracle

from mlxr.kernels import library, q_gemv


@needs_compiler
@pytest.mark.parametrize("kind,batch,width", [("Q4_K", 1, 45 * 256), ("Q8_0", 3, 19 * 256 + 96), *(
    pytest.param(*c, marks=pytest.mark.slow) for c in (("Q6_K", 1, 45 * 256), ("Q4_1", 8, 5 * 256 + 64), ("F16", 2, 19 * 256 + 32)))])
def test_rows_that_are_read_in_parts(kind, batch, width):
    """Where x is long: parts of different sizes, the hints beyond a part, and what is behind the whole steps."""
    for n in (1, 37, 96):
        w, decoded = matrix(kind, n, width)
        x, residual = activations(batch, width), activations(batch, n, seed=7)
        before = library.used["q_gemv", "host"]
        got = q_gemv.apply(mx.array(x), w, kind, residual=mx.array(residual))
        assert relative(got, oracle(x, decoded, residual=residual)) < 1e-5, n
        assert library.used["q_gemv", "host"] == before + 1
