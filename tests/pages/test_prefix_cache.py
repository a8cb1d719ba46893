"""Shared beginnings: what is found, what it saves, that it changes no answer, and that no page is lost or served wrongly."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.tiny import Observer, prompts, relative, run, tiny_engine, tiny_model
from mlxr.pages.prefix_cache import REMEMBERED, PrefixCache, extend_keys
from mlxr.scheduler import Scheduler
from mlxr.sequence import Handling, SamplingParams, Sequence

PAGE_BYTES = 3 * 2 * (16 * 32 * 2)       # a page of 16 tokens in f16: 3 layers, 2 heads, K and V of 16
GREEDY = SamplingParams(max_tokens=20)


@pytest.fixture(scope="module")
def model():
    return tiny_model(scale=3.0)


def ask(engine, prompt, handling=Handling(), params=GREEDY):
    """(tokens, logits, sequence) of one request, run to its end."""
    seen = Observer(engine)
    request = engine.add(prompt, params, handling)
    tokens, = run(engine, [request])
    return tokens, seen.of(request), request.sequence


def test_a_key_stands_for_all_tokens_before_it():
    def keys(tokens, salt=""):
        made = []
        extend_keys(made, tokens, 4, salt)
        return made

    a = keys(list(range(13)))
    assert len(a) == 3 and keys(list(range(12))) == a
    assert keys([9, *range(1, 12)])[2] != a[2] and keys(list(range(13)), "salt")[0] != a[0]
    grown = keys(list(range(5)))
    extend_keys(grown, list(range(13)), 4)
    assert grown == a


@pytest.mark.parametrize("mode", ["paged", "serial", "gathered"])
def test_a_second_turn_computes_only_what_is_new(model, mode):
    engine = tiny_engine(model, kv="f16", mode=mode)
    prompt, more = prompts([100, 30])
    first, _, _ = ask(engine, prompt)
    before = engine.computed
    turn = prompt + first + more
    answer, logits, sequence = ask(engine, turn)
    # All of the first turn but its last token, which was drawn and never computed; its tail lay in the same slot.
    assert sequence.cached == 119 and sequence.cache_note == "after 119 tokens: no earlier request goes on like this"
    assert engine.computed - before <= 31 + 20
    alone, expected, _ = ask(tiny_engine(model, kv="f16", mode=mode, prefix_cache=False), turn)
    assert answer == alone and relative(logits, expected) <= 1e-3


def test_the_tail_is_used_as_far_as_it_agrees(model):
    engine = tiny_engine(model, kv="f16")
    prompt, = prompts([30])
    ask(engine, prompt, params=SamplingParams(max_tokens=1))
    changed = prompt[:25] + [(prompt[25] + 1) % 131] + prompt[26:]
    answer, _, sequence = ask(engine, changed)
    assert sequence.cached == 25
    assert answer == ask(tiny_engine(model, kv="f16", prefix_cache=False), changed)[0]


def test_a_tail_is_gone_when_its_slot_was_used(model):
    engine = tiny_engine(model, kv="f16")
    prompt, other = prompts([40, 50])
    ask(engine, prompt)
    ask(engine, other)                                   # takes slot 0, the lowest
    _, _, sequence = ask(engine, prompt)
    assert sequence.cached == 32                         # two pages


def test_requests_that_run_together_share_pages(model):
    engine = tiny_engine(model, kv="f16", token_budget=200)
    prompt, = prompts([96])
    first = engine.add(prompt, GREEDY)
    engine.step()
    rest = [engine.add(prompt + [i], GREEDY) for i in range(3)]
    engine.step()
    assert [r.sequence.cached for r in rest] == [96] * 3
    assert len({tuple(r.sequence.pages[:6]) for r in [first, *rest]}) == 1
    assert engine.scheduler.allocator.used <= 6 + 4
    answers = run(engine, rest)
    assert answers == [ask(tiny_engine(model, kv="f16"), prompt + [i])[0] for i in range(3)]
    assert engine.scheduler.allocator.used == 0


def test_a_salt_separates(model):
    engine = tiny_engine(model, kv="f16")
    prompt, = prompts([70])
    assert [ask(engine, prompt, Handling(cache_salt=salt))[2].cached for salt in ("", "a", "b", "a", "")] == [0, 0, 0, 64, 64]


def test_cached_pages_are_free_memory(model):
    """A pool of 11 pages: old beginnings give way to new requests, oldest first, deepest page first; and it is said."""
    engine = tiny_engine(model, kv="f16", pool_bytes=12 * PAGE_BYTES)
    a, b, c = prompts([60, 60, 100])
    ask(engine, a), ask(engine, b)
    assert engine.stats()["pages_cached"] == 8 and engine.stats()["pages_free"] == 11     # 79 tokens of each
    ask(engine, c)
    assert engine.stats()["cache_evictions"] == 4                                          # all of a
    sequence = ask(engine, b)[2]
    assert sequence.cached == 48
    sequence = ask(engine, a)[2]
    assert sequence.cached == 0 and "given to other requests" in sequence.cache_note
    assert "no earlier request begins" in ask(engine, prompts([60], seed=9)[0])[2].cache_note


def test_preempted_requests_find_their_own_pages(model):
    params = SamplingParams(max_tokens=40)
    work = prompts([60] * 8)
    large = tiny_engine(model, kv="f16")
    expected = run(large, [large.add(p, params) for p in work])
    small = tiny_engine(model, kv="f16", pool_bytes=20 * PAGE_BYTES)
    assert run(small, [small.add(p, params) for p in work]) == expected and small.preemptions > 0


def test_a_model_with_recurrent_state_says_why():
    from mlxr.sequence import Sequence

    s = Scheduler(16, 10, 64, 2)
    assert s.cache is None
    s.add(Sequence([1] * 40, GREEDY, 60))
    s.schedule()
    assert s.running[0].cached is None


class Ints:
    """A scheduler's runner of plain ints: notes what each page and tail holds, and checks what a work reads."""

    def __init__(self, scheduler):
        self.s, self.in_flight, self.pages, self.tails = scheduler, None, {}, {}

    def step(self):
        s = self.s
        plan = s.schedule()
        s.check()
        for w in plan.works:
            size, tokens, end = s.page_size, w.sequence.tokens, w.start + w.count
            known = tokens + [None] * (end - len(tokens))
            for i in range(w.start // size):
                assert self.pages[w.pages[i]] == (w.sequence.salt, tokens[:(i + 1) * size]), "a page holds something else"
            tail = self.tails.setdefault(w.slot, [None] * size)
            assert tail[:w.start % size] == tokens[w.start - w.start % size:w.start], "the tail holds something else"
            for position in range(w.start, end):
                tail[position % size] = known[position]
                if position % size == size - 1:
                    self.pages[w.pages[position // size]] = w.sequence.salt, list(known[:position + 1])
        before, self.in_flight = self.in_flight, plan or None
        for seq, token in list(s.commit(before, [len(w.sequence.tokens) % 3 for w in before.samples])) if before else []:
            for _, held in self.pages.values():              # a token that was on the device is known now
                if held[-1:] == [None] and held[:-1] == seq.tokens[:len(held)][:-1] and len(held) == len(seq.tokens):
                    held[-1] = token
            for slot, tail in self.tails.items():
                if slot == seq.slot and tail[(len(seq.tokens) - 1) % s.page_size] is None:
                    tail[(len(seq.tokens) - 1) % s.page_size] = token
            if len(seq.tokens) >= seq.limit:
                s.finish(seq, "length")
        s.check()


@settings(max_examples=120)
@given(data=st.data())
def test_no_sequence_ever_reads_a_page_of_other_tokens(data):
    """Random requests over few tokens, which share much, in a small pool, with priorities, salts and cancellations."""
    draw = data.draw
    s = Scheduler(4, draw(st.integers(6, 24)), draw(st.integers(1, 30)), draw(st.integers(1, 4)), prefix_cache=True)
    runner, made = Ints(s), []
    for _ in range(draw(st.integers(1, 14))):
        tokens = draw(st.lists(st.integers(0, 1), min_size=1, max_size=min(s.capacity, 30)))
        if made and draw(st.booleans()):
            tokens = (draw(st.sampled_from(made)).tokens + tokens)[:min(s.capacity, 40)]
        q = Sequence(tokens, SamplingParams(max_tokens=draw(st.integers(1, 9))), 0, priority=draw(st.integers(0, 1)),
                     salt=draw(st.sampled_from(["", "", "x"])))
        q.limit = len(tokens) + q.params.max_tokens
        s.add(q)
        made.append(q)
        for _ in range(draw(st.integers(0, 5))):
            runner.step()
        if draw(st.integers(0, 3)) == 0 and not made[-1].finished:
            s.finish(made[-1], "cancelled")
            s.check()
    for _ in range(3000):
        if not s.busy and not runner.in_flight:
            break
        runner.step()
    assert not s.busy and s.allocator.used == 0


def test_what_was_lost_is_remembered_within_bounds():
    s = Scheduler(4, 2, 10, 1, prefix_cache=True)
    assert isinstance(s.cache, PrefixCache) and REMEMBERED >= 1 << 10
    s.cache.clear()
    assert s.cache.known == 0
