"""Recordings and written rows: the same as the graph they were made of, and refused where they cannot be."""

import mlxr  # noqa: F401  (first: it decides which BLAS MLX uses)
import mlx.core as mx
import numpy as np
import pytest
from kernels.matrices import needs_compiler

from mlxr.errors import KernelError
from mlxr.kernels import library
from mlxr.kernels.library import Kernel
from mlxr.kernels.recording import Likeness, Recording, possible, write_rows

TWICE = """KERNEL twice(dptr<const float> x, dptr<float> y, int n, GRID) {
    SIMDGROUPS { st(y, lane + tg.x * 32, ld(x, lane + tg.x * 32, first(lane, n - int(tg.x) * 32)) * 2.0f, first(lane, n - int(tg.x) * 32)); }
}"""


def twice(x):
    k = Kernel("twice", inputs=[("x", "float")], outputs=[("y", "float")], ints=["n"], defines={"SGS": 1}, text=TWICE)
    return k([x], [x.shape], (-(-x.size // 32), 1, 1), (x.size,))[0]


pytestmark = needs_compiler


@pytest.fixture
def host(monkeypatch):
    monkeypatch.setenv("MLXR_BACKEND", "host")


def numbers(*shape, seed=0):
    return mx.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def test_replay_is_the_graph(host):
    def graph(x, constant):
        return twice(twice(x).reshape(4, 25)).reshape(100), twice(constant)

    constant = numbers(64, seed=1)
    mx.eval(constant)
    x = numbers(100)
    outputs = graph(x, constant)
    recording = Recording([x], outputs)
    for seed in (2, 3):
        other = numbers(100, seed=seed)
        for got, want in zip(recording([other]), graph(other, constant)):
            assert mx.array_equal(got, want)


def test_scratch_is_shared_only_by_what_does_not_live_together(host):
    """A chain whose links are all needed at the end too."""
    def graph(x):
        links = [x]
        for _ in range(6):
            links.append(twice(links[-1]))
        return [twice(link) for link in reversed(links)]

    recording = Recording([first := numbers(1000)], graph(first))
    x = numbers(1000, seed=5)
    for power, got in enumerate(reversed(recording([x]))):
        assert mx.array_equal(got, x * 2.0 ** (power + 1))


def test_rows_are_written_into_the_input_itself(host):
    def graph(into, x):
        seen = twice(into)                       # what is read before the rows are written
        return twice(x), seen, write_rows(into, rows, source, twice(x).reshape(3, 32), after=seen)

    rows, source = mx.array([7, 2], mx.int32), mx.array([0, 2], mx.int32)
    into, x = numbers(8, 32), numbers(96, seed=1)
    mx.eval(into, rows, source)
    y, seen, written = graph(into, x)
    recording = Recording([into, x, rows, source], [y, seen], [written])
    mx.eval(written)
    expected = np.array(into)
    assert not np.array_equal(np.array(written), expected)       # the graph itself left `into` alone
    for seed in (2, 3):
        x = numbers(96, seed=seed)
        got, before = recording([into, x, rows, source])
        mx.eval(got, before)
        assert np.array_equal(np.array(before), expected * 2)
        expected[[7, 2]] = np.array(x * 2).reshape(3, 32)[[0, 2]]
        assert np.array_equal(np.array(into), expected)


def test_an_output_that_was_written_is_the_inputs_memory(host):
    """It stands for the input after the rows are written, and what is only to come before is computed before."""
    rows, source = mx.array([7, 2], mx.int32), mx.array([0, 2], mx.int32)
    into, x = numbers(8, 32), numbers(3, 32, seed=1)
    mx.eval(into, rows, source)
    recording = Recording([into, x], [write_rows(into, rows, source, twice(x), twice(x), always=True)])
    expected, address = np.array(into), np.array(into, copy=False).__array_interface__["data"][0]
    for seed in (2, 3):
        x, before = numbers(3, 32, seed=seed), mx.exp(numbers(4, 5, seed=seed).T)
        (into,) = recording([into, x], after=[before])
        mx.eval(into)
        expected[[7, 2]] = np.array(x * 2)[[0, 2]]
        assert np.array_equal(np.array(into), expected) and before.shape == (5, 4)
        assert np.array(into, copy=False).__array_interface__["data"][0] == address


def test_what_cannot_be_recorded(host):
    x = numbers(128)
    with pytest.raises(KernelError, match="it has an operation Exp"):
        Recording([x], [twice(mx.exp(x))])
    into, row = numbers(8, 32), mx.array([0], mx.int32)
    mx.eval(into, row)
    with pytest.raises(KernelError, match="written into what is no input"):
        Recording([x], [twice(x)], [write_rows(into, row, row, x.reshape(4, 32), after=x)])
    with pytest.raises(KernelError, match="an output is not computed"):
        Recording([x], [x])
    recording = Recording([x], [twice(x)])
    with pytest.raises(KernelError, match="input 0 has another shape"):
        recording([numbers(129)])
    with pytest.raises(KernelError, match="fewer inputs than"):
        recording([])


def test_an_input_with_strides_is_refused(host):
    x = numbers(10, 10)
    recording = Recording([x], [twice(x)])
    with pytest.raises(RuntimeError, match="strides"):
        mx.eval(recording([numbers(10, 10).T]))


def test_a_part_of_a_graph_is_made_of_one_like_it(host):
    def part(x, weights, rows, state):
        y = twice(twice(x) if weights is None else twice(weights))
        return y, write_rows(state, rows, rows, y.reshape(4, 32), after=y)

    def computed(*shape, seed):
        mx.eval(made := numbers(*shape, seed=seed))
        return made

    weights = [computed(128, seed=i) for i in range(3)]
    like, rows = Likeness(), mx.array([0, 3, 1, 2], mx.int32)
    x, states = numbers(128), [computed(4, 32, seed=9 + i) for i in range(2)]
    one, other = (part(x, w, rows, s) for w, s in zip(weights, states))
    assert like.learn([x, states[0]], one, [one[0], states[1]], part(one[0], weights[1], rows, states[1]), [rows])
    rows = mx.array([3, 2, 1, 0], mx.int32)          # another step
    one = part(x, weights[0], rows, states[0])
    made = like.clone([x, states[0]], one, [one[0], states[1]], [rows])
    for got, want in zip(made, part(one[0], weights[1], rows, states[1])):
        assert np.array_equal(np.array(got), np.array(want))
    # A constant that was not there, until it was; other operations; one constant that would stand for two.
    new = part(x, weights[2], rows, states[0])
    assert like.clone([x, states[0]], new, [x, states[1]], [rows]) is None
    assert like.learn([x, states[0]], new, [x, states[1]], part(x, weights[0], rows, states[1]), [rows])
    assert np.array_equal(like.clone([x, states[0]], new, [x, states[1]], [rows])[0], weights[0] * 4)
    assert not like.learn([x, states[0]], new, [x, states[1]], [twice(twice(twice(x))), states[1]], [rows])
    assert not like.learn([x, states[0]], new, [x, states[1]], part(x, weights[1], rows, states[1]), [rows])
    assert not Likeness().learn([x, states[0]], new, [x, states[1]], part(x, None, rows, states[1]), [rows])


def test_possible(host):
    assert possible()
    with library.rehearsal():
        assert not possible()
    with library.aside():
        assert not possible()


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("backend", ["host", "reference"])
def test_write_rows(monkeypatch, backend, strided):
    monkeypatch.setenv("MLXR_BACKEND", backend)
    into, after = numbers(6, 2, 4), mx.zeros(8)
    values = numbers(2, 5, 4, seed=1).swapaxes(0, 1) if strided else numbers(5, 2, 4, seed=1)
    held = np.array(into)
    out = write_rows(into, mx.array([5, 0, 1], mx.int32), mx.array([4, 0, 2], mx.int32), values, after)
    expected = held.copy()
    expected[[5, 0, 1]] = np.array(values)[[4, 0, 2]]
    assert np.array_equal(np.array(out), expected) and np.array_equal(np.array(into), held)


def test_written_rows_take_over_the_memory(host):
    into = mx.zeros((64, 1 << 16))
    mx.eval(into)
    mx.synchronize()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    row, values = mx.array([3], mx.int32), mx.ones((1, 1 << 16))
    for _ in range(3):
        into = write_rows(into, row, mx.array([0], mx.int32), values, values)
        mx.eval(into)
        mx.synchronize()
    assert mx.get_peak_memory() - before < into.nbytes / 4
