"""Page format fit: how a mean of bits is spent on layers, what each layer then has, and what is refused."""

import itertools

import numpy as np
import pytest

from mlxr import calibration
from mlxr.errors import ConfigError
from mlxr.pages.format import effective_bits
from mlxr.pages.formats import fit, page_format, q2, q3
from mlxr.pages.pool import LayerSpec


def weighed(costs, dim=64):
    return [fit.curves(*c, np.exp(-np.arange(2 * dim).reshape(2, dim) % dim / 8)) for c in costs]


def lost(costs, bits):
    return sum(c[0][k] + c[1][v] for c, (k, v) in zip(costs, bits))


def spent(elements, bits):
    return sum(h * (k * dk + v * dv + 2 * fit.GAIN) for (dk, dv, h), (k, v) in zip(elements, bits))


@pytest.mark.parametrize("seed", range(6))
def test_bits_go_where_they_save_most(seed):
    """Nothing that costs as many bits loses less; the mean is kept, and used but for what no step fits in."""
    rng = np.random.default_rng(seed)
    costs, elements = weighed(np.exp(1.5 * rng.standard_normal((3, 2)))), [(64, 64, 2)] * 3
    mean = rng.uniform(2.4, 3.2)
    bits = fit.allocate(costs, elements, mean)
    size = sum(h * (dk + dv) for dk, dv, h in elements)
    assert mean * size - 2 * 64 < spent(elements, bits) <= mean * size or set(bits) == {(4, 3)}
    every = itertools.product(itertools.product(fit.K_BITS, fit.WIDTHS), repeat=3)
    assert lost(costs, bits) <= min(lost(costs, b) for b in every if spent(elements, b) <= spent(elements, bits)) * (1 + 1e-9)


def test_layers_of_other_sizes_count_by_their_elements():
    elements = [(128, 128, 8), (64, 128, 1), (64, 64, 4)]
    bits = fit.allocate(weighed(np.ones((3, 2))), elements, 2.75)
    assert spent(elements, bits) <= 2.75 * sum(h * (dk + dv) for dk, dv, h in elements) and bits[1] != (2, 2)


def test_a_layer_has_the_formats_of_q3_and_q2():
    f, specs = page_format("fit:bits=2.9"), [LayerSpec(3, 64, 64)] * 4
    assert f.k.by_layer and f.given and not page_format("q3").k.by_layer
    costs = weighed([[1e-6, 1e-6], [1.0, 1e-6], [1e-6, 1.0], [1.0, 1.0]])
    found = fit.of_layers([(f.k, f.v)] * 4, specs, costs)
    assert found[0] == (q2.K(), q2.V()) and found[3] == (q3.K(bits=4), q3.V())
    assert found[1] == (q3.K(bits=4), q2.V()) and found[2][1] == q3.V()
    wide = page_format("k:fit:block=16,v:f32")
    only = fit.of_layers([(wide.k, wide.v)] * 4, specs, costs)
    assert all(v == wide.v and k.block == 16 for k, v in only) and only[1][0].bits > only[0][0].bits


def test_the_mean_is_what_was_asked_for():
    """Everything counted, on 30 layers: within what the last step would have taken, and never above."""
    specs, rng = [LayerSpec(3, 64, 64)] * 30, np.random.default_rng(0)
    for mean in (2.4, 2.6, 3):
        f = page_format(f"fit:bits={mean}")
        found = fit.of_layers([(f.k, f.v)] * 30, specs, weighed(np.exp(rng.standard_normal((30, 2)))))
        formats = [calibration.PageFormat(k, v, "layer") for k, v in found]
        assert mean - 1 / 60 < effective_bits(specs, formats, 64) <= mean


@pytest.mark.parametrize("kv, said", [("fit:bits=2", "bits must lie between 2.25 and 3.5, not 2"), ("fit:bits=4", "not 4"),
                                      ("fit:layers=3", "has no option 'layers'"), ("k:fit:bits=5,v:q4", "not 5")])
def test_what_is_refused(kv, said):
    with pytest.raises(ConfigError, match=said):
        page_format(kv)
