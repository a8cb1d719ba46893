"""The sampler against plain NumPy in fp64: penalties, filters, draws, seeds, logprobs, extreme logits, bad values."""

import dataclasses
import math

import mlxr  # noqa: F401  (first: it decides which BLAS MLX uses)
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxr.errors import RequestError
from mlxr.kernels import library
from mlxr.sampler import draw_key, draw_number, sample
from mlxr.scheduler import Work
from mlxr.sequence import MAX_LOGPROBS, SamplingParams, Sequence, Status

VOCABULARY = 37


@pytest.fixture(autouse=True, params=["kernel", "twin"])
def way(request):
    """Everything here holds for the kernel draw and for its twin."""
    if request.param == "kernel":
        yield
    else:
        with library.aside():
            yield


def work(params, prompt=(1,), generated=(), source=-1, seed=0):
    """A work that samples; source >= 0: the newest token is on the device, in that row of the last step's tokens."""
    sequence = Sequence(list(prompt), params, 10_000, seed=seed)
    sequence.tokens += generated
    total = len(sequence.tokens) + (source >= 0)
    return Work(sequence, total - 1, 1, True, source, 0, [])


def logits_of(rows, vocabulary=VOCABULARY, seed=0, scale=3.0):
    return (np.random.default_rng(seed).normal(size=(rows, vocabulary)) * scale).astype(np.float32)


# ------------------------------------------------------------------ the reference: one row, fp64, step by step

def reference_logits(raw, params, prompt, generated):
    """What bias and penalties make of one row. generated: with the token on the device."""
    out = raw.astype(np.float64).copy()
    for token, bias in (params.logit_bias or {}).items():
        out[token] += bias
    context = params.repetition_context
    for token in set((list(prompt) + list(generated))[-context:] if context else []):
        out[token] *= 1 / params.repetition_penalty if out[token] > 0 else params.repetition_penalty
    for token in set(generated):
        out[token] -= params.presence_penalty + params.frequency_penalty * list(generated).count(token)
    return out


def reference_probabilities(logits, params):
    """The probabilities that one row is drawn from."""
    p = np.exp(logits - logits.max())
    p /= p.sum()
    order = sorted(range(len(p)), key=lambda t: (-p[t], t))
    keep, mass = set(), 0.0
    for rank, token in enumerate(order):
        if (not params.top_k or rank < params.top_k) and (params.top_p == 1 or mass < params.top_p) or rank == 0:
            keep.add(token)
        mass += p[token]
    keep = [t for t in keep if p[t] >= params.min_p * p.max()]
    out = np.zeros(len(p))
    hot = logits[keep] / params.temperature
    out[keep] = np.exp(hot - hot.max())
    return out / out.sum()


def draws(row, params, n, **kw):
    """n draws of one row of logits, each with a seed of its own."""
    works = [work(params, seed=s, **kw) for s in range(n)]
    return np.array(sample(mx.array(np.broadcast_to(row, (n, len(row)))), works).tokens)


def chi_square_is_small(counts, expected):
    """Whether counts could come from these expectations: 6 sigma of the statistic, cells below 5 together."""
    big = expected >= 5
    counts = np.append(counts[big], counts[~big].sum())
    expected = np.append(expected[big], expected[~big].sum())
    used = expected > 1e-9
    statistic = ((counts[used] - expected[used]) ** 2 / expected[used]).sum()
    freedom = max(1, used.sum() - 1)
    return statistic < freedom + 6 * math.sqrt(2 * freedom)


# ------------------------------------------------------------------ bias and penalties

PENALTIES = [
    SamplingParams(logit_bias={3: 5.0, 9: -4.0, 36: 30.0}),
    SamplingParams(logit_bias={0: math.inf}), SamplingParams(logit_bias=dict.fromkeys(range(1, VOCABULARY), -math.inf)),
    SamplingParams(repetition_penalty=1.7), SamplingParams(repetition_penalty=0.5, repetition_context=3),
    SamplingParams(repetition_penalty=8.0, repetition_context=1),
    SamplingParams(repetition_penalty=8.0, repetition_context=0),
    SamplingParams(presence_penalty=2.0), SamplingParams(presence_penalty=-2.0), SamplingParams(frequency_penalty=2.0),
    SamplingParams(frequency_penalty=-1.5, presence_penalty=0.5),
    SamplingParams(repetition_penalty=1.3, presence_penalty=1.0, frequency_penalty=1.0, logit_bias={5: 3.0},
                   repetition_context=4),
    SamplingParams(),
]


@pytest.mark.parametrize("logprobs", [None, 0])
def test_a_bias_changes_what_it_is_given_only_where_nobody_reads_that(logprobs):
    """In place on the CPU, unless logprobs are wanted, which are those of the model itself."""
    logits = mx.array(logits_of(3, vocabulary=64))
    before = np.array(logits)
    params = [SamplingParams(temperature=0, logit_bias={5: 100.0, 7: 3}, logprobs=logprobs), SamplingParams(temperature=0),
              SamplingParams(temperature=0, logit_bias={9: 50.0})]
    sampled = sample(logits, [work(p) for p in params])
    assert sampled.tokens.tolist() == [5, int(before[1].argmax()), 9]
    changed = np.argwhere(np.array(logits) != before).tolist()
    assert changed == ([] if logprobs is not None or library.backend() != "host" else [[0, 5], [0, 7], [2, 9]])


@pytest.mark.parametrize("on_device", [False, True])
def test_greedy_with_bias_and_penalties_in_one_batch(on_device):
    """Each row its own params and history; the newest token known, or still on the device."""
    rng = np.random.default_rng(3)
    changed = 0
    for trial in range(12):
        raw = logits_of(len(PENALTIES), seed=trial, scale=2.0)
        histories = [[rng.integers(0, high, rng.integers(1, 9)).tolist() for high in (VOCABULARY, 9)]
                     for _ in PENALTIES]
        rows = rng.permutation(len(PENALTIES)).tolist()
        previous = np.zeros(len(PENALTIES), np.int32)
        works = []
        for i, (params, (prompt, generated)) in enumerate(zip(PENALTIES, histories)):
            # A likely newest token, so that penalties on it decide something.
            generated[-1] = int(raw[i].argmax()) if trial % 2 else generated[-1]
            previous[rows[i]] = generated[-1]
            works.append(work(params, prompt, *([generated[:-1], rows[i]] if on_device else [generated])))
        ours = np.array(sample(mx.array(raw), works, mx.array(previous)).tokens)
        expected = [int(reference_logits(r, p, *h).argmax()) for r, p, h in zip(raw, PENALTIES, histories)]
        assert ours.tolist() == expected
        changed += sum(e != r.argmax() for e, r in zip(expected, raw))
    assert changed > 30                      # the penalties did decide


def test_a_guide_bounds_its_own_row_of_a_greedy_batch():
    """Nothing else in the batch asks for more than the most likely token."""
    class Evens:
        def mask(self):
            return np.full(2, 0x55555555, np.uint32)

    logits = logits_of(3)
    logits[:, 5] = 50.0
    works = [work(SamplingParams()) for _ in range(3)]
    works[1].sequence.guide = Evens()
    tokens = np.array(sample(mx.array(logits), works).tokens)
    assert tokens.tolist() == [5, 2 * int(np.argmax(logits[1, ::2])), 5]
    works[1].sequence.status = Status.FINISHED           # after its step was planned: its guide can say nothing any more
    assert sample(mx.array(logits), works).tokens.tolist() == [5, 5, 5]


def test_a_repetition_context_of_none_penalises_nothing():
    """Not even the token that is still on the device."""
    raw = logits_of(1)
    best = int(raw.argmax())
    params = SamplingParams(repetition_penalty=100.0, repetition_context=0)
    ours = sample(mx.array(raw), [work(params, source=0)], mx.array([best], dtype=mx.int32)).tokens.item()
    assert ours == best


# ------------------------------------------------------------------ filters and temperature

FILTERS = [
    SamplingParams(temperature=1.0), SamplingParams(temperature=0.4), SamplingParams(temperature=2.5),
    SamplingParams(temperature=1.0, top_k=1), SamplingParams(temperature=1.5, top_k=4),
    SamplingParams(temperature=1.0, top_k=500),
    SamplingParams(temperature=1.0, top_p=0.6), SamplingParams(temperature=2.0, top_p=0.9),
    SamplingParams(temperature=1.0, top_p=1e-6),
    SamplingParams(temperature=1.0, min_p=0.1), SamplingParams(temperature=3.0, min_p=1.0),
    SamplingParams(temperature=1.2, top_k=6, top_p=0.8, min_p=0.05),
    SamplingParams(temperature=0.8, top_p=0.95, logit_bias={2: 4.0, 7: -math.inf}),
    SamplingParams(temperature=1.0, top_k=5, repetition_penalty=1.5, frequency_penalty=0.7, presence_penalty=0.2),
]


def changes(params):
    """A short name for a test: what differs from the defaults."""
    values = ((f.name, getattr(params, f.name), f.default) for f in dataclasses.fields(params))
    return " ".join(f"{name}={value}" for name, value, default in values if value != default)


@pytest.mark.parametrize("params", FILTERS, ids=changes)
def test_draws_follow_the_distribution(params):
    row, n = logits_of(1, 23, seed=5, scale=1.5)[0], 20_000
    prompt, generated = [4, 5, 6], [2, 2, 9]
    expected = reference_probabilities(reference_logits(row, params, prompt, generated), params)
    counts = np.bincount(draws(row, params, n, prompt=prompt, generated=generated), minlength=23)
    assert not counts[expected == 0].any(), "a token that the filters exclude was drawn"
    assert chi_square_is_small(counts, n * expected)


def test_the_distribution_test_can_fail():
    row, n = logits_of(1, 23, seed=5, scale=1.5)[0], 20_000
    counts = np.bincount(draws(row, SamplingParams(temperature=1.0), n), minlength=23)
    other = reference_probabilities(row.astype(np.float64), SamplingParams(temperature=1.15))
    assert not chi_square_is_small(counts, n * other)


def test_rows_of_a_batch_do_not_touch_each_other():
    """Different params in every row, hot and greedy mixed: each draws what it draws alone, bit for bit, in any row."""
    everyone = FILTERS + PENALTIES
    raw, rng = logits_of(len(everyone)), np.random.default_rng(0)
    works = [work(p, [3, 4], [i % 7, 5], seed=100 + i) for i, p in enumerate(everyone)]
    alone = [sample(mx.array(raw[i:i + 1]), [w]).tokens.item() for i, w in enumerate(works)]
    for _ in range(5):
        order = rng.permutation(len(everyone))[:rng.integers(2, len(everyone) + 1)]
        together = sample(mx.array(raw[order]), [works[i] for i in order]).tokens.tolist()
        assert together == [alone[i] for i in order]
    assert alone[-1] == raw[-1].argmax()


@settings(max_examples=60)
@given(st.integers(0, 12), st.floats(0.05, 1), st.floats(0, 1), st.integers(0, 10_000))
def test_no_filter_lets_through_what_it_excludes(top_k, top_p, min_p, seed):
    """Also with ties: of equally likely tokens, exactly as many stay as the filter says, the lower ids first."""
    row = np.round(logits_of(1, 12, seed=seed, scale=1.0)[0])
    params = SamplingParams(temperature=50.0, top_k=top_k, top_p=top_p, min_p=min_p)
    p = np.sort(np.exp(row.astype(np.float64)) / np.exp(row.astype(np.float64)).sum())
    cuts = [*(np.cumsum(p[::-1]) - top_p), *(p / p.max() - min_p)]
    if min(map(abs, cuts)) < 1e-5:
        return                               # too close to call in fp32
    drawn = set(draws(row, params, 400).tolist())
    assert drawn <= set(np.flatnonzero(reference_probabilities(row.astype(np.float64), params)))


# ------------------------------------------------------------------ seeds

def test_keys_are_unique():
    seeds = [0, 1, 2, 2**31, 2**32, 2**63, 2**64 - 1, *range(10, 50)]
    keys = {draw_key(seed, index) for seed in seeds for index in range(2000)}
    assert len(keys) == 47 * 2000
    assert all(0 <= key < 2**64 for key in keys)
    assert all(0 <= draw_number(seed, 3) < 1 for seed in seeds)


def test_a_draw_depends_on_seed_and_index_alone():
    row, params = np.zeros(5000, np.float32), SamplingParams(temperature=1.0)
    same = {draws_at(row, params, 7, 10), draws_at(row, params, 7, 10), draws_at(row, params, 7, 10, batch=5)}
    assert len(same) == 1
    assert len({draws_at(row, params, 7, index) for index in range(1, 60)}) > 50
    assert len({draws_at(row, params, seed, 10) for seed in range(60)}) > 50


def draws_at(row, params, seed, index, batch=1):
    works = [work(params, [1] * i, seed=s) for i, s in [(3, 1)] * (batch - 1) + [(index, seed)]]
    return sample(mx.array(np.broadcast_to(row, (batch, len(row)))), works).tokens.tolist()[-1]


def test_chunks_and_preemption_draw_the_same():
    """A token recomputed with its prompt in one chunk is drawn with the key that it had as a decode row."""
    row, params = np.zeros((1, 5000), np.float32), SamplingParams(temperature=1.0)
    decoded = work(params, [1, 2, 3], [4, 5], seed=9)
    again = dataclasses.replace(decoded, start=0, count=5)
    assert sample(mx.array(row), [decoded]).tokens.item() == sample(mx.array(row), [again]).tokens.item()


# ------------------------------------------------------------------ logprobs

@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_logprobs_are_the_models_own(dtype):
    """Before bias, penalties, filters and temperature; top n in order; rows that ask for less do not matter."""
    raw = mx.array(logits_of(4)).astype(dtype)
    asked = [SamplingParams(logprobs=5, logit_bias={1: 50.0}), SamplingParams(logprobs=0, temperature=2.0, top_k=3),
             SamplingParams(), SamplingParams(logprobs=2, repetition_penalty=3.0)]
    sampled = sample(raw, [work(p, seed=i) for i, p in enumerate(asked)])
    exact = np.array(raw.astype(mx.float32), np.float64)
    exact -= np.log(np.exp(exact).sum(-1, keepdims=True))
    tokens = np.array(sampled.tokens)
    assert tokens[0] == 1 and sampled.top_ids.shape == (4, 5) and sampled.tokens.dtype == mx.int32
    assert np.allclose(np.array(sampled.chosen), exact[np.arange(4), tokens], atol=1e-5)
    assert np.allclose(np.array(sampled.top_logprobs), -np.sort(-exact)[:, :5], atol=1e-5)
    named = np.take_along_axis(exact, np.array(sampled.top_ids), -1)
    assert np.allclose(named, np.array(sampled.top_logprobs), atol=1e-5)


def test_logprobs_of_the_chosen_alone_and_of_none():
    raw = mx.array(logits_of(1))
    chosen = sample(raw, [work(SamplingParams(logprobs=0))])
    assert chosen.chosen is not None and chosen.top_ids is None and len(chosen.arrays) == 2
    assert sample(raw, [work(SamplingParams())]).arrays[1:] == []


@pytest.mark.parametrize("n, vocabulary, ties", [(5, 4096, False), (20, 49152, False), (20, 49152, True), (3, 1536, True)])
def test_the_likeliest_of_a_large_vocabulary(n, vocabulary, ties):
    raw = logits_of(3, vocabulary)
    raw = np.round(raw) if ties else raw
    sampled = sample(mx.array(raw), [work(SamplingParams(logprobs=n)) for _ in range(3)])
    ids = np.array(sampled.top_ids)
    assert all(len(set(row)) == n for row in ids.tolist())
    assert np.array_equal(np.take_along_axis(raw, ids, -1), -np.sort(-raw)[:, :n])


def test_a_vocabulary_smaller_than_top_n():
    raw = logits_of(2, 6)
    params = [SamplingParams(logprobs=MAX_LOGPROBS), SamplingParams(temperature=1.0, top_k=99)]
    sampled = sample(mx.array(raw), [work(p) for p in params])
    assert np.array(sampled.top_ids).tolist() == np.argsort(-raw).tolist()


# ------------------------------------------------------------------ extremes

HOT = SamplingParams(temperature=1.0, top_p=0.9, min_p=0.01, top_k=30)


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=1.0), HOT], ids=changes)
def test_infinite_biases(params):
    """+inf: that token, whatever else; -inf: never; both in one row, and several of each."""
    row = logits_of(1)[0]
    best = int(row.argmax())
    for bias, allowed in (({4: math.inf}, {4}), ({best: -math.inf}, set(range(VOCABULARY)) - {best}),
                          ({4: math.inf, 5: math.inf}, {4, 5}), ({4: math.inf, best: -math.inf}, {4}),
                          ({t: -math.inf for t in range(VOCABULARY) if t != 8}, {8})):
        drawn = draws(row, dataclasses.replace(params, logit_bias=bias, repetition_penalty=1.5), 200)
        assert set(drawn.tolist()) <= allowed


def test_all_equal_logits():
    row = np.full(VOCABULARY, -3.0, np.float32)
    assert draws(row, SamplingParams(), 3).tolist() == [0, 0, 0]
    assert set(draws(row, SamplingParams(temperature=1.0, top_k=5), 400).tolist()) == {0, 1, 2, 3, 4}
    counts = np.bincount(draws(row, SamplingParams(temperature=1.0), 3000), minlength=VOCABULARY)
    assert chi_square_is_small(counts, np.full(VOCABULARY, 3000 / VOCABULARY))


@pytest.mark.parametrize("temperature", [1e-300, 1e-38, 1e-10, 1e-3])
def test_a_temperature_near_zero_is_greedy(temperature):
    row = logits_of(1, scale=20.0)[0] + 50
    assert set(draws(row, SamplingParams(temperature=temperature, top_p=0.99), 50).tolist()) == {int(row.argmax())}


def test_an_enormous_temperature_still_obeys_filters_and_bans():
    row = logits_of(1)[0]
    params = SamplingParams(temperature=1e300, top_k=4, logit_bias={int(row.argmax()): -math.inf})
    assert set(draws(row, params, 300).tolist()) == set(np.argsort(-row)[1:5].tolist())


@pytest.mark.parametrize("row", [[1e29, -1e30, 0.0, 5e29], [-3e38] * 4, [-math.inf, 2.0, -math.inf, 1.0],
                                 [math.inf, 0.0, 1.0, 2.0]])
def test_extreme_model_logits_give_tokens_and_no_nan(row):
    params = [SamplingParams(), SamplingParams(temperature=1.0), dataclasses.replace(HOT, top_k=2)]
    works = [work(p, seed=i) for i, p in enumerate(params)]
    tokens = np.array(sample(mx.array(np.array([row] * 3, np.float32)), works).tokens)
    allowed = [t for t, v in enumerate(row) if v == max(row) or (max(row) < 1e29 and v > -math.inf)]
    assert set(tokens.tolist()) <= set(allowed) and tokens[0] == int(np.argmax(row))


def test_a_row_in_which_everything_is_banned_still_gives_a_token():
    params = dataclasses.replace(HOT, logit_bias=dict.fromkeys(range(VOCABULARY), -math.inf))
    assert 0 <= draws(logits_of(1)[0], params, 1).item() < VOCABULARY


# ------------------------------------------------------------------ bad values

NAN = math.nan
BAD = {
    "max_tokens": [0, -1, 1.5, "3", None, True], "temperature": [-0.1, NAN, math.inf, "1", None, True],
    "top_k": [-1, 2.5, None, True], "top_p": [0, -0.1, 1.1, NAN, None], "min_p": [-0.1, 1.1, NAN, "0"],
    "repetition_penalty": [0, -1, NAN, math.inf, None], "repetition_context": [-1, 1.5, None],
    "presence_penalty": [-2.1, 2.1, NAN, None], "frequency_penalty": [-2.1, 2.1, NAN, "0"],
    "logit_bias": [{-1: 1.0}, {1.5: 1.0}, {"a": 1.0}, {1: NAN}, {1: "x"}, {1: None}, [1], 5],
    "seed": [-1, 1.5, "7", True],
    "stop": ["", ["a", ""], [1], 5, [None]], "stop_token_ids": [[-1], ["a"], 5, [1.5], [True]],
    "logprobs": [-1, MAX_LOGPROBS + 1, 1.5, True], "ignore_eos": [1, "yes", None],
}


def test_every_field_is_covered():
    assert BAD.keys() == {f.name for f in dataclasses.fields(SamplingParams)}


@pytest.mark.parametrize("name, value", [(n, v) for n, values in BAD.items() for v in values], ids=str)
def test_bad_values_are_refused_by_name(name, value):
    with pytest.raises(RequestError, match=name) as caught:
        SamplingParams(**{name: value})
    assert "\n" not in str(caught.value)


def test_good_edge_values_are_taken():
    params = SamplingParams(max_tokens=1, temperature=0, top_k=0, top_p=1, min_p=1, repetition_penalty=0.01,
                            repetition_context=0, presence_penalty=-2, frequency_penalty=2, logit_bias={}, seed=2**70,
                            stop="x", stop_token_ids=[3], logprobs=MAX_LOGPROBS)
    assert params.stop == ("x",) and params.stop_token_ids == (3,)
    hot = dataclasses.replace(params, temperature=1.0)
    assert sample(mx.array(logits_of(1)), [work(hot, seed=2**70)]).tokens.item() < VOCABULARY
