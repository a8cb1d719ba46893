"""The NumPy cache against plain loops: attention, chunking, paging, sharing, rounding, and page accounting."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.oracle import FloatPages, Int8Pages, paged_attention, round_trip, scratch
from hypothesis import given, settings
from hypothesis import strategies as st

EXAMPLE = Path(scratch.__file__)
FORMS = {"exact": FloatPages("f8"), "fp16": FloatPages("f2"), "int8": Int8Pages()}
quick = settings(max_examples=30)

heads = st.sampled_from([(1, 1), (4, 4), (4, 1), (6, 2), (5, 1), (6, 3)])  # (query heads, KV heads)
forms = st.sampled_from(sorted(FORMS))
seeds = st.integers(0, 2**32 - 1)


def tensors(seed, tokens, n_heads, kv_heads, dim=4, v_dim=None):
    """Random q, k, v of one sequence; some key channels are large, as in real models."""
    random = np.random.default_rng(seed)
    shapes = (n_heads, dim), (kv_heads, dim), (kv_heads, v_dim or dim)
    q, k, v = (random.normal(size=(tokens, *shape)) for shape in shapes)
    return q, k + 3 * random.normal(size=dim), v


def cuts(seed, total):
    """A random way to cut `total` tokens into chunks, as a list of slices."""
    random = np.random.default_rng(seed)
    edges = sorted({0, total, *random.integers(0, total + 1, size=random.integers(0, 6)).tolist()})
    return [slice(a, b) for a, b in zip(edges, edges[1:])]


def by_loops(q, positions, key_of, value_of, window=None, sinks=None, scale=None):
    """Attention written with loops over tokens, heads and keys; key_of(p, i, kv_head) is key i as token p reads it."""
    n_heads, dim = q.shape[1:]
    kv_heads, v_dim = value_of(0, 0, None).shape
    out = np.zeros((len(q), n_heads, v_dim))
    for row, p in enumerate(positions):
        seen = [i for i in range(p + 1) if window is None or i > p - window]
        for h in range(n_heads):
            kv = h // (n_heads // kv_heads)
            factor = 1 / math.sqrt(dim) if scale is None else scale
            weights = [math.exp(factor * float(q[row, h] @ key_of(p, i, kv))) for i in seen]
            total = sum(weights) + (math.exp(sinks[h]) if sinks is not None else 0.0)
            out[row, h] = sum(w / total * value_of(p, i, kv) for w, i in zip(weights, seen))
    return out


def plain_loops(q, k, v, **options):
    def value(_, i, h):
        return v[i] if h is None else v[i, h]

    return by_loops(q, range(len(q)), lambda _, i, h: k[i, h], value, **options)


def causal_attention(q, k, v, window=None, sinks=None, scale=None):
    return scratch.attention(q, k, v, scratch.causal(np.arange(len(q)), len(k), window), scale, sinks)


# Attention


@quick
@given(seeds, heads, st.integers(1, 9), st.sampled_from([None, 1, 3, 20]), st.booleans(), st.sampled_from([None, 0.7]))
def test_attention_equals_loops(seed, shape, tokens, window, with_sinks, scale):
    q, k, v = tensors(seed, tokens, *shape, v_dim=3)
    sinks = np.random.default_rng(seed).normal(size=shape[0]) if with_sinks else None
    got = causal_attention(q, k, v, window, sinks, scale)
    np.testing.assert_allclose(got, plain_loops(q, k, v, window=window, sinks=sinks, scale=scale), atol=1e-12)


def test_grouped_heads_equal_repeated_heads():
    q, k, v = tensors(0, 12, 12, 3)
    repeated = causal_attention(q, np.repeat(k, 4, axis=1), np.repeat(v, 4, axis=1))
    np.testing.assert_allclose(causal_attention(q, k, v), repeated, atol=1e-12)


def test_batch_axes_equal_single_calls():
    rows = [tensors(seed, 5, 4, 2) for seed in range(3)]
    q, k, v = (np.stack(x) for x in zip(*rows))
    got = causal_attention(q[0], k[0], v[0])
    np.testing.assert_allclose(scratch.attention(q, k, v, scratch.causal(np.arange(5), 5)[None])[0], got, atol=1e-12)


def test_large_scores_neither_overflow_nor_lose_the_answer():
    q, k, v = tensors(1, 6, 2, 2)
    with np.errstate(all="raise", under="ignore"):
        got = causal_attention(1e4 * q, k, v)
    best = [[v[max(range(t + 1), key=lambda i: q[t, h] @ k[i, h]), h] for h in range(2)] for t in range(6)]
    np.testing.assert_allclose(got, best, atol=1e-6)


def test_a_token_that_sees_nothing_gives_zeros():
    q, k, v = tensors(2, 3, 2, 1)
    for sinks in (None, np.zeros(2)):
        out = scratch.attention(q, k, v, np.zeros((3, 3), bool), sinks=sinks)
        assert np.array_equal(out, np.zeros_like(q))
    assert scratch.attention(q, k[:0], v[:0], np.zeros((3, 0), bool)).tolist() == np.zeros_like(q).tolist()


def test_a_sink_takes_its_share():
    """One key with score 0 against a sink of logit log(3): the key keeps a quarter."""
    out = scratch.attention(np.zeros((1, 1, 2)), np.zeros((1, 1, 2)), np.full((1, 1, 2), 8.0), np.ones((1, 1), bool),
                            sinks=[math.log(3)])
    np.testing.assert_allclose(out, 2.0)


# The contiguous cache


@quick
@given(seeds, heads, st.integers(1, 12), seeds)
def test_contiguous_chunks_and_decode_equal_recomputation(seed, shape, tokens, cut_seed):
    q, k, v = tensors(seed, tokens, *shape)
    expected = plain_loops(q, k, v)
    cache = scratch.ContiguousCache(2, tokens, shape[1], 4)
    got = np.concatenate([cache.extend(1, q[c], k[c], v[c]) for c in cuts(cut_seed, tokens)])
    np.testing.assert_allclose(got, expected, atol=1e-12)
    assert cache.lengths.tolist() == [0, tokens]


def test_contiguous_decode_of_a_ragged_batch():
    lengths, total = [0, 3, 9], 12
    rows = [tensors(seed, total, 4, 2) for seed in range(3)]
    cache = scratch.ContiguousCache(3, total, 2, 4)
    for row, ((_, k, v), n) in enumerate(zip(rows, lengths)):
        cache.append(row, k[:n], v[:n])
    for step in range(3):
        q, k, v = (np.stack([rows[b][i][lengths[b] + step] for b in range(3)]) for i in range(3))
        out = cache.decode(q, k, v)
        for b in range(3):
            expected = plain_loops(*rows[b])[lengths[b] + step]
            np.testing.assert_allclose(out[b], expected, atol=1e-12)


def test_contiguous_refuses_what_does_not_fit():
    cache = scratch.ContiguousCache(1, 4, 1, 2)
    cache.append(0, np.ones((3, 1, 2)), np.ones((3, 1, 2)))
    with pytest.raises(MemoryError, match="holds 4 tokens; 5 do not fit"):
        cache.append(0, np.ones((2, 1, 2)), np.ones((2, 1, 2)))
    assert cache.lengths.tolist() == [3]


# The oracle


@quick
@given(seeds, heads, st.integers(1, 14), st.sampled_from([1, 2, 4, 5]), forms, st.sampled_from([None, 1, 4]),
       st.booleans())
def test_oracle_equals_loops(seed, shape, tokens, page, form, window, with_sinks):
    """Earlier pages as stored, the own page exactly, for every key of every token one by one."""
    q, k, v = tensors(seed, tokens, *shape, v_dim=3)
    sinks = np.random.default_rng(seed).normal(size=shape[0]) if with_sinks else None
    stored = round_trip(FORMS[form])

    def read(which, p, i, head):
        start = i // page * page
        if i // page == p // page:
            value = (k, v)[which][i]
        else:
            value = stored(k[start : start + page], v[start : start + page])[which][i - start]
        return value if head is None else value[head]

    positions = np.random.default_rng(seed).permutation(tokens)
    expected = by_loops(q[positions], positions, lambda *a: read(0, *a), lambda *a: read(1, *a), window, sinks)
    got = paged_attention(q[positions], k, v, positions, page, stored, window, sinks)
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_oracle_with_exact_pages_is_plain_attention():
    q, k, v = tensors(3, 20, 4, 2)
    np.testing.assert_allclose(paged_attention(q, k, v, np.arange(20), 8), causal_attention(q, k, v), atol=1e-12)


def test_oracle_takes_the_newest_tokens_alone_and_leaves_its_inputs():
    q, k, v = (x.astype(np.float32) for x in tensors(4, 20, 4, 2))
    kept = k.copy(), v.copy()
    stored = round_trip(FORMS["int8"])
    whole = paged_attention(q, k, v, np.arange(20), 4, stored)
    last = paged_attention(q[17:], k, v, [17, 18, 19], 4, stored)
    assert last.dtype == np.float64
    np.testing.assert_allclose(last, whole[17:], atol=1e-12)
    assert np.array_equal(k, kept[0]) and np.array_equal(v, kept[1])


@pytest.mark.parametrize("position", [-1, 20])
def test_oracle_refuses_positions_outside_the_history(position):
    q, k, v = tensors(5, 20, 2, 2)
    with pytest.raises(ValueError, match=r"must lie in 0 \.\. 19"):
        paged_attention(q[:1], k, v, [position], 4)


# The paged cache


@quick
@given(seeds, heads, st.integers(0, 40), st.sampled_from([1, 3, 8]), forms, seeds, st.sampled_from([None, 5]))
def test_paged_cache_equals_oracle_in_any_chunks(seed, shape, tokens, page, form, cut_seed, window):
    q, k, v = tensors(seed, tokens, *shape)
    cache = scratch.PagedCache(41, 1, page, shape[1], 4, FORMS[form])
    sequence, out = cache.open(), np.zeros_like(q)
    for c in cuts(cut_seed, tokens):
        out[c] = cache.extend(sequence, q[c], k[c], v[c], window)
        assert cache.check() == (c.stop // page, 41 - c.stop // page)
    expected = paged_attention(q, k, v, np.arange(tokens), page, round_trip(FORMS[form]), window)
    np.testing.assert_allclose(out, expected, atol=1e-12)
    assert len(sequence.table) == tokens // page


def test_paged_decode_of_a_ragged_batch():
    starts, page = [0, 7, 8, 15], 8
    rows = [tensors(seed, 30, 4, 2) for seed in range(4)]
    cache = scratch.PagedCache(16, 4, page, 2, 4, FORMS["int8"])
    sequences = [cache.open() for _ in rows]
    for sequence, (q, k, v), n in zip(sequences, rows, starts):
        cache.extend(sequence, q[:n], k[:n], v[:n])
    stored = round_trip(FORMS["int8"])
    expected = [paged_attention(*row, np.arange(30), page, stored) for row in rows]
    for step in range(10):
        at = [n + step for n in starts]
        q, k, v = (np.stack([rows[b][i][at[b]] for b in range(4)]) for i in range(3))
        out = cache.decode(sequences, q, k, v)
        np.testing.assert_allclose(out, [expected[b][at[b]] for b in range(4)], atol=1e-12)
    assert cache.check()[0] == sum((n + 10) // page for n in starts)


@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_fork_shares_pages_and_then_goes_its_own_way(form):
    q, k, v = tensors(6, 30, 4, 2)
    other_q, other_k, other_v = tensors(7, 30, 4, 2)
    cache = scratch.PagedCache(16, 2, 8, 2, 4, FORMS[form])
    parent = cache.open()
    cache.extend(parent, q[:19], k[:19], v[:19])
    before = cache.pool[parent.table].tobytes()
    child = cache.fork(parent)
    assert child.table == parent.table and cache.check() == (2, 14)  # no page was copied
    left = cache.extend(parent, q[19:], k[19:], v[19:])
    right = cache.extend(child, other_q[19:], other_k[19:], other_v[19:])
    stored = round_trip(FORMS[form])
    np.testing.assert_allclose(left, paged_attention(q[19:], k, v, np.arange(19, 30), 8, stored), atol=1e-12)
    k, v = np.concatenate([k[:19], other_k[19:]]), np.concatenate([v[:19], other_v[19:]])
    np.testing.assert_allclose(right, paged_attention(other_q[19:], k, v, np.arange(19, 30), 8, stored), atol=1e-12)
    assert cache.pool[parent.table[:2]].tobytes() == before  # a sealed page never changes
    assert cache.check() == (4, 12)
    cache.close(parent)
    assert cache.check() == (3, 13)
    cache.close(child)
    assert cache.check() == (0, 16)


@quick
@given(st.lists(st.tuples(st.sampled_from(["open", "fork", "close", "extend"]), st.integers(0, 50)), max_size=40))
def test_pages_are_conserved_whatever_happens(actions):
    cache = scratch.PagedCache(6, 3, 2, 1, 2, FORMS["fp16"])
    for action, n in actions:
        live = cache.sequences
        chosen = live[n % len(live)] if live else None
        lengths = [(s.length, list(s.table)) for s in live]
        try:
            if action == "open":
                cache.open()
            elif chosen and action == "extend":
                cache.extend(chosen, *np.ones((3, n % 6, 1, 2)))
            elif chosen:
                getattr(cache, action)(chosen)
        except MemoryError:
            assert [(s.length, s.table) for s in cache.sequences] == lengths  # a refusal changes nothing
        assert sum(cache.check()) == 6
        assert len(cache.sequences) + len(cache.free_slots) == 3
        assert all(len(s.table) == s.length // 2 for s in cache.sequences)
    for sequence in list(cache.sequences):
        cache.close(sequence)
    assert cache.check() == (0, 6)


def test_paged_cache_says_what_is_short():
    cache = scratch.PagedCache(2, 1, 4, 1, 2)
    sequence = cache.open()
    with pytest.raises(MemoryError, match="3 pages are needed and 2 of 2 are free"):
        cache.extend(sequence, *np.ones((3, 12, 1, 2)))
    assert sequence.length == 0 and cache.check() == (0, 2)
    cache.extend(sequence, *np.ones((3, 11, 1, 2)))  # two pages and a tail
    with pytest.raises(MemoryError, match="all 1 tail slots are in use"):
        cache.open()


@pytest.mark.parametrize("damage, message", [
    (lambda c, s: c.free_pages.append(s.table[0]), "each once"),
    (lambda c, s: c.free_pages.pop(), "each once"),
    (lambda c, s: s.table.pop(), "reference count"),
    (lambda c, s: c.references.__setitem__(s.table[0], 2), "reference count"),
])
def test_check_finds_damage(damage, message):
    cache = scratch.PagedCache(4, 1, 2, 1, 2)
    sequence = cache.open()
    cache.extend(sequence, *np.ones((3, 5, 1, 2)))
    assert cache.check() == (2, 2)
    damage(cache, sequence)
    with pytest.raises(RuntimeError, match=message):
        cache.check()


# Page formats and bytes


@quick
@given(seeds, st.integers(1, 20), st.integers(1, 3), st.integers(1, 8), st.sampled_from([1e-3, 1.0, 100.0]),
       st.sampled_from([0.0, 5.0, -300.0]))
def test_int8_error_is_half_a_step(seed, page, kv_heads, dim, size, shift):
    """Half a step of the code, plus what rounding zero to fp16 (11 bits) can clip at the ends."""
    random = np.random.default_rng(seed)
    k, v = shift + size * random.normal(size=(2, page, kv_heads, dim))
    k_read, v_read = round_trip(FORMS["int8"])(k, v)
    for x, read, axis in ((k, k_read, 0), (v, v_read, 2)):
        low, high = x.min(axis, keepdims=True), x.max(axis, keepdims=True)
        half_step = 0.5 * (high - low) / 255
        assert (np.abs(read - x) <= half_step * 1.01 + np.abs(low) * 2.0**-11 + 1e-5).all()


def test_int8_scales_follow_channels_of_k_and_tokens_of_v():
    """An outlier spoils only its own channel of K, and only its own token of V."""
    random = np.random.default_rng(8)
    k, v = random.normal(size=(2, 16, 2, 8))
    k[:, :, 3] *= 1000
    v[5] *= 1000
    k_read, v_read = round_trip(FORMS["int8"])(k, v)
    k_error, v_error = np.abs(k_read - k), np.abs(v_read - v)
    assert k_error[:, :, 3].max() > 0.5 and np.delete(k_error, 3, axis=2).max() < 0.02
    assert v_error[5].max() > 0.5 and np.delete(v_error, 5, axis=0).max() < 0.02


def test_int8_keeps_constants_of_fp16_exactly():
    k = v = np.full((4, 1, 3), -1.5)
    k_read, v_read = round_trip(FORMS["int8"])(k, v)
    assert np.array_equal(k_read, k) and np.array_equal(v_read, v)


def test_float_pages_round_once():
    k, v = np.random.default_rng(9).normal(size=(2, 4, 2, 3))
    assert all(np.array_equal(a, b) for a, b in zip(round_trip(FORMS["exact"])(k, v), (k, v)))
    assert all(np.array_equal(a, b.astype(np.float16)) for a, b in zip(round_trip(FORMS["fp16"])(k, v), (k, v)))


def test_bytes():
    full, grouped = (scratch.cache_bytes(8192, 32, kv, 128) for kv in (32, 4))
    assert full == 2 * 2 * 8192 * 32 * 32 * 128 and 1 - grouped / full == 0.875
    assert scratch.cache_bytes(65, 1, 1, 8) == scratch.cache_bytes(128, 1, 1, 8)  # whole pages
    page = 64 * 8 * 2 + 8 * 4 + 64 * 4  # codes of K and V; two fp16 a channel; two fp16 a token
    assert scratch.cache_bytes(64, 1, 1, 8, Int8Pages()) == page
    assert scratch.PagedCache(3, 1, 64, 1, 8, Int8Pages()).pool.nbytes == 3 * page


# As a newcomer runs it


def test_the_example_runs_on_numpy_alone_and_prints_the_saving():
    banned = "import sys; sys.modules.update(dict.fromkeys(['mlx', 'mlxr', 'torch', 'scipy'])); "
    run = f"import runpy; runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", banned + run], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "5,050 without a cache, 100 with it" in result.stdout
    assert "8 pages allocated + 12 free = 20" in result.stdout
    grouped = next(line for line in result.stdout.splitlines() if line.strip().startswith("4 KV heads"))
    assert "512 MiB (87.5% saved)" in grouped
    assert len(EXAMPLE.read_text().splitlines()) < 300
