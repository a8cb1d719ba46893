"""The scheduler: queues, token budget, pages, preemption. It turns sequences into a Plan of plain ints."""

from bisect import insort
from dataclasses import dataclass, field

from .errors import PromptTooLong, RequestError
from .pages.allocator import PageAllocator
from .pages.prefix_cache import Match, PrefixCache
from .sequence import Sequence, Status


@dataclass
class Work:
    """Part of a plan: `count` tokens of one sequence, from position `start` on.

    sample: whether these reach the sequence's last token, so that the next one is drawn.
    source: row of the previous step's output that holds the last of these tokens, or -1 when all are known ints.
    slot, pages: as they were when planned; the sequence may lose them before the step has run.
    every: the logits of all these tokens are wanted, not of the last alone (validation; the scheduler never asks this).
    """

    sequence: Sequence
    start: int
    count: int
    sample: bool
    source: int
    slot: int
    pages: list
    every: bool = False


@dataclass
class Plan:
    """One step: decode rows first, then prefill chunks."""

    works: list = field(default_factory=list)
    preempted: list = field(default_factory=list)   # sequences that lost their pages to make this plan possible

    @property
    def tokens(self):
        return sum(w.count for w in self.works)

    @property
    def samples(self):
        """The works whose sequences get a token, in the order of the step's output rows."""
        return [w for w in self.works if w.sample]

    def seals(self, page_size, before=None):
        """Whether it completes a page; `before`: one of the first so many of a sequence."""
        return any((w.start + w.count) // page_size > w.start // page_size and (before is None or w.start // page_size < before)
                   for w in self.works)

    def __bool__(self):
        return bool(self.works)


class Scheduler:
    """Continuous batching over a fixed number of pages and tail slots.

    page_size:    tokens in a page.         pages:     how many there are.
    token_budget: tokens in a step.         max_batch: running sequences, one tail slot each.
    align:        cut chunks at page boundaries (for models that read the pages gathered).
    prefix_cache: let sequences share the pages of equal beginnings.
    held:         a Held: the first pages of every sequence come of those for beginnings.
    few:          chunks of up to so many tokens are computed by other kernels, whose sums differ in their last bits, which codes of
                  quantized pages magnify: prompts are cut into larger ones where a step has room for more tokens. Where it has not,
                  and they ride beside decoding, they end where a page ends: such steps can be replayed.
    """

    def __init__(self, page_size, pages, token_budget, max_batch, align=False, prefix_cache=False, held=None, few=0):
        self.page_size, self.first = page_size, held.first if held else 0
        self.token_budget = token_budget
        self.beside = token_budget                   # tokens of prompts in a step that generates as well
        self.align, self.few = align, few
        self._least = 1                              # tokens of a chunk that does not end a prompt, in this step
        self.allocator = PageAllocator(pages, held.firsts if held else 0)
        self.cache = PrefixCache(self.allocator, page_size) if prefix_cache else None
        self.waiting = []                            # both in order of rank (priority, then arrival);
        self.running = []                            # the last is the first to be preempted
        self._slots = list(range(max_batch - 1, -1, -1))

    # ------------------------------------------------------------------ what the engine calls

    @property
    def capacity(self):
        """Tokens whose K and V one sequence can hold: all pages full, and a tail one short of a page."""
        return (self.first + self.allocator.count) * self.page_size + self.page_size - 1

    @property
    def busy(self):
        return bool(self.waiting or self.running)

    @property
    def present(self):
        """How many sequences can run at once of those that are here: what decides how long a step without prompts takes."""
        return min(len(self.running) + len(self.waiting), len(self.running) + len(self._slots))

    def add(self, sequence):
        """Queue a sequence. Raises RequestError (empty prompt) or PromptTooLong (it can never fit), queueing nothing."""
        if not sequence.tokens:
            raise RequestError("the prompt is empty; give at least one token")
        if len(sequence.tokens) > self.capacity:
            raise PromptTooLong(
                f"the prompt has {len(sequence.tokens)} tokens, but the page pool holds {self.capacity} at most; "
                "shorten it or give the pool more memory")
        sequence.limit = min(sequence.limit, self.capacity + 1)     # the last token's K and V are never needed
        insort(self.waiting, sequence, key=_rank)

    def schedule(self):
        """The next step's plan; empty when nothing can be computed now."""
        plan = Plan()
        if self.cache:
            for sequence in self.running:            # what they computed so far was launched: others may read it now
                self.cache.learn(sequence, sequence.computed)
        budget = self.token_budget
        for sequence in [s for s in self.running if self._left(s) == 1]:
            if budget and sequence.status is Status.RUNNING:
                budget -= self._plan(plan, sequence, budget)
        if plan.works:
            budget = min(budget, self.beside)
        self._least = self.few + 1 if budget > self.few else 1
        budget = self._prefill(plan, budget)
        while budget >= (self._least if plan.works else 1) and not plan.preempted:
            sequence = self._admit(plan)
            if sequence is None:
                break
            budget -= self._plan(plan, sequence, budget)
        plan.works = [w for w in plan.works if w.sequence not in plan.preempted]
        for i, work in enumerate(plan.samples):
            work.sequence.pending += 1
            work.sequence.row = i
        return plan

    def commit(self, plan, tokens):
        """Append a step's tokens (ints, one for each of plan.samples); yield (sequence, token) for those that go on."""
        for work, token in zip(plan.samples, tokens):
            sequence = work.sequence
            sequence.pending -= 1
            if not sequence.finished:
                sequence.tokens.append(token)
                yield sequence, token

    def finish(self, sequence, reason):
        """End a sequence, wherever it is, and free what it holds."""
        if sequence.status is Status.RUNNING:
            if self.cache:                           # all that was planned of it was launched
                self.cache.learn(sequence, sequence.computed)
                self.cache.learn_tail(sequence, sequence.computed)
            self.running.remove(sequence)
            self._free(sequence)
        elif sequence.status is Status.WAITING:
            self.waiting.remove(sequence)
        sequence.status, sequence.finish_reason = Status.FINISHED, reason

    def check(self):
        """Raise AssertionError unless pages and slots are conserved."""
        self.allocator.check([s.pages for s in self.running])
        slots = sorted([s.slot for s in self.running] + self._slots)
        if slots != list(range(len(slots))):
            raise AssertionError(f"tail slots are not conserved: {slots}")
        for s in self.running:
            if len(s.pages) != s.computed // self.page_size:
                raise AssertionError(f"sequence {s.id} has {s.computed} tokens in {len(s.pages)} pages")

    # ------------------------------------------------------------------ how it decides

    @staticmethod
    def _left(sequence):
        """Tokens still to compute: none of a sequence that only waits for its last token to be read back."""
        return 0 if sequence.total >= sequence.limit else sequence.total - sequence.computed

    def _prefill(self, plan, budget):
        """Plan chunks of prompts: what is left shortest first, but a quarter for the first in rank. Returns what is left."""
        def prompts():
            return [s for s in self.running if self._left(s) > 1]

        while budget and not plan.preempted and self.waiting and prompts():
            if self.waiting[0].total >= min(map(self._left, prompts())) or not self._admit(plan):
                break                                # those that are shorter do not wait for a long prompt to end
        chosen = sorted(prompts(), key=self._left)
        if not chosen:
            return budget
        first = min(chosen, key=_rank)
        kept = 0 if first is chosen[0] else min(self._left(first), max(self._least, -(-budget // 4)))
        for sequence in chosen:
            if sequence is first:
                kept = 0
            if budget > kept and sequence.status is Status.RUNNING:
                budget -= self._plan(plan, sequence, budget - kept, others=kept > 0)
        return budget

    def _plan(self, plan, sequence, budget, others=False):
        """Add the sequence's next tokens to the plan, and return how many they are. others: more will be planned."""
        left = self._left(sequence)
        count = min(left, budget)
        if count < left:
            if left - count < self._least <= left - self._least:
                count = left - self._least               # not a small end
            if count < self._least and (plan.works or others):
                return 0
        if self.align or plan.works and count <= self.few:
            count = min(count, self.page_size - sequence.computed % self.page_size)
        if count <= 0 or not self._hold(plan, sequence, sequence.computed + count):
            return 0
        end = sequence.computed + count
        reaches = end == sequence.total
        # A step's last token may still be on the device; every other is known.
        source = sequence.row if reaches and sequence.pending else -1
        plan.works.append(Work(sequence, sequence.computed, count, reaches, source, sequence.slot, sequence.pages))
        sequence.computed = end
        return count

    def _hold(self, plan, sequence, end):
        """Make the sequence hold a page for every page's worth of its first `end` tokens; preempt for it if need be."""
        need, firsts = self._need(end // self.page_size, len(sequence.pages))
        while need > self.allocator.free or firsts > self.allocator.free_firsts:
            victim = self.running[-1]
            self._preempt(plan, victim)
            if victim is sequence:
                return False
        if need + firsts > 0:
            sequence.pages = sequence.pages + self.allocator.take(need, firsts)   # a new list: works keep the one they saw
        return True

    def _need(self, pages, there):
        """(pages, pages for beginnings) that a sequence of `pages` needs beside the `there` first ones."""
        firsts = max(0, min(pages, self.first) - there)
        return max(0, pages - there - firsts), firsts

    def _preempt(self, plan, victim):
        self.running.remove(victim)
        self._free(victim)
        victim.status = Status.WAITING
        victim.preemptions += 1
        plan.preempted.append(victim)
        insort(self.waiting, victim, key=_rank)

    def _free(self, sequence):
        self.allocator.release(sequence.pages)
        self._slots.append(sequence.slot)
        self._slots.sort(reverse=True)               # low slots first: the tails stay small
        sequence.pages, sequence.slot, sequence.computed, sequence.learned = [], -1, 0, 0

    def _admit(self, plan):
        """Move the first waiting sequence to the running ones, if its prompt fits beside what these still need.

        Where it does not, running sequences of lower priority make room. Returns it, or None.
        """
        sequence = self.waiting[0] if self.waiting else None
        if sequence is None or sequence.pending:     # preempted while its token is on the device: wait for it
            return None
        match = self.cache.find(sequence, self._slots) if self.cache else Match()
        while not self._fits(sequence, match):
            if not self.running or self.running[-1].priority <= sequence.priority:
                return None
            self._preempt(plan, self.running[-1])
        self.waiting.pop(0)
        self._begin(sequence, match)
        insort(self.running, sequence, key=_rank)
        return sequence

    def _fits(self, sequence, match):
        """Whether there is a slot, and pages for what the sequence has, beside what the running ones will soon need."""
        if not self._slots:
            return False
        held = sum(map(self.allocator.held, match.pages))
        needs = [self._need(sequence.total // self.page_size, held)]
        needs += [self._need(max(s.total // self.page_size, len(s.pages)) + 1, len(s.pages)) for s in self.running]
        need, firsts = map(sum, zip(*needs))
        return not self.running or (need <= self.allocator.free and firsts <= self.allocator.free_firsts)

    def _begin(self, sequence, match):
        """Give a sequence its slot, and the pages and the tail that are there already."""
        slot = match.slot if match.tail else self._slots[-1]
        self._slots.remove(slot)
        self.allocator.share(match.pages)
        sequence.status, sequence.slot, sequence.pages = Status.RUNNING, slot, list(match.pages)
        sequence.learned = len(match.pages)
        sequence.computed = sequence.learned * self.page_size + match.tail
        if self.cache:
            self.cache.forget_tail(slot)
            if sequence.cached is None:
                sequence.cached, sequence.cache_note = sequence.computed, match.note(sequence.num_prompt, self.page_size)


def _rank(sequence):
    return sequence.rank
