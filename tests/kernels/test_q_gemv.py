"""q_gemv against fp32 arithmetic on decoded weights: every type, ragged sizes, everything that is folded in."""

import mlx.core as mx
import numpy as np
import pytest
from kernels.gate import Gate, needs_simulator, relative
from kernels.matrices import ALL_AFFINE, FORMS, KINDS, RARE, activations, matrix, name, needs_compiler, plain

from mlxr.errors import KernelError
from mlxr.kernels import host_build, library, q_gemv
from mlxr.kernels.stored import affine, arrays, stored
from mlxr.weights.quants import REGISTRY

SHAPES = [(24, 576), (40, 256), (33, 128)]      # each width is a kernel of its own, up to 1024 as it is, and all by what 256 leaves of it
EPS = 1e-5
SLOW_REST = [
    pytest.param(k, marks=pytest.mark.slow) for k in KINDS if name(k) in RARE | {"Q5_K", "Q6_K", "IQ4_XS"}
]

COMMON = "Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K", "F16", "BF16"        # tried with several rows in each run


def oracle(x, w, *, norm=None, swiglu=False, bias=None, residual=None, **_):
    x, w = x.astype(np.float64), w.astype(np.float64)
    if norm is not None:
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * norm
    y = x @ w.T
    if swiglu:
        gate, up = np.split(y, 2, axis=-1)
        y = gate / (1 + np.exp(-gate)) * up
    return y + (0 if bias is None else bias) + (0 if residual is None else residual)


def fused(n, k, batch, what):
    """The options of a call by name, as fp32 NumPy."""
    given = {
        "norm": activations(k, seed=5),
        "bias": activations(n, seed=6),
        "residual": activations(batch, n, seed=7),
        "swiglu": True,
    }
    return {w: given[w] for w in what}


def call(x, w, kind, options, dtype=mx.float32):
    cast = {k: mx.array(v).astype(dtype) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    return q_gemv.apply(mx.array(x).astype(dtype), w, kind, **cast, **({"eps": EPS} if "norm" in options else {}))


def shapes_of(kind):
    return [s for s in SHAPES if s[1] % stored(kind).block == 0]


@needs_compiler
@pytest.mark.parametrize("kind, batch, n, k", [
    pytest.param(kind, batch, n, k, marks=[pytest.mark.slow] * (name(kind) not in COMMON and (batch > 1 or i > 0)), id=f"{name(kind)}-{batch}-{k}")
    for kind in KINDS for batch in (1, 3) for i, (n, k) in enumerate(shapes_of(kind))])
def test_every_type(kind, batch, n, k):
    before = library.used["q_gemv", "host"]
    w, decoded = matrix(kind, n, k)
    x = activations(batch, k)
    assert relative(q_gemv.apply(mx.array(x), w, kind), oracle(x, decoded)) < 1e-5
    assert library.used["q_gemv", "host"] - before == 1, "the twin ran instead"


@needs_compiler
@pytest.mark.parametrize("width", [96, 192, 224, pytest.param(160, marks=pytest.mark.slow), 2880, *(
    pytest.param(w, marks=pytest.mark.slow) for w in (32, 64, 288, 320, 960, 1536, 1184))])
@pytest.mark.parametrize("kind,batch", [("Q4_1", 1), *(pytest.param(k, b, marks=pytest.mark.slow) for k, b in (
    ("Q8_0", 2), ("Q5_1", 3), ("MXFP4", 1), (affine(4, 32), 1), ("F16", 1)))], ids=str)
def test_what_256_leaves_of_a_width(kind, batch, width):
    """Rows end inside of a step, whose rest belongs to others; groups of four rows are whole, or not; the last rows of all end
    where memory does."""
    for n in (1, 4, 37):
        w, decoded = matrix(kind, n, width)
        x = activations(batch, width)
        assert relative(q_gemv.apply(mx.array(x), w, kind), oracle(x, decoded)) < 1e-5, n


@needs_compiler
@pytest.mark.parametrize("kind,batch", [("Q4_K", 1), ("Q8_0", 2), pytest.param("Q6_K", 1, marks=pytest.mark.slow), ("Q5_K", 1)])
def test_rows_side_by_side(kind, batch):
    """Four at a time, two for two rows of x, one where a type says so; the last ones of 32 are fewer."""
    for n, k in [(35, 256), (5, 7 * 256), (66, 13 * 256), (34, 48 * 256)]:
        w, decoded = matrix(kind, n, k)
        x = activations(batch, k)
        norm = activations(k, seed=5)
        assert relative(q_gemv.apply(mx.array(x), w, kind), oracle(x, decoded)) < 1e-5, (n, k)
        got = q_gemv.apply(mx.array(x), w, kind, norm=mx.array(norm), eps=EPS)
        assert relative(got, oracle(x, decoded, norm=norm)) < 1e-5, (n, k)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("kind", ALL_AFFINE, ids=name)
def test_every_affine_format(kind):
    for n, k in shapes_of(kind):
        w, decoded = matrix(kind, n, k)
        assert relative(q_gemv.apply(mx.array(activations(1, k)), w, kind), oracle(activations(1, k), decoded)) < 1e-5


@needs_compiler
@pytest.mark.parametrize(
    "batch", [pytest.param(b, marks=pytest.mark.slow) if b not in (2, 8) else b for b in range(1, 9)]
)
def test_every_batch(batch):
    w, decoded = matrix("Q4_1", 70, 320)
    x = activations(batch, 320)
    assert relative(q_gemv.apply(mx.array(x), w, "Q4_1"), oracle(x, decoded)) < 1e-5


@needs_compiler
@pytest.mark.parametrize(
    "kind,batch,what",
    [
        ("Q4_1", 1, ("norm",)),
        ("Q4_1", 1, ("norm", "swiglu")),
        ("Q4_1", 1, ("residual",)),
        (affine(4, 32), 2, ("norm", "swiglu")),
        ("Q8_0", 2, ("norm", "bias", "residual")),
        ("F16", 3, ("norm", "swiglu")),
        ("BF16", 1, ("bias",)),
        ("F32", 1, ("norm", "residual")),
    ],
    ids=str,
)
def test_folded_in(kind, batch, what):
    n, k = 45, 320
    w, decoded = matrix(kind, 2 * n if "swiglu" in what else n, k)
    x, options = activations(batch, k) * 3, fused(n, k, batch, what)
    before = library.used["q_gemv", "host"]
    assert relative(call(x, w, kind, options), oracle(x, decoded, **options)) < 1e-5
    assert library.used["q_gemv", "host"] == before + 1


@needs_compiler
@pytest.mark.parametrize("dtype,tolerance", [(mx.float16, 1e-3), (mx.bfloat16, 4e-3)], ids=str)
def test_16_bit_activations(dtype, tolerance):
    x = plain(mx.array(activations(2, 320)).astype(dtype))
    options = {k: plain(mx.array(v).astype(dtype)) for k, v in fused(70, 320, 2, ("norm", "residual")).items()}
    w, decoded = matrix("Q4_1", 70, 320)
    y = call(x, w, "Q4_1", options, dtype)
    assert y.dtype == dtype and relative(plain(y), oracle(x, decoded, **options)) < tolerance


@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_twin(kind):
    n, k = 18, 256
    w, decoded = matrix(kind, 2 * n, k)
    options = fused(n, k, 2, ("norm", "swiglu", "bias", "residual"))
    cast = {o: mx.array(v) if isinstance(v, np.ndarray) else v for o, v in options.items()}
    y = q_gemv.reference(mx.array(activations(2, k)), w, stored(kind), eps=EPS, **cast)
    assert relative(y, oracle(activations(2, k), decoded, **options)) < 1e-5


def check_one_row(kind, **how):
    """Kernels for one row of x against the oracle, at every shape of this type."""
    for n, width in shapes_of(kind):
        k, (w, decoded) = q_gemv.kernel(kind, 1, on="host", width=width, **how), matrix(kind, n, width)
        groups, ints, shared = q_gemv.launch(k, n, width)
        (y,) = k([*stored(kind).inputs(w), mx.array(activations(1, width))], [(1, n)], (groups, 1, 1), ints, shared)
        assert relative(y, oracle(activations(1, width), decoded)) < 1e-5


@needs_compiler
@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0", "Q4_0", "F16", affine(3, 64), affine(8, 32), "Q4_K", "MXFP4", *SLOW_REST], ids=name)
def test_no_index_outside(kind):
    """A checked build on exact buffers; and both ways of reading rows."""
    for stream in (True, False):
        check_one_row(kind, checked=True, stream=stream)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_other_cpus(kind, form):
    for n, width in shapes_of(kind):
        k, (w, decoded) = q_gemv.kernel(kind, 2, on="host", flags=FORMS[form], eps=EPS, width=width), matrix(kind, n, width)
        x, norm = activations(2, width), activations(width, seed=5)
        groups, ints, shared = q_gemv.launch(k, n, width)
        (y,) = k([*stored(kind).inputs(w), mx.array(x), mx.array(norm)], [(2, n)], (groups, 1, 1), ints, shared)
        assert relative(y, oracle(x, decoded, norm=norm)) < 1e-5


@needs_compiler
@pytest.mark.parametrize("kind", ["Q4_K", *(pytest.param(k, marks=pytest.mark.slow) for k in ("Q3_K", "MXFP4"))])
def test_cpus_without_products_of_bytes(kind):
    check_one_row(kind, products=False)


@needs_compiler
def test_cpus_with_products_of_bytes_take_them():
    if not host_build.has_pair_products():
        pytest.skip("this CPU has none")
    for kind in ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "MXFP4", affine(4, 32)):
        assert q_gemv.kernel(kind, 1, on="host").defines["BYTES"] == 1, name(kind)
    text = q_gemv.kernel("Q4_K", 1, on="host").host_text()
    assert "dot_digits<CODES, DIGIT" in text and "define BYTES 1" in text


@needs_compiler
@pytest.mark.parametrize("kind", ["Q4_K", *(pytest.param(k, marks=pytest.mark.slow) for k in ("Q4_1", "Q5_0", "Q6_K", "MXFP4"))])
def test_activations_of_very_different_sizes(kind):
    """Those that share a unit with one a thousand times as large lose little of what y is made of."""
    n, k = 64, 1024
    w, decoded = matrix(kind, n, k)
    x = activations(1, k)
    x[0, 3::128] *= 1000
    x[0, 512:] *= 1e-6
    x[0, 256:512] = 0
    assert relative(q_gemv.apply(mx.array(x), w, kind), oracle(x, decoded)) < 1e-5
    assert relative(q_gemv.apply(mx.array(x * 0), w, kind) + 1.0, np.ones((1, n))) == 0


@needs_compiler
def test_codes_and_activations_at_their_largest():
    """No sum of products leaves 32 bits: codes of all ones, activations of one size and sign."""
    for kind, size, code in (("Q4_1", 20, 0xFF), ("Q5_1", 24, 0xFF), ("Q5_0", 22, 0xFF), ("Q8_0", 34, 0x7F), ("Q8_0", 34, 0x80), ("Q6_K", 210, 0xFF), ("Q6_K", 210, 0)):
        blocks = np.full((3, 256 // stored(kind).block, size), code, np.uint8)
        blocks[..., :2] = np.array([0.5], np.float16).view(np.uint8)
        if kind in ("Q4_1", "Q5_1"):
            blocks[..., 2:4] = 0
        if kind == "Q6_K":
            blocks[..., 208:], blocks[..., :2], blocks[..., 192:208] = blocks[..., :2].copy(), code, 1
        largest = {"Q4_1": 15, "Q5_0": 15, "Q5_1": 31, "Q8_0": 127 if code == 0x7F else -128, "Q6_K": 31 if code else -32}
        value = 0.5 * largest[kind]
        for x in (1.0, -1.0, 1e30, 1e-30):
            k = q_gemv.kernel(kind, 1, on="host", products=True, width=256)
            groups, ints, shared = q_gemv.launch(k, 3, 256)
            (y,) = k([*arrays(mx.array(blocks.reshape(3, -1)), kind), mx.full((1, 256), x)], [(1, 3)], (groups, 1, 1), ints, shared)
            assert np.allclose(np.array(y), 256 * value * x, rtol=1e-6)


@needs_compiler
@pytest.mark.parametrize("kind", ["Q4_1", "Q4_K", "Q6_K"])
def test_numbers_that_are_not_finite_stay_so(kind):
    w, _ = matrix(kind, 40, 256)
    for number in (np.inf, -np.inf, np.nan):
        x = activations(1, 256)
        x[0, 77] = number
        assert not np.isfinite(np.array(q_gemv.apply(mx.array(x), w, kind))).any()


def test_wrong_calls_say_so():
    w, _ = matrix("Q4_1", 8, 64)
    with pytest.raises(KernelError, match="1 to 8 rows, got 9: use q_gemm"):
        q_gemv.apply(mx.zeros((9, 64)), w, "Q4_1")
    with pytest.raises(KernelError, match="built for a width that leaves 64 modulo 256, and is given 512"):
        q_gemv.launch(q_gemv.kernel("Q4_1", 1, on="host", stream=True, width=576), 8, 512)
    with pytest.raises(KernelError, match="48 columns are not a multiple of 32"):
        q_gemv.apply(mx.zeros((1, 48)), w, "Q4_1")
    with pytest.raises(KernelError, match="no kernel reads Q9_9 weights; there are F32, F16, BF16"):
        q_gemv.apply(mx.zeros((1, 64)), w, "Q9_9")
    with pytest.raises(KernelError, match="no kernel for affine weights of 7 bits"):
        affine(7, 32)
    with pytest.raises(KernelError, match="affine4_32_half weights are 3 arrays"):
        arrays(mx.zeros((8, 8), mx.uint32), affine(4, 32))
    with pytest.raises(KernelError, match="Q8_0 weights are mlx.core.uint16, got mlx.core.float32"):
        arrays(mx.zeros((8, 8)), "Q8_0")


# ---- on Metal, in the simulator ------------------------------------------------------------------------------------
def gate(kind, n, width, batch=1, what=(), **options):
    """(the gate, the oracle's answer) of one launch."""
    stream = options.get("stream", False)
    w, decoded = matrix(kind, 2 * n if "swiglu" in what else n, width)
    x, given = activations(batch, width), fused(n, width, batch, what)
    make = dict(
        eps=EPS if "norm" in what else None,
        swiglu="swiglu" in what,
        bias="bias" in what,
        residual="residual" in what,
        on="metal",
    )
    make["width"] = width
    k = q_gemv.kernel(kind, batch, **make, **options)
    groups, ints, shared = q_gemv.launch(k, n, width)
    if stream:
        k = q_gemv.kernel(kind, batch, shared=shared, **make, **options)
    extra = [mx.array(given[o]) for o in ("norm", "bias", "residual") if o in given]
    return Gate(k, [*stored(kind).inputs(w), mx.array(x), *extra], [(batch, n)], (groups, 1, 1), ints), oracle(x, decoded, **given)


def label(value):
    return "_".join(value) if isinstance(value, tuple) else str(value) if isinstance(value, int) else name(value)


# Bytes of a block of 256 weights that lanes read: 256 lanes' words, then what lanes share: scales, and codes of several.
SUPER = {
    "Q4_K": 32 * (8 + 16),
    "Q5_K": 32 * (16 + 16),
    "Q6_K": 32 * (16 + 2 + 2),
    "Q8_K": 32 * (8 + 4),
    "Q3_K": 32 * (16 + 12 + 2),
    "Q2_K": 32 * (8 + 4 + 4),
    "IQ4_XS": 32 * (4 + 8),
    "TQ1_0": 32 * (8 + 2),
    "TQ2_0": 32 * (8 + 2),
    "IQ2_XXS": 32 * (8 + 2),
    "IQ2_XS": 32 * (4 + 2),
    "IQ2_S": 32 * (8 + 2),
    "IQ3_XXS": 32 * (6 + 2),
    "IQ3_S": 32 * (8 + 2),
}
SMALL = {"Q4_1": 16 + 4 * 4, "Q4_0": 16 + 4 * 2, "Q8_0": 32 + 4 * 2, "IQ4_NL": 16 + 4 * 2, "MXFP4": 16 + 4 * 1,
         "Q5_0": 16 + 4 * 6, "Q5_1": 16 + 4 * 8}  # the same of a block of 32
CASES = [
    ("Q4_1", 24, 576, 1, ()),
    ("Q8_0", 21, 288, 2, ("bias",)),
    ("Q4_0", 16, 320, 1, ("norm", "residual")),
    ("F16", 16, 288, 1, ()),
    ("BF16", 16, 256, 1, ("norm", "swiglu")),
    (affine(4, 32), 24, 576, 1, ("norm", "swiglu")),
    (affine(3, 64), 16, 320, 1, ()),
    ("Q4_K", 18, 512, 1, ("norm",)),
    ("Q6_K", 16, 256, 1, ()),
]
MORE = [
    *((k, 16, 512, 2, ()) for k in (*SUPER, *SMALL) if k not in ("Q4_1", "Q4_0", "Q8_0")),
    ("F32", 16, 288, 1, ()),
    (affine(2, 32), 16, 256, 1, ()),
    (affine(5, 128), 16, 384, 1, ()),
    (affine(6, 64, mx.bfloat16), 16, 256, 1, ()),
    (affine(8, 32, mx.float32), 16, 256, 8, ()),
]


@needs_simulator
@pytest.mark.parametrize(
    "kind,n,width,batch,what", CASES + [pytest.param(*c, marks=pytest.mark.slow) for c in MORE], ids=label
)
def test_gate(kind, n, width, batch, what):
    run, want = gate(kind, n, width, batch, what)
    ragged = -n % 4 / n  # a ragged last group of rows reads its last row again
    run.check(
        [want],
        1e-5,
        traffic={label: times * (1.01 + ragged) for label, times in reads(stored(kind)).items()},
        written={"y": 1.0},
    )


def reads(kind):
    """How often each byte of a matrix's arrays is read: once, but for what lanes of one load share."""
    if kind.header == "quants/affine.h":
        how = dict(kind.defines)
        sharing = how["GROUP"] / 8
        return {"w": {3: 8 / 3, 5: 16 / 5, 6: 16 / 6}.get(how["BITS"], 1), "scales": sharing, "offsets": sharing}
    if kind.name in REGISTRY and REGISTRY[kind.name].block_size > 1:
        return {"w": (SUPER | SMALL)[kind.name] / REGISTRY[kind.name].type_size}
    return {"w": 1}


@needs_simulator
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0", "Q6_K", "IQ4_NL"])
@pytest.mark.parametrize("products", [False, True])
def test_gate_of_the_stream(kind, products):
    width = 256 if kind == "Q6_K" else 96
    run, want = gate(kind, 24, width, 1 if products else 2, ("norm",), stream=True, products=products, rows=8, sgs=2)
    run.check([want], 1e-5, threadgroup_bytes=32768)


FAULTS = {
    "a row too far": ("min(r, rows - 1)", "min(r + 1, rows)"),
    "a step too far": ("int n = min(STEP, K - k);", "int n = STEP;"),
    "a mask dropped at the store": (
        "st(y, lane + (b * N + row0), v, first(lane, rows));",
        "st(y, lane + (b * N + row0), v);",
    ),
    "a word too far": ("spread<4, UNITS>(lane) + FIRST", "spread<4, UNITS>(lane) + 2"),
    "a scale of another block": ("ld(w.w, spread<4, UNITS, 0>(lane)", "ld(w.w, spread<8, UNITS, 0>(lane)"),
    "the offset forgotten": ("+ q.offset * a.total", ""),
}


@needs_simulator
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(fault):
    run, want = gate("Q4_1", 22, 288)
    run.run()
    assert not run.report.errors and relative(run.outputs[0], want) < 1e-5
    run.run(cut=FAULTS[fault])
    assert run.report.errors or relative(run.outputs[0], want) > 1e-3


@needs_simulator
def test_a_missing_barrier_is_caught():
    run, want = gate("Q4_1", 16, 96, 1, ("norm",), stream=True, rows=8, sgs=2)
    run.run()
    assert not run.report.errors and relative(run.outputs[0], want) < 1e-5
    run.run(cut=("TG_BARRIER;", ";"))
    assert "threadgroup-race" in run.errors() or "uninitialised-threadgroup-read" in run.errors()
