"""q_gemm against fp32 arithmetic on decoded weights: every type, ragged sizes, both sides of a tile."""

import mlx.core as mx
import pytest
from kernels.gate import Gate, needs_simulator, relative
from kernels.matrices import ALL_AFFINE, FORMS, KINDS, SLOW_IF_RARE, activations, matrix, name, needs_compiler, plain
from kernels.test_q_gemv import EPS, fused, oracle

from mlxr.kernels import host_build, library, q_gemm, q_matmul
from mlxr.kernels.stored import affine, stored

FEW = q_matmul.GEMV_ROWS["host"]
SHAPES = [(9, 64, 640), (200, 50, 384), (12, 32, 128), (37, 96, 1280), (20, 40, 512)]


def shapes_of(kind):
    return [s for s in SHAPES if s[2] % stored(kind).block == 0]


@needs_compiler
@pytest.mark.parametrize("kind", [*SLOW_IF_RARE, *(pytest.param(k, marks=pytest.mark.slow) for k in ALL_AFFINE)], ids=name)
def test_every_type(kind):
    before = library.used["q_gemm", "host"]
    for m, n, k in shapes_of(kind):
        w, decoded = matrix(kind, n, k)
        assert (
            relative(q_gemm.apply(mx.array(activations(m, k)), w, kind), oracle(activations(m, k), decoded)) < 1e-5
        ), (m, n, k)
    assert library.used["q_gemm", "host"] - before == len(shapes_of(kind)), "the twin ran instead"


@needs_compiler
@pytest.mark.parametrize("rows,which", [(1, "q_gemv"), (FEW, "q_gemv"), (FEW + 1, "q_gemm"), (40, "q_gemm")])
def test_matmul_picks_by_rows(rows, which, monkeypatch):
    monkeypatch.setattr(host_build, "has_byte_products", lambda: False)
    w, decoded = matrix("Q4_1", 96, 320)
    x, before = activations(rows, 1, 320), library.used[which, "host"]
    y = q_matmul.apply(mx.array(x), w, "Q4_1", residual=mx.ones((rows, 1, 96)))
    assert y.shape == (rows, 1, 96) and relative(y, oracle(x.reshape(rows, 320), decoded) + 1) < 1e-5
    assert library.used[which, "host"] == before + 1
    assert len(library.warm(q_matmul.kernels("Q4_1", 576, residual=True))) == 2


@needs_compiler
@pytest.mark.parametrize("m", [1, 5, 6, 7, 8, 11, 13, 16, 17, 191, 193, 400])
def test_every_number_of_rows(m):
    w, decoded = matrix("Q4_1", 96, 320)
    assert relative(q_gemm.apply(mx.array(activations(m, 320)), w, "Q4_1"), oracle(activations(m, 320), decoded)) < 1e-5


@needs_compiler
@pytest.mark.parametrize("dtype,tolerance", [(mx.float32, 1e-5), (mx.float16, 1e-3), (mx.bfloat16, 4e-3)], ids=str)
@pytest.mark.parametrize("what", [(), ("norm", "swiglu"), ("bias", "residual"), ("swiglu", "residual")], ids=str)
def test_options_and_16_bit_activations(what, dtype, tolerance):
    m, n, k = 20, 40, 320
    w, decoded = matrix(affine(4, 32), 2 * n if "swiglu" in what else n, k)
    cast = lambda a: mx.array(a).astype(dtype) if hasattr(a, "shape") else a
    x, options = activations(m, k), fused(n, k, m, what)
    y = q_gemm.apply(
        cast(x),
        w,
        affine(4, 32),
        **{o: cast(v) for o, v in options.items()},
        **({"eps": EPS} if "norm" in what else {}),
    )
    exact = {o: plain(cast(v)) if hasattr(v, "shape") else v for o, v in options.items()}
    assert y.dtype == dtype and relative(plain(y), oracle(plain(cast(x)), decoded, **exact)) < tolerance


@needs_compiler
@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0", "BF16", affine(3, 64), "Q6_K", "MXFP4"], ids=name)
def test_no_index_outside(kind):
    k = q_gemm.kernel(kind, on="host", checked=True, tiles=(12, 64, 4))
    for m, n, width in shapes_of(kind):
        w, decoded = matrix(kind, n, width)
        grid, padded = q_gemm.launch(k, m, n)
        (y,) = k([*stored(kind).inputs(w), mx.array(activations(padded, width))], [(padded, n)], grid, (padded, n, width))
        assert relative(y, oracle(activations(padded, width), decoded)) < 1e-5


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_other_cpus(kind, form):
    k = q_gemm.kernel(kind, on="host", flags=FORMS[form])
    for m, n, width in shapes_of(kind):
        w, decoded = matrix(kind, n, width)
        grid, padded = q_gemm.launch(k, m, n)
        (y,) = k([*stored(kind).inputs(w), mx.array(activations(padded, width))], [(padded, n)], grid, (padded, n, width))
        assert relative(y, oracle(activations(padded, width), decoded)) < 1e-5


def gate(kind, m, n, width, tiles, what=()):
    w, decoded = matrix(kind, 2 * n if "swiglu" in what else n, width)
    k = q_gemm.kernel(kind, on="metal", tiles=tiles, **{o: o in what for o in ("swiglu", "bias", "residual")})
    grid, padded = q_gemm.launch(k, m, n)
    x, given = activations(padded, width), fused(n, width, padded, what)
    extra = [mx.array(given[o]) for o in ("bias", "residual") if o in what]
    return Gate(k, [*stored(kind).inputs(w), mx.array(x), *extra], [(padded, n)], grid, (padded, n, width)), oracle(x, decoded, **given)


@needs_simulator
@pytest.mark.parametrize(
    "kind,m,n,width,tiles,what",
    [
        ("Q4_1", 32, 64, 96, (16, 64, 2), ()),
        ("Q8_0", 24, 40, 64, (8, 32, 2), ("residual",)),
        ("F16", 16, 32, 64, (16, 64, 1), ("residual",)),
        (affine(4, 32), 32, 40, 128, (8, 64, 4), ("swiglu",)),
        ("Q4_1", 32, 40, 64, (16, 64, 2), ("bias", "residual")),
        ("Q4_K", 16, 40, 256, (8, 64, 2), ()),
        *(pytest.param(k, 16, 32, max(128, stored(k).block), (8, 64, 2), (), marks=pytest.mark.slow) for k in KINDS),
    ],
    ids=str,
)
def test_gate(kind, m, n, width, tiles, what):
    run, want = gate(kind, m, n, width, tiles, what)
    run.check([want], 1e-5, written={"y": 1.0}, threadgroup_bytes=16384)


@needs_simulator
def test_a_weight_is_decoded_once_for_64_rows():
    run, want = gate("Q4_1", 64, 32, 128, q_gemm.TILES["metal"])
    run.run()
    assert relative(run.outputs[0], want) < 1e-5
    assert run.report.buffers["w"]["read_bytes"] <= 1.01 * matrix("Q4_1", 32, 128)[0][0].nbytes


FAULTS = {
    "no barrier after decoding": (
        "TG_BARRIER;\nSIMDGROUPS {\nint row0 = top + sg * MT;\nif (row0 < M) {\nmma",
        "SIMDGROUPS {\nint row0 = top + sg * MT;\nif (row0 < M) {\nmma",
    ),
    "no barrier before the next panel": (
        "panel_up, size, 32, min(MT, M - row0));\n#endif\n}\n}\nTG_BARRIER;",
        "panel_up, size, 32, min(MT, M - row0));\n#endif\n}\n}",
    ),
    "the last column's row not held back": ("min(vint(lane), vint(rows - 1))", "vint(lane)"),
    "a block too far": ("decode(w, row, k0 + k, K)", "decode(w, row, k0 + k + 32, K)"),
    "a mask dropped at the store": ("lane + 0, v, first(lane, cols)", "lane + 0, v"),
}


@needs_simulator
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(fault):
    run, want = gate("Q4_1", 16, 40, 128, (8, 64, 2))
    run.run()
    assert not run.report.errors and relative(run.outputs[0], want) < 1e-5
    run.run(cut=FAULTS[fault])
    assert run.report.errors or relative(run.outputs[0], want) > 1e-3
