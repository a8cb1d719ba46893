"""q_gemm_int8 against fp32 arithmetic on decoded weights: every type that has codes, ragged sizes, options; and when it is taken."""

import mlx.core as mx
import numpy as np
import pytest
from kernels.gate import Gate, needs_simulator, relative
from kernels.matrices import FORMS, KINDS, activations, matrix, name, needs_compiler, plain
from kernels.test_q_gemv import EPS, fused, oracle

from mlxr.errors import KernelError
from mlxr.kernels import host_build, int8_split, library, q_gemm_int8, q_matmul
from mlxr.kernels.stored import stored

CODED = [k for k in KINDS if stored(k).codes]
# Where CPUs lack its products, it is not taken, and takes half a minute to compile: there a few types say that it is right, and all
# of them in the slow suite.
SOME = CODED if host_build.has_byte_products() else [k for k in CODED if name(k) in ("Q4_1", "Q8_0")]
BY_TYPE = pytest.mark.parametrize("kind", [k if k in SOME else pytest.param(k, marks=pytest.mark.slow) for k in CODED], ids=name)
SHAPES = [(8, 96, 1280), (5, 50, 512), (59, 40, 256)]      # M, N, K


@needs_compiler
@BY_TYPE
def test_every_type(kind):
    before = library.used["q_gemm_int8", "host"]
    for m, n, k in SHAPES:
        w, decoded = matrix(kind, n, k)
        y = q_gemm_int8.apply(mx.array(activations(m, k)), w, kind)
        assert relative(y, oracle(activations(m, k), decoded)) < 1e-6
    assert library.used["q_gemm_int8", "host"] - before == len(SHAPES), "the twin ran instead"


@needs_compiler
@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0"])
@pytest.mark.parametrize("m", [1, 2, 3, 4, 6, 7, 9, 15, 16, 18, 33, 46, 100])
def test_every_number_of_rows(m, kind):
    w, decoded = matrix(kind, 40, 256)
    assert relative(q_gemm_int8.apply(mx.array(activations(m, 256)), w, kind), oracle(activations(m, 256), decoded)) < 1e-6


@needs_compiler
@pytest.mark.parametrize("what, dtype, tolerance", [
    pytest.param(what, *pair, marks=[pytest.mark.slow] * (not host_build.has_byte_products() and i + j > 0))
    for i, what in enumerate([("norm", "swiglu"), ("bias", "residual"), ("swiglu", "residual")])
    for j, pair in enumerate([(mx.float32, 1e-5), (mx.float16, 1e-3), (mx.bfloat16, 4e-3)])], ids=str)
def test_options_and_16_bit_activations(what, dtype, tolerance):
    m, n, k = 6, 40, 320
    w, decoded = matrix("Q4_1", 2 * n if "swiglu" in what else n, k)
    cast = lambda a: mx.array(a).astype(dtype) if hasattr(a, "shape") else a
    x, options = activations(m, k), fused(n, k, m, what)
    y = q_gemm_int8.apply(cast(x), w, "Q4_1", **{o: cast(v) for o, v in options.items()}, **({"eps": EPS} if "norm" in what else {}))
    exact = {o: plain(cast(v)) if hasattr(v, "shape") else v for o, v in options.items()}
    assert y.dtype == dtype and relative(plain(y), oracle(plain(cast(x)), decoded, **exact)) < tolerance


@needs_compiler
def test_codes_and_activations_at_their_largest():
    """No sum of products leaves 32 bits: codes of all ones, activations of one size and sign."""
    for kind, code in (("Q4_1", 0xFF), ("Q8_0", 0x7F), ("Q8_0", 0x80)):
        blocks = np.full((3, 64 // 32 * (20 if kind == "Q4_1" else 34)), code, np.uint8)
        for at in range(0, blocks.shape[1], 20 if kind == "Q4_1" else 34):
            blocks[:, at:at + 2] = np.array([0.5], np.float16).view(np.uint8)
            if kind == "Q4_1":
                blocks[:, at + 2:at + 4] = 0
        w = (mx.array(blocks).view(mx.uint32 if kind == "Q4_1" else mx.uint16),)
        value = 0.5 * (15 if kind == "Q4_1" else 127 if code == 0x7F else -128)
        for x in (1.0, -1.0):
            y = q_gemm_int8.apply(mx.full((2, 64), x), w, kind)
            assert np.allclose(np.array(y), 64 * value * x, rtol=1e-6)


@needs_compiler
def test_numbers_that_are_not_finite_stay_so():
    x = np.ones((2, 64), np.float32)
    x[0, 3] = np.inf
    y = np.array(q_gemm_int8.apply(mx.array(x), matrix("Q4_1", 40, 64)[0], "Q4_1"))
    assert not np.isfinite(y[0]).any() and np.isfinite(y[1]).all()


def test_types_without_codes_are_refused():
    with pytest.raises(KernelError, match="does not take F16 weights"):
        q_gemm_int8.apply(mx.ones((2, 32)), (mx.ones((8, 32), mx.float16),), "F16")


@needs_compiler
@pytest.mark.parametrize("products", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 8, 100])
def test_it_is_taken_where_the_cpu_has_products(rows, products, monkeypatch):
    monkeypatch.setattr(host_build, "has_byte_products", lambda: products)
    w, decoded = matrix("Q4_1", 96, 320)
    before = library.used["q_gemm_int8", "host"]
    y = q_matmul.apply(mx.array(activations(rows, 320)), w, "Q4_1")
    assert relative(y, oracle(activations(rows, 320), decoded)) < 1e-5
    assert library.used["q_gemm_int8", "host"] - before == (products and rows > 1)


def launched(k, kind, m, n, width):
    w, decoded = matrix(kind, n, width)
    split = int8_split.apply(mx.array(activations(m, width)), low=k.defines["LOW"])
    (y,) = k([*stored(kind).inputs(w), *split], [(m, n)], *q_gemm_int8.launch(k, m, n, width))
    return relative(y, oracle(activations(m, width), decoded))


@needs_compiler
@BY_TYPE
def test_no_index_outside(kind):
    k = q_gemm_int8.kernel(kind, on="host", checked=True, tile=8)
    assert max(launched(k, kind, *s) for s in SHAPES) < 1e-6


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", CODED, ids=name)
def test_other_cpus(kind, form):
    """They compute the same, slowly: there it is not taken."""
    assert max(launched(q_gemm_int8.kernel(kind, on="host", flags=FORMS[form]), kind, *s) for s in SHAPES) < 1e-6


def gate(kind, m, n, width, what=(), tile=4, sgs=1):
    w, decoded = matrix(kind, 2 * n if "swiglu" in what else n, width)
    k = q_gemm_int8.kernel(kind, on="metal", tile=tile, sgs=sgs, **{o: o in what for o in ("swiglu", "bias", "residual")})
    x, given = activations(m, width), fused(n, width, m, what)
    extra = [mx.array(given[o]) for o in ("bias", "residual") if o in what]
    inputs = [*stored(kind).inputs(w), *int8_split.reference(mx.array(x), low=k.defines["LOW"]), *extra]
    return Gate(k, inputs, [(m, n)], *q_gemm_int8.launch(k, m, n, width)), oracle(x, decoded, **given)


@needs_simulator
@pytest.mark.parametrize("kind,m,n,width,what,tile,sgs", [
    ("Q4_1", 5, 40, 64, (), 4, 2), ("Q8_0", 3, 32, 64, ("residual",), 4, 1), ("Q4_0", 2, 32, 64, ("bias", "residual"), 2, 1),
    pytest.param("Q4_1", 2, 40, 64, ("swiglu",), 2, 1, marks=pytest.mark.slow),
    pytest.param("Q4_K", 4, 32, 256, (), 4, 1, marks=pytest.mark.slow)], ids=str)
def test_gate(kind, m, n, width, what, tile, sgs):
    run, want = gate(kind, m, n, width, what, tile, sgs)
    run.check([want], 2e-6, written={"y": 1.0}, threadgroup_bytes=16384)


FAULTS = {
    "the last column's row not held back": ("min(vint(lane), vint(cols - 1))", "vint(lane)"),
    "a digit's place forgotten": ("part[r][s] << (j == 1 ? 8 : LOW)", "part[r][s]"),
    "a mask dropped at the store": ("lane + 0, v, first(lane, cols)", "lane + 0, v"),
    "the offset forgotten": ("b.offset[0] * total + so_far", "so_far"),
}


@needs_simulator
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(fault):
    run, want = gate("Q4_1", 3, 40, 64)
    run.run()
    assert not run.report.errors and relative(run.outputs[0], want) < 1e-6
    run.run(cut=FAULTS[fault])
    assert run.report.errors or relative(run.outputs[0], want) > 1e-3
