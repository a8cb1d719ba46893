"""The scheduler alone: conservation, budget, order and progress over random workloads, with a runner of plain ints."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxr.errors import PromptTooLong, RequestError
from mlxr.pace import STRETCH, Pace
from mlxr.scheduler import Plan, Scheduler, Work
from mlxr.sequence import SamplingParams, Sequence


def sequence(n, max_tokens=5, context=10_000):
    return Sequence(list(range(n)), SamplingParams(max_tokens=max_tokens), min(context, n + max_tokens))


class Driver:
    """Steps as the engine does, one step in flight, and notes which positions were computed from which tokens."""

    def __init__(self, scheduler):
        self.s, self.in_flight, self.plans = scheduler, None, []

    def step(self):
        s = self.s
        plan = s.schedule()
        s.check()
        assert plan.tokens <= s.token_budget
        kinds = [w.count == 1 and w.start > 0 for w in plan.works]
        for w in plan.works:
            assert w.count >= 1 and w.start + w.count == w.sequence.computed
            assert len(w.pages) == (w.start + w.count) // s.page_size
            if s.align:
                assert w.start // s.page_size == (w.start + w.count - 1) // s.page_size
        self.plans.append((plan, kinds))
        before, self.in_flight = self.in_flight, plan or None
        if before:
            for seq, _ in list(s.commit(before, [7] * len(before.samples))):
                if len(seq.tokens) >= seq.limit:
                    s.finish(seq, "length")
        s.check()

    def run(self, most=5000):
        while self.s.busy or self.in_flight:
            self.step()
            most -= 1
            assert most, "no progress"


def test_decode_rows_come_before_prefill_chunks():
    s = Scheduler(16, 100, token_budget=10, max_batch=4)
    d = Driver(s)
    first = sequence(5, max_tokens=50)
    s.add(first)
    d.step(), d.step()
    s.add(sequence(30))
    d.step()
    works = d.plans[-1][0].works
    assert [w.count for w in works] == [1, 9] and works[0].sequence is first


def test_a_short_prompt_does_not_wait_for_a_long_one_which_goes_on():
    """Beside decoding, within the tokens that are let through; the long prompt keeps a quarter of them."""
    s = Scheduler(16, 2000, token_budget=100, max_batch=8)
    d = Driver(s)
    s.add(sequence(5, max_tokens=500))
    d.step(), d.step()
    s.beside = 20
    long = sequence(9_000)
    s.add(long)
    d.step()
    short = [sequence(n, max_tokens=3) for n in (10, 40)]
    for x in short:
        s.add(x)
    for _ in range(8):
        d.step()
        assert sum(w.count for w in d.plans[-1][0].works if w.count > 1) <= 20
        assert any(w.sequence is long and w.count >= 5 for w in d.plans[-1][0].works)
    assert all(x.finish_reason for x in short) and not long.finish_reason


def test_the_pace_keeps_steps_with_prompts_near_a_multiple_of_a_plain_one():
    """A machine that takes 10 ms for decoding and, for prompts, 2 ms and 1 ms for each token."""
    pace, s, now, took = Pace(), Scheduler(16, 2000, token_budget=512, max_batch=8), 0.0, []
    d = Driver(s)
    s.add(sequence(5, max_tokens=900))
    for i in range(400):
        if i == 20:
            s.add(sequence(1_300))
        s.beside = pace.beside(s.present)
        d.step()
        plan = d.plans[-1][0]
        prompts = sum(w.count for w in plan.works if w.count > 1)
        took.append(0.010 + (0.002 + 0.001 * prompts if prompts else 0))
        if i:
            pace.note(now, d.plans[-2][0], plan)     # the step before was read back when this one had been launched
        now += took[-1]
    assert abs(pace.decode(1) - 0.010) < 1e-6 and max(took) < 1.2 * STRETCH * 0.010 + 0.003
    assert all(0.8 < t / (STRETCH * 0.010) < 1.15 for t in took[45:90])
    assert took[-1] == 0.010 and s.running
    pace.forget()
    pace.note(now + 1000, plan, plan)
    assert abs(pace.decode(1) - 0.010) < 1e-6


def test_the_pace_believes_what_it_measured_last():
    """What other numbers of sequences took in other times, with other contexts, is kept within what that allows."""
    pace = Pace()

    def decoded(rows, seconds, steps=5):
        plan = Plan([Work(sequence(5), 5, 1, True, -1, r, []) for r in range(rows)])
        pace.forget()
        for i in range(steps):
            pace.note(i * seconds, plan, plan)
    decoded(4, 0.070), decoded(8, 0.010)
    assert abs(pace.decode(4) - 0.010) < 1e-9 and abs(pace.decode(8) - 0.010) < 1e-9
    decoded(3, 0.030)
    assert abs(pace.decode(4) - 0.040) < 1e-9 and abs(pace.decode(8) - 0.030) < 1e-9 and abs(pace.decode(3) - 0.030) < 1e-9
    decoded(4, 0.032, steps=20)
    assert abs(pace.decode(4) - 0.032) < 1e-9 and abs(pace.decode(3) - 0.030) < 1e-9


def test_the_pace_lets_two_prompts_go_on_however_much_a_token_costs():
    """As far into a long prompt: then a short one that comes goes on, too."""
    pace, s = Pace(), Scheduler(16, 2000, token_budget=512, max_batch=8)
    d = Driver(s)
    for prompts in (0, 2):
        plan = Plan([Work(sequence(5), 5, 1, True, -1, 0, []), *[Work(sequence(9), 0, prompts, False, -1, 1, [])] * (prompts > 0)])
        for i in range(4):
            pace.note(i * (0.010 + 0.030 * prompts), plan, plan)
        pace.forget()
    assert pace.beside(1) == 2
    s.add(sequence(5, max_tokens=100))
    d.step(), d.step()
    s.beside = pace.beside(1)
    long, short = sequence(9_000), sequence(10, max_tokens=1)
    s.add(long)
    d.step()
    s.add(short)
    for _ in range(14):
        d.step()
    assert short.finish_reason and long.computed > 10


def test_chunks_keep_to_the_budget_and_sample_only_at_the_end():
    s = Scheduler(16, 100, token_budget=7, max_batch=4)
    d = Driver(s)
    s.add(sequence(20, max_tokens=1))
    d.run()
    works = [w for p, _ in d.plans for w in p.works]
    assert [(w.start, w.count, w.sample) for w in works] == [(0, 7, False), (7, 7, False), (14, 6, True)]


@pytest.mark.parametrize("budget", [66, 100, 512])
def test_chunks_are_large_where_there_is_room(budget):
    """More tokens than the `few` of other kernels, but at the end of prompts."""
    s = Scheduler(16, 2000, token_budget=budget, max_batch=8, few=32)
    driver, lengths = Driver(s), (1000, 700, 333, 90, 40, 20)
    for n in lengths:
        s.add(sequence(n))
    driver.run()
    chunks = [(w.start, w.count, w.sequence.num_prompt) for plan, _ in driver.plans for w in plan.works]
    assert {n for _, _, n in chunks} == set(lengths) and max(count for _, count, _ in chunks) > 60
    assert not [c for c in chunks if c[1] <= 32 < c[2] and c[0] + c[1] < c[2]]


def test_refuses_what_can_never_fit_and_queues_nothing():
    s = Scheduler(16, 2, token_budget=100, max_batch=4)
    with pytest.raises(PromptTooLong, match="has 48 tokens, but the page pool holds 47"):
        s.add(sequence(48))
    with pytest.raises(RequestError, match="empty"):
        s.add(sequence(0))
    assert not s.busy


def test_generation_stops_where_the_pool_ends():
    s = Scheduler(16, 2, token_budget=100, max_batch=4)
    q = sequence(40, max_tokens=100)
    s.add(q)
    Driver(s).run()
    assert len(q.tokens) == 48 and q.finish_reason == "length"      # 47 in the pool, and one more drawn from them


def test_preempts_the_latest_and_recomputes_it():
    s = Scheduler(16, 6, token_budget=100, max_batch=4)
    a, b = sequence(40, max_tokens=30), sequence(20, max_tokens=30)
    s.add(a), s.add(b)
    Driver(s).run()
    assert (a.preemptions, b.preemptions > 0) == (0, True)
    assert len(a.generated) == len(b.generated) == 30


@pytest.mark.parametrize("align", [False, True])
@settings(max_examples=80)
@given(data=st.data())
def test_everything_finishes_and_nothing_is_lost(align, data):
    draw = data.draw
    s = Scheduler(16, draw(st.integers(4, 30)), draw(st.integers(1, 80)), draw(st.integers(1, 6)), align=align,
                  few=draw(st.sampled_from([0, 8, 32])))
    d, made = Driver(s), []
    for _ in range(draw(st.integers(1, 12))):
        q = sequence(draw(st.integers(1, min(s.capacity, 120))), draw(st.integers(1, 40)))
        s.add(q)
        made.append(q)
        for _ in range(draw(st.integers(0, 4))):
            d.step()
        if draw(st.booleans()):
            victim = made[draw(st.integers(0, len(made) - 1))]
            if not victim.finished:
                s.finish(victim, "cancelled")
    d.run()
    assert s.allocator.used == 0 and not s.running and not s.waiting
    for q in made:
        assert q.finish_reason == "cancelled" or len(q.tokens) == q.limit
        assert q.finish_reason == "cancelled" or q.pending == 0
