"""q_rows against the decoded matrix: every type, exactly."""

import mlx.core as mx
import numpy as np
import pytest
from kernels.gate import Gate, needs_simulator, relative
from kernels.matrices import ALL_AFFINE, FORMS, KINDS, SLOW_IF_RARE, matrix, name, needs_compiler, plain

from mlxr.errors import KernelError
from mlxr.kernels import library, q_rows
from mlxr.kernels.stored import affine, stored

IDS = np.array([3, 0, 49, 7, 7, *range(10, 45)], np.int32)


def width_of(kind):
    return 512 if stored(kind).block > 128 else 384


@needs_compiler
@pytest.mark.parametrize("kind", [*SLOW_IF_RARE, *(pytest.param(k, marks=pytest.mark.slow) for k in ALL_AFFINE)], ids=name)
def test_every_type(kind):
    before = library.used["q_rows", "host"]
    width = width_of(kind)
    w, decoded = matrix(kind, 50, width)
    for ids in (IDS, IDS[:1], IDS[:6].reshape(2, 3), IDS.astype(np.uint32)):
        rows = q_rows.apply(mx.array(ids), w, kind, width)
        assert rows.shape == (*ids.shape, width)
        np.testing.assert_allclose(
            np.array(rows), decoded[ids], rtol=2e-7, atol=5e-7
        )  # one rounding: code * scale + offset is fused
    assert library.used["q_rows", "host"] == before + 4, "the twin ran instead"


@needs_compiler
@pytest.mark.parametrize("dtype,tolerance", [(mx.float16, 5e-4), (mx.bfloat16, 4e-3)], ids=str)
def test_16_bit_results(dtype, tolerance):
    w, decoded = matrix("Q4_1", 50, 96)
    rows = q_rows.apply(mx.array(IDS), w, "Q4_1", 96, dtype)
    assert rows.dtype == dtype and relative(plain(rows), decoded[IDS]) < tolerance


@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_twin(kind):
    w, decoded = matrix(kind, 50, width_of(kind))
    np.testing.assert_allclose(
        np.array(q_rows.reference(mx.array(IDS), w, kind, width_of(kind))), decoded[IDS], rtol=2e-7, atol=5e-7
    )


@needs_compiler
def test_ids_outside_are_taken_to_the_nearest_row():
    w, decoded = matrix("Q4_1", 50, 96)
    ids = mx.array([-5, 50, 2**30])
    for way in (q_rows.apply, q_rows.reference):
        assert np.array_equal(np.array(way(ids, w, "Q4_1", 96)), decoded[[0, 49, 49]])
    with pytest.raises(KernelError, match="40 columns are not a multiple of 32"):
        q_rows.apply(ids, w, "Q4_1", 40)


@needs_compiler
@pytest.mark.parametrize("form", [None, *(pytest.param(f, marks=pytest.mark.slow) for f in FORMS)])
def test_no_index_outside(form):
    for kind in ("Q4_0", "F16", affine(5, 128), "Q4_K", "MXFP4", *(("Q3_K", "TQ1_0", "IQ3_S") if form else ())):
        width = width_of(kind)
        w, decoded = matrix(kind, 50, width)
        k = q_rows.kernel(kind, on="host", checked=True, flags=FORMS.get(form, ()))
        (rows,) = k([*stored(kind).inputs(w), mx.array(IDS)], [(len(IDS), width)], (2, 3, 1), (len(IDS), 50, width, 3))
        np.testing.assert_allclose(np.array(rows), decoded[IDS], rtol=2e-7, atol=5e-7)


def gate(kind, width):
    w, decoded = matrix(kind, 50, width)
    k = q_rows.kernel(kind, on="metal", sgs=2)
    return Gate(k, [*stored(kind).inputs(w), mx.array(IDS)], [(len(IDS), width)], (2, 2, 1), (len(IDS), 50, width, 2)), decoded[IDS]


@needs_simulator
@pytest.mark.parametrize(
    "kind", ["Q4_1", "Q8_0", affine(3, 64), *(pytest.param(k, marks=pytest.mark.slow) for k in KINDS)], ids=name
)
def test_gate(kind):
    run, want = gate(kind, 2 * max(32, stored(kind).block))
    run.check([want], 1e-6, written={"y": 1.0})


FAULTS = {
    "a mask dropped at the store": ("b.v[i], first(lane, mine));", "b.v[i]);"),
    "an index off by one": ("vint(lane) * K + (k + i)", "vint(lane) * K + (k + i + 1)"),
    "a mask dropped at the ids": ("ld(ids, lane + id0, first(lane, mine))", "ld(ids, lane + id0)"),
}


@needs_simulator
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(fault):
    run, want = gate("Q4_1", 64)
    assert not run.run().report.errors and relative(run.outputs[0], want) < 1e-6
    run.run(cut=FAULTS[fault])
    assert run.report.errors or relative(run.outputs[0], want) > 1e-3
