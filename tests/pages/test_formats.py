"""Every encoding of K and of V: a record's size, its round trip, its layout; what --kv says, and what it takes in bits."""

import math

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxr.calibration import made_up
from mlxr.config import EngineConfig
from mlxr.errors import ConfigError, UnsupportedModel
from mlxr.memory import pool_pages
from mlxr.pages.encoding import rotate
from mlxr.pages.format import effective_bits
from mlxr.pages.formats import NAMES, names, page_format, q4
from mlxr.pages.pool import LayerSpec, PagePool
from mlxr.pages.record import RECORD_BYTES, deal, dealt, k_rows, k_words, pack, unpack, v_lines, v_words
from mlxr.pages.spec import parse_kv

SHAPES = [(16, 64, 64), (64, 64, 64), (64, 80, 80), (32, 96, 96), (128, 128, 128), (64, 192, 128), (64, 256, 256)]
# Relative errors of K and V that are normal numbers: what the bits allow.
ERRORS = {"f32": (0, 0), "f16": (3e-4, 3e-4), "bf16": (2.5e-3, 2.5e-3), "q8": (1e-2, 1e-2), "q6": (0.03, 0.03),
          "a4": (0.13, 0.13), "q4": (0.1, 0.1), "k8v4": (1e-2, 0.1), "mixed": (0.11, 0.1), "q3": (0.2, 0.19), "q2": (0.4, 0.37), "fit": (0.4, 0.37)}


def format_of(name, page=64, d=64, kv_heads=1, v_dim=None):
    """The page format; with made-up tables, where it needs some."""
    return made_up(page_format(name), kv_heads, d, v_dim or d, page, 8)


def normal(*shape, seed=0):
    return mx.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def error(a, b):
    return float(mx.linalg.norm(a - b) / mx.linalg.norm(a))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("page, dk, dv", SHAPES)
def test_round_trip_and_size(name, page, dk, dv):
    f = page_format(name)
    k, v = normal(2, 3, page, dk), normal(2, 3, page, dv, seed=1)
    if f.unfit(page, dk, dv):
        assert name in ("q2", "q3", "fit") and (page < 32 or dk > 128 or dk % 16 or dv % 32 or dk % 64)
        return
    f, at = format_of(name, page, dk, 3, dv), mx.array([0, 5])
    if f.k.before_rope:
        like = mx.broadcast_to((at[:, None, None] == 0) & (mx.arange(page) == 0), (2, 3, page))
        k = k + f.k.tables.turned(f.k.tables.means(like), at)[..., f.k.tables.back]    # K as the tables take it to be
    if f.given:
        v = v + f.k.values(f.k.encode(k, at), page)                                # and V as that says
    records = f.encode(k, v, at)
    assert records.dtype == mx.uint32 and records.shape == (2, 3, f.words(page, dk, dv))
    assert f.words(page, dk, dv) * 4 % RECORD_BYTES == 0
    assert f.k.words(page, dk) + f.v.words(page, dv) > f.words(page, dk, dv) - RECORD_BYTES // 4
    k2, v2 = f.decode(records, page, dk, dv, at)
    assert error(k, k2) <= ERRORS[name][0] and error(v, v2) <= ERRORS[name][1]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_decoded_is_stored_as_it_is(name):
    """Encoding what was decoded changes little: codes and levels belong together."""
    f, at = format_of(name), mx.array([0])
    once = f.decode(f.encode(normal(1, 1, 64, 64), normal(1, 1, 64, 64, seed=1), at), 64, 64, 64, at)
    twice = f.decode(f.encode(*once, at), 64, 64, 64, at)
    for a, b in zip(once, twice):
        assert error(a, b) <= {"q4": 0.03, "k8v4": 0.03, "mixed": 0.03, "q3": 0.15, "q2": 0.2}.get(name, 2e-3)


@pytest.mark.parametrize("name, gains", [("q3", True), ("q2", True), ("k:q3,v:q4", False), ("k:q8,v:q3", False)])
def test_what_k_says_of_v_is_not_stored(name, gains):
    """Of a V that is a linear map of K, with less than half the error; only where K is calibrated and V made for it."""
    f, at = format_of(name, kv_heads=2), mx.array([0, 3])
    k, v = normal(2, 2, 64, 64), normal(2, 2, 64, 64, seed=1)
    given, like = f.given, page_format("q3:bits=4")
    tables = made_up(like, 2, 64, 64, 64, 8).k
    known = tables.values(tables.encode(k, at), 64)
    assert given == gains
    errors = [error(x, f.decode(f.encode(k, x, at), 64, 64, 64, at)[1]) for x in (known + 0.1 * v, v)]
    assert errors[0] < 0.6 * errors[1] if gains else errors[0] > 0.8 * errors[1]


@pytest.mark.parametrize("name, numpy_type", [("f16", np.float16), ("f32", np.float32)])
def test_layout_of_plain_records(name, numpy_type):
    """K channel-major by words, V token-major, as the design says byte by byte."""
    page, dk, dv = 16, 8, 4
    k = np.arange(page * dk).reshape(page, dk).astype(numpy_type)
    v = 1000 + np.arange(page * dv).reshape(page, dv).astype(numpy_type)
    record = np.array(page_format(name).encode(mx.array(k), mx.array(v)))
    per = 4 // np.dtype(numpy_type).itemsize
    k_part, v_part = np.split(record, [page * dk // per])[0], record[page * dk // per:][:page * dv // per]
    assert (k_part.reshape(dk // per, page)[1, 3:4].view(numpy_type) == k[3, per:2 * per]).all()
    assert (v_part.view(numpy_type).reshape(page, dv) == v).all()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_packing(bits):
    codes = mx.array(np.random.default_rng(0).integers(0, 1 << bits, (3, 64)), mx.uint32)
    words = pack(codes, bits)
    assert words.shape == (3, 2 * bits) and (unpack(words, bits) == codes).all()
    assert int(words[0, 0]) & ((1 << bits) - 1) == int(codes[0, 0])


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_codes_are_dealt_to_bytes(bits):
    """One shift and one mask give four consecutive codes in four bytes."""
    codes = np.random.default_rng(0).integers(0, 1 << bits, (3, 64))
    words = deal(mx.array(codes, mx.uint32), bits)
    assert words.shape == (3, 2 * bits) and (np.array(dealt(words, bits)) == codes).all()
    fours = np.array(words)[..., None] >> np.arange(0, 8, bits).astype(np.uint32) & np.uint32(0x01010101 * ((1 << bits) - 1))
    assert (fours.view(np.uint8).reshape(codes.shape) == codes).all()


def test_lines_of_planes():
    """K's words of a token are a page apart; V's groups lie in lines of 32, plane after plane."""
    k = mx.arange(16 * 6).reshape(16, 6)
    assert int(k_rows(k)[2 * 16 + 5]) == int(k[5, 2]) and (k_words(k_rows(k), 16) == k).all()
    v = mx.arange(16 * 4 * 3).reshape(16, 4, 3)
    lines = v_lines(v)
    assert int(lines[96 + 32 + 3]) == int(v[8, 3, 1]) and (v_words(lines, 16, 3) == v).all()


def test_levels_of_q4_are_lloyd_max():
    """Each level is the mean of a unit normal over the numbers that are nearest to it, to half a step; and a whole number of
    steps, which a byte holds."""
    density, below = lambda x: math.exp(-x * x / 2) / math.sqrt(2 * math.pi), lambda x: (1 + math.erf(x / math.sqrt(2))) / 2
    edges = [0, *((a + b) / 2 for a, b in zip(q4.LEVELS, q4.LEVELS[1:])), 40]
    for level, a, b in zip(q4.LEVELS, edges, edges[1:]):
        assert abs((density(a) - density(b)) / (below(b) - below(a)) - level) < 0.6 * q4.STEP
        assert abs(level / q4.STEP - round(level / q4.STEP)) < 1e-6 and level / q4.STEP < 128


def test_q4_takes_a_common_vector_out_of_k_and_is_unbiased():
    k = normal(64, 128) + 30 * normal(128, seed=2)
    f = page_format("q4")
    k2, _ = f.decode(f.encode(k, k), 64, 128, 128)
    noise = k - k.mean(axis=0)
    assert float(mx.linalg.norm(k - k2) / mx.linalg.norm(noise)) < 0.11
    v = normal(1000, 64, 64, seed=3)
    _, v2 = f.decode(f.encode(v, v), 64, 64, 64)
    assert abs(float((v * v2).sum() / (v * v).sum()) - 1) < 1e-3
    x = normal(3, 80)
    assert error(rotate(rotate(x)), x) < 1e-6 and error(rotate(x), x) > 0.5 and abs(error(rotate(x), 0 * x) - 1) < 1e-6


def test_q4_keeps_the_token_that_is_far_from_all_others():
    """It is exact, but for fp16, and the others are as without it."""
    k = np.array(normal(64, 64)) + 3
    k[17] *= 200
    f = page_format("q4")
    k2 = np.array(f.decode(f.encode(mx.array(k), mx.array(k)), 64, 64, 64)[0])
    others = np.arange(64) != 17
    assert np.abs(k2 - k)[17].max() < 1e-3 * np.abs(k[17]).max() and relative(k2[others], k[others]) < 0.05


def test_mixed_keeps_channels_of_the_widest_range():
    k = np.array(normal(64, 64)) * np.where(np.arange(64) % 8 == 3, 50, 1)
    f = page_format("mixed:ratio=0.125,low=2")
    k2 = np.array(f.decode(f.encode(mx.array(k), mx.array(k)), 64, 64, 64)[0])
    wide = np.arange(64) % 8 == 3
    assert f.k.high(64) == 16
    assert np.abs(k - k2)[:, wide].max() < 0.1 and 0.2 < np.abs(k - k2)[:, ~wide].max() < 2


@pytest.mark.parametrize("name", sorted({*names("k"), *names("v")}))
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_does_not_become_one(name, bad):
    """NaN in K or V is NaN when it is read, never some number."""
    x = np.array(normal(32, 64))
    x[3, 5] = bad
    for kind in ("k", "v"):
        if name in names(kind):
            f = format_of(f"k:{name},v:f32" if kind == "k" else f"k:f32,v:{name}", 32)
            e = getattr(f, kind)
            if not e.unfit(32, 64):
                at = {"at": mx.array(0)} if e.before_rope else {}
                out = np.array(e.decode(e.encode(mx.array(x)[None], **at), 32, 64, **at))[0]
                assert not np.isfinite(out[3, 5]) and (kind == "v" or np.isfinite(out[7]).all() or not e.before_rope)


@settings(max_examples=15)
@given(data=st.data())
def test_any_combination(data):
    """k:A,v:B of any two, in any order and with options, at any page size."""
    k, v = data.draw(st.sampled_from(names("k"))), data.draw(st.sampled_from(names("v")))
    low = data.draw(st.sampled_from([2, 4]))
    parts = [f"k:{k}" + (f":ratio=0.5,low={low}" if k == "mixed" else ""), f"v:{v}"]
    page = data.draw(st.sampled_from([16, 32, 64, 128]))
    f = page_format(",".join(parts if data.draw(st.booleans()) else parts[::-1]))
    assert (f.k.name, f.v.name) == (k, v) and f == page_format(",".join(parts)) and hash(f) == hash(page_format(",".join(parts)))
    assert f.words(page, 64, 128) * 4 >= 4 * (f.k.words(page, 64) + f.v.words(page, 128))
    if f.unfit(page, 64, 128):
        assert page == 16 and k in ("q2", "q3", "fit")
        return
    f, at = made_up(f, 1, 64, 128, page, 8), mx.array(3)
    k2, v2 = f.decode(f.encode(normal(1, page, 64), normal(1, page, 128), at), page, 64, 128, at)
    assert k2.shape == (1, page, 64) and v2.shape == (1, page, 128)


@pytest.mark.parametrize("text, why", [
    ("q17", "unknown page format 'q17'; there are .*f16.*q4"), ("k:q8", "one for K and one for V"),
    ("q4,v:q8", "one for K and one for V"), ("k:k8v4,v:q4", "'k8v4' does not encode K by itself; these do: .*q4"),
    ("k:q4,v:mixed", "'mixed' does not encode V by itself; these do: a4.*q8"), ("", "a name is missing"),
    ("q4,", "a name is missing"), ("low=4", "stands before any format"), ("q4:x=1", "no option 'x'; it has none"),
    ("mixed:width=1", "no option 'width'; it has ratio, low"), ("mixed:low=3", "low must be 2 or 4, not 3"),
    ("mixed:ratio=1", "ratio must lie between 0 and 1"), ("mixed:ratio=x", "not of the form NAME=NUMBER"),
    ("mixed:ratio", "not of the form NAME=NUMBER"), ("k8v4:low=2", "has no options; it is k:q8,v:q4"),
    ("q4,skip=a", "skip=a is no layer or slice"), ("q4,skip=0:2:0", "has a step of 0"), ("skip=0:2", "name a page format"),
    ("q4,skip=0:2,v:q8", "one for K and one for V"),
])
def test_bad_texts_are_told(text, why):
    with pytest.raises(ConfigError, match=why) as e:
        parse_kv(text)
    assert "\n" not in str(e.value)


def test_layers_that_stay_in_f16():
    formats = [f.name for f in parse_kv("q4,skip=0:2,-2:").layers(6)]
    assert formats == ["f16", "f16", "q4", "q4", "f16", "f16"]
    assert [f.name for f in parse_kv("skip=1,mixed:ratio=0.5,low=4").layers(3)] == ["mixed:ratio=0.5,low=4", "f16",
                                                                                   "mixed:ratio=0.5,low=4"]
    assert [f.k.name for f in parse_kv("q8,skip=::2").layers(3)] == ["f16", "q8", "f16"]
    for text in ("q4,skip=6", "q4,skip=6:", "q4,skip=-7"):
        with pytest.raises(ConfigError, match="names none of this model's 6 layers"):
            parse_kv(text).layers(6)


def test_bits_are_those_of_the_bytes():
    """The pool's bytes are records times pages, exactly; the effective bits are theirs, and the tail's."""
    specs = [LayerSpec(3, 64, 64)] * 6
    formats = parse_kv("q4,skip=0:2").layers(6)
    pool = PagePool(specs, formats, 64, 10, mx.float32)
    assert sum(x.records.nbytes for x in pool.layers) == 11 * 3 * 4 * sum(f.words(64, 64, 64) for f in formats)
    stored = sum(x.records.nbytes for x in pool.layers) / 11
    assert effective_bits(specs, formats, 64) == pytest.approx(stored * 8 / (6 * 3 * 64 * 128))
    assert effective_bits(specs, page_format("q4"), 64) == 4.5
    assert effective_bits(specs, page_format("q4"), 64, 1024) == pytest.approx(4.5 + 32 / 1024 * (16 - 4.5))
    assert effective_bits(specs, page_format("f16"), 64, 8192, mx.float16) == 16


@pytest.mark.parametrize("d, page", [(64, 64), (128, 64), (128, 128)])
def test_q4_holds_more_than_three_and_a_half_times_the_tokens(d, page):
    assert page_format("f16").words(page, d, d) >= 3.5 * page_format("q4").words(page, d, d)
    config, specs = EngineConfig(page_size=page, pool_bytes=64 << 20), [LayerSpec(3, d, d)] * 30
    f16, q4 = (pool_pages(specs, page_format(name), config, 1 << 20, 0, mx.float32) for name in ("f16", "q4"))
    assert q4 >= 3.5 * f16


def test_heads_that_do_not_fit_are_told():
    with pytest.raises(UnsupportedModel, match="layer 1 does not fit page format q4: K in q4 cannot have heads of 20"):
        PagePool([LayerSpec(2, 64, 64), LayerSpec(2, 20, 20)], page_format("q4"), 64, 4, mx.float32)


def test_errors_of_q4_go_where_they_cost_least(monkeypatch):
    """A channel's error weighs as K's square there: less in all than where each number is rounded for itself."""
    size = np.geomspace(0.2, 2, 32)[np.random.default_rng(2).permutation(32)]
    size = np.concatenate([size, size])                        # RoPE turns channels as pairs that are half a head apart
    k, v, f = normal(2, 3, 64, 64) * mx.array(size, mx.float32), normal(2, 3, 64, 64, seed=1), page_format("q4")

    def costs():
        e = np.array(f.decode(f.encode(k, v), 64, 64, 64)[0] - k).astype(np.float64)
        return (e * e * size**2).sum(), (e * e).sum()

    weighted, plain = costs()
    monkeypatch.setattr(q4, "shaped", lambda d: False)
    weighted_alone, plain_alone = costs()
    assert weighted < 0.7 * weighted_alone and plain_alone < plain < 3 * plain_alone, (weighted / weighted_alone, plain / plain_alone)
