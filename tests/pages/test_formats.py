"""Every page format: the record's size, its round trip, and for the plain ones its layout."""

import mlx.core as mx
import numpy as np
import pytest

from mlxr.errors import ConfigError
from mlxr.pages.formats import NAMES, page_format
from mlxr.pages.record import RECORD_BYTES

SHAPES = [(16, 64, 64), (64, 64, 64), (64, 80, 80), (32, 96, 96), (128, 128, 128), (64, 192, 128), (64, 256, 256)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("page, dk, dv", SHAPES)
def test_round_trip_and_size(name, page, dk, dv):
    f = page_format(name)
    rng = np.random.default_rng(0)
    k, v = (mx.array(rng.standard_normal((2, 3, page, d)).astype(np.float32)) for d in (dk, dv))
    records = f.encode(k, v)
    assert records.dtype == mx.uint32 and records.shape == (2, 3, f.words(page, dk, dv))
    assert f.words(page, dk, dv) * 4 % RECORD_BYTES == 0
    assert f.words(page, dk, dv) * 32 < (f.bits_per_element(page, dk, dv) + 0.01) * page * (dk + dv)
    k2, v2 = f.decode(records, page, dk, dv)
    for a, b in ((k, k2), (v, v2)):
        error = np.linalg.norm(np.array(a) - np.array(b.astype(mx.float32))) / np.linalg.norm(np.array(a))
        assert error <= {"f32": 0, "f16": 3e-4, "bf16": 2.5e-3, "q8": 1e-2}[name]


@pytest.mark.parametrize("name, numpy_type", [("f16", np.float16), ("f32", np.float32)])
def test_layout_of_plain_records(name, numpy_type):
    """K channel-major by words, V token-major, as the design says byte by byte."""
    page, dk, dv = 16, 8, 4
    k = np.arange(page * dk).reshape(page, dk).astype(numpy_type)
    v = 1000 + np.arange(page * dv).reshape(page, dv).astype(numpy_type)
    record = np.array(page_format(name).encode(mx.array(k), mx.array(v)))
    per = 4 // np.dtype(numpy_type).itemsize
    k_words, v_words = np.split(record, [page * dk // per])[0], record[page * dk // per:][:page * dv // per]
    assert (k_words.reshape(dk // per, page)[1, 3:4].view(numpy_type) == k[3, per:2 * per]).all()
    assert (v_words.view(numpy_type).reshape(page, dv) == v).all()


def test_unknown_format_is_named():
    with pytest.raises(ConfigError, match="unknown page format 'q17'; there are .*f16"):
        page_format("q17")
