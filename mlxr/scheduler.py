"""The scheduler: queues, token budget, pages, preemption. It turns sequences into a Plan of plain ints."""

from collections import deque
from dataclasses import dataclass, field

from .errors import PromptTooLong, RequestError
from .pages.allocator import PageAllocator
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

    def __bool__(self):
        return bool(self.works)


class Scheduler:
    """Continuous batching over a fixed number of pages and tail slots.

    page_size:    tokens in a page.         pages:     how many there are.
    token_budget: tokens in a step.         max_batch: running sequences, one tail slot each.
    align:        cut chunks at page boundaries (for models that read the pages gathered).
    """

    def __init__(self, page_size, pages, token_budget, max_batch, align=False):
        self.page_size = page_size
        self.token_budget = token_budget
        self.align = align
        self.allocator = PageAllocator(pages)
        self.waiting = deque()
        self.running = []                            # in order of arrival: the last is the first to be preempted
        self._slots = list(range(max_batch - 1, -1, -1))

    # ------------------------------------------------------------------ what the engine calls

    @property
    def capacity(self):
        """Tokens whose K and V one sequence can hold: all pages full, and a tail one short of a page."""
        return self.allocator.count * self.page_size + self.page_size - 1

    @property
    def busy(self):
        return bool(self.waiting or self.running)

    def add(self, sequence):
        """Queue a sequence. Raises RequestError (empty prompt) or PromptTooLong (it can never fit), queueing nothing."""
        if not sequence.tokens:
            raise RequestError("the prompt is empty; give at least one token")
        if len(sequence.tokens) > self.capacity:
            raise PromptTooLong(
                f"the prompt has {len(sequence.tokens)} tokens, but the page pool holds {self.capacity} at most; "
                "shorten it or give the pool more memory")
        sequence.limit = min(sequence.limit, self.capacity + 1)     # the last token's K and V are never needed
        self.waiting.append(sequence)

    def schedule(self):
        """The next step's plan; empty when nothing can be computed now."""
        plan = Plan()
        budget = self.token_budget
        for decoding in (True, False):
            for sequence in list(self.running):
                if budget and sequence.status is Status.RUNNING and (self._left(sequence) == 1) == decoding:
                    budget -= self._plan(plan, sequence, budget)
        while budget and not plan.preempted and self._admit():
            budget -= self._plan(plan, self.running[-1], budget)
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

    def _plan(self, plan, sequence, budget):
        """Add the sequence's next tokens to the plan, and return how many they are."""
        count = min(self._left(sequence), budget)
        if self.align:
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
        need = end // self.page_size - len(sequence.pages)
        while need > self.allocator.free:
            victim = self.running[-1]
            self._preempt(plan, victim)
            if victim is sequence:
                return False
        if need > 0:
            sequence.pages = sequence.pages + self.allocator.take(need)   # a new list: works keep the one they saw
        return True

    def _preempt(self, plan, victim):
        self.running.remove(victim)
        self._free(victim)
        victim.status = Status.WAITING
        victim.preemptions += 1
        plan.preempted.append(victim)
        self.waiting.appendleft(victim)

    def _free(self, sequence):
        self.allocator.release(sequence.pages)
        self._slots.append(sequence.slot)
        self._slots.sort(reverse=True)               # low slots first: the tails stay small
        sequence.pages, sequence.slot, sequence.computed = [], -1, 0

    def _admit(self):
        """Move the first waiting sequence to the running ones, if its prompt fits beside what these still need."""
        if not self.waiting or not self._slots:
            return False
        sequence = self.waiting[0]
        if sequence.pending:                         # preempted while its token is on the device: wait for it
            return False
        wanted = sum(s.total // self.page_size - len(s.pages) + 1 for s in self.running)
        if self.running and sequence.total // self.page_size + wanted > self.allocator.free:
            return False
        self.waiting.popleft()
        sequence.status, sequence.slot = Status.RUNNING, self._slots.pop()
        self.running.append(sequence)
        return True
