"""What record.md says of bytes: readers written from its words alone give what the formats decode."""

import functools

import mlx.core as mx
import numpy as np
import pytest

from mlxr.calibration import made_up
from mlxr.pages.formats import lloyd, page_format
from mlxr.pages.formats.calibrated import allocate
from mlxr.pages.formats.q4 import LEVELS
from mlxr.pages.spec import parse_kv

P, D = 64, 64
PLAIN = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}
HADAMARD = functools.reduce(np.kron, [np.array([[1, 1], [1, -1]])] * 6) / 8
BOTH = np.array([-x for x in reversed(LEVELS)] + list(LEVELS))


def fp16(words):
    return np.ascontiguousarray(words).view(np.float16).astype(np.float64)


def bits(words, n):
    """Codes of n bits of each word, the first lowest, along a new last axis."""
    return words[..., None] >> np.arange(0, 32, n, dtype=np.uint32) & (1 << n) - 1


def dealt(words, n):
    """The same of codes that are dealt to a word's bytes."""
    return words[..., None] >> np.array([j % 4 * 8 + j // 4 * n for j in range(32 // n)], np.uint32) & (1 << n) - 1


def codes_of(name, w, rows, columns):
    """(codes [rows, columns], the words after them) of words [columns / per][words of a group][rows]."""
    if name == "q6":
        groups = w[:columns // 16 * 3 * rows].reshape(columns // 16, 3, rows)
        upper = dealt(groups[:, :2], 4).transpose(2, 0, 1, 3).reshape(rows, columns)
        return upper * 4 + dealt(groups[:, 2], 2).transpose(1, 0, 2).reshape(rows, columns), w[columns // 16 * 3 * rows:]
    per = 4 if name == "q8" else 8
    words = w[:columns // per * rows].reshape(columns // per, rows)
    return dealt(words, 32 // per).transpose(1, 0, 2).reshape(rows, columns), w[columns // per * rows:]


def numbers(words, name):
    """The numbers in words, the first in the low half, along the last axis."""
    found = np.ascontiguousarray(words).view(PLAIN[name])
    return (found.astype(np.uint32) << 16).view(np.float32) if name == "bf16" else found.astype(np.float64)


def affine(codes, words, axis):
    """codes [P][D] times the scale in a word's low half, plus the offset in its high half, along an axis."""
    scale, offset = (np.expand_dims(x, axis) for x in fp16(words[:, None]).T)
    return codes * scale + offset


def read_k(name, w):
    """[P, D] of the words of K's part."""
    if name in PLAIN:
        per = 4 // np.dtype(PLAIN[name]).itemsize
        return numbers(w.reshape(D // per, P).T, name)
    codes, rest = codes_of(name, w, P, D)
    if name != "q4":
        return affine(codes, rest, 0)
    rest = fp16(rest)
    scales, mean, outlier = rest[:P], rest[P:P + D], rest[P + D:]
    x = BOTH[codes] * scales[:, None]
    (far,) = np.nonzero((scales == 0) & np.signbit(scales))
    x[far] = outlier
    return (x + mean) @ HADAMARD


def read_v(name, w):
    if name in PLAIN:
        return numbers(w.reshape(P, -1), name)
    codes, rest = codes_of(name, w, D, P)
    return affine(codes.T, rest, 1) if name != "q4" else BOTH[codes.T] * fp16(rest)[:, None] @ HADAMARD


@pytest.mark.parametrize("name", ["f32", "f16", "bf16", "q8", "q6", "a4", "q4"])
def test_records_are_laid_out_as_record_md_says(name):
    made = page_format(name)
    mx.random.seed(1)
    k, v = mx.random.normal((P, D)), mx.random.normal((P, D))
    record = np.array(made.encode(k, v))
    at = made.k.words(P, D)
    wanted = [np.array(x) for x in made.decode(mx.array(record), P, D, D)]
    found = read_k(name, record[:at]), read_v(name, record[at:at + made.v.words(P, D)])
    for got, want in zip(found, wanted):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
    assert not record[at + made.v.words(P, D):].any() and record.size * 4 % 128 == 0


@pytest.mark.parametrize("name", ["q3", "q2"])
def test_rotated_v_of_few_bits_is_laid_out_as_record_md_says(name):
    encoding, wide = page_format(name).v, name == "q3"
    mx.random.seed(3)
    words = np.array(encoding.encode(mx.random.normal((P, D))))
    n = 3 if wide else 2
    groups = words[:D // 32 * n * P].reshape(-1, n, 32).transpose(0, 2, 1).reshape(P, D // 32, n)
    codes = sum(bits(groups[..., i], 1).astype(int) << i for i in range(n))               # [P, D / 32, 32]
    indices = np.stack([levels_on_a_path(row) for row in codes.reshape(-1, 32)]).reshape(P, D)
    gains = bits(words[-P // 4:], 8).reshape(P, 1)
    levels = lloyd.LEVELS[n]
    found = (np.array([-x for x in reversed(levels)] + list(levels))[indices] * 2.0 ** ((gains.astype(np.float64) - 160) / 8)) @ HADAMARD
    np.testing.assert_allclose(found, np.array(encoding.decode(mx.array(words), P, D)), rtol=2e-5, atol=2e-5)


def levels_on_a_path(codes):
    """Numbers of levels, of codes one after the other."""
    path, found = [0, 0, 0], []
    for code in codes:
        u, r = int(code) & 1, int(code) >> 1
        found.append(4 * r + path[-2] + 2 * (u ^ path[-1] ^ path[-3]))
        path.append(u)
    return found


def turned(x, positions, frequencies):
    """x [P, D], neighbours turned together by positions [P] times frequencies [D / 2]."""
    z = (x[:, 0::2] + 1j * x[:, 1::2]) * np.exp(1j * np.outer(positions, frequencies))
    return np.stack([z.real, z.imag], -1).reshape(x.shape)


def read_calibrated_k(w, fitted, planes, page):
    """([P, D] of the words of one head's K part: page number `page` of its sequence; what they say of V [P, DV])."""
    words = w[:P // 32 * planes].reshape(P // 32, planes)
    each = (words[:, None] >> np.arange(32, dtype=np.uint32)[:, None] & 1).reshape(P, planes).astype(int)
    byte = bits(w[P // 32 * planes:], 8).reshape(P).astype(np.float64)
    like = (byte > 0) & (byte < 64)
    gains = 2.0 ** np.where(like, (byte - 48) / 8, (byte - 128) / 16)
    inverse = fitted["inverse"][0]
    size = inverse.shape[-1]
    found, at, paths = np.zeros((P, D)), 0, {}
    for d, width in enumerate(allocate(fitted["variances"][0].astype(np.float64), planes)):
        codes = each[:, at:at + width] @ (1 << np.arange(width))
        at += width
        if width == 8:
            found[:, d] = (codes - 128) * 2 * fitted["span"][0] / 254
        elif width == 5:
            found[:, d] = fitted["levels"][0][60 + codes] * gains
        elif width:
            paths.setdefault(d // size, []).append((d, width, codes))
    assert at == planes
    for path in paths.values():
        indices = np.stack([levels_on_a_path(row) for row in np.stack([c for _, _, c in path], axis=1)])
        for (d, width, _), index in zip(path, indices.T):
            found[:, d] = fitted["levels"][0][2 ** (width + 1) - 4 + index] * gains
    found = np.concatenate([found[:, b * size:(b + 1) * size] @ m.T for b, m in enumerate(inverse)], axis=1)
    of_v = found @ fitted["value_map"][0].T + np.where(like[:, None], fitted["first_value"][0], fitted["value_mean"][0])
    found += fitted["mean"][0]
    found[like] += fitted["first"][0]
    out = np.zeros((P, D))
    out[:, fitted["order"]] = turned(found, page * P + np.arange(P), fitted["frequencies"])
    return out, of_v


@pytest.mark.parametrize("page", [0, 3])
@pytest.mark.parametrize("name", ["q3", "q2", "k:q3:block=16,v:q4"])
def test_calibrated_k_is_laid_out_as_record_md_says(name, page):
    made = made_up(parse_kv(name).format, 1, D, D, P, 8)
    mx.random.seed(4)
    k, at = mx.random.normal((1, P, D)), mx.array(page)
    words = np.array(made.k.encode(k, at))
    wanted = np.array(made.k.decode(mx.array(words), P, D, at))[0]
    found, of_v = read_calibrated_k(words[0], made.k.tables.fitted, int(made.k.bits * D), page)
    np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-4)
    if made.given:
        record = made.encode(k, k, at)
        v = made.v.decode(record[..., words.shape[1]:words.shape[1] + made.v.words(P, D)], P, D) + mx.array(of_v.astype(np.float32))
        np.testing.assert_allclose(np.array(made.decode(record, P, D, D, at)[1]), np.array(v), rtol=1e-3, atol=1e-3)


def test_the_mixed_formats_k_is_laid_out_as_record_md_says():
    made = page_format("mixed")
    mx.random.seed(2)
    k = mx.random.normal((P, D)) * mx.linspace(0.5, 2, D)
    record, high = np.array(made.encode(k, k)), 16
    order = bits(record[:D // 4], 8).reshape(-1)
    at = D // 4
    plain = fp16(record[at:at + high // 2 * P].reshape(high // 2, P).T)
    at += high // 2 * P
    words = record[at:at + (D - high) // 8 * P].reshape((D - high) // 8, P)
    codes = dealt(words, 4).transpose(1, 0, 2).reshape(P, D - high)
    at += (D - high) // 8 * P
    found = np.zeros((P, D))
    found[:, order] = np.concatenate([plain, affine(codes, record[at:at + D - high], 0)], axis=1)
    np.testing.assert_allclose(found, np.array(made.decode(mx.array(record), P, D, D)[0]), rtol=2e-5, atol=2e-5)
