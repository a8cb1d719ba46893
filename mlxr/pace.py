"""How many tokens of prompts may ride beside decoding, so that no stream of tokens is held up for long. No mlx here."""

from collections import deque
from statistics import median

STRETCH = 1.8                    # a step with prompts may take this many times as long as one without
FIRST, LEAST, MOST = 4, 2, 4096        # tokens: before anything was measured, and bounds: one for a long prompt, one for a short one
RECENT, FEW = 15, 8              # steps without prompts, and with them, of whose times the median counts
SURE = 3                         # steps after which a number of sequences is known
# A step whose kind was seen before is replayed, which saves time: so there are few kinds, most of which fill pages evenly.
SIZES = (2, 4, 6, 8, 10, 12, 16, 20, 24, 32, 64)


class Pace:
    """Learns how long steps without prompts take, by the sequences that they decode, and what a token of a prompt adds."""

    def __init__(self):
        self._plain, self._costs, self._last, self._newest = {}, deque(maxlen=FEW), None, None

    def decode(self, rows):
        """Seconds of a step that decodes so many sequences and reads no prompt, or None: as measured, or between what was
        measured with fewer and with more; of fewer alone, those of the most, so that nobody waits for a guess.

        Contexts change with time, and what else the machine does. So the number that was measured last bounds all others: one
        sequence more takes something from nothing to what each of those takes.
        """
        known = self._known(rows)
        if not known or self._newest is None:
            return known
        newest = median(self._plain[self._newest])
        bounds = sorted((newest, newest * rows / self._newest))
        return min(max(known, bounds[0]), bounds[1])

    def _known(self, rows):
        below = max((r for r in self._plain if r <= rows), default=None)
        above = min((r for r in self._plain if r >= rows), default=None)
        if below is None or above is None:
            known = above if below is None else below
            return known and median(self._plain[known])
        low, high = median(self._plain[below]), median(self._plain[above])
        return low if above == below else low + (high - low) * (rows - below) / (above - below)

    def beside(self, rows):
        """Tokens of prompts for a step that decodes as well, where so many sequences will once all prompts are read."""
        plain = self.decode(rows)
        if not plain or not self._costs:
            return FIRST
        cost = median(self._costs)
        fit = int(min(MOST, max(LEAST, (STRETCH - 1) * plain / max(cost, 1e-9))))
        return fit // SIZES[-1] * SIZES[-1] or max(s for s in SIZES if s <= fit)

    def forget(self):
        """What comes next does not follow a step whose end is known."""
        self._last = None

    def note(self, now, plan, following):
        """A step was read back at `now` (seconds). following: the plan launched meanwhile, or None.

        A step counts where the one launched meanwhile is of its kind: launching takes time, too.
        """
        took, self._last = (now - self._last if self._last is not None else None), now if following else None
        if took is None or not following:
            return
        prompts, alike = _prompts(plan), bool(_prompts(plan)) == bool(_prompts(following))
        rows = plan.tokens - prompts
        if alike and not prompts:
            times = self._plain.setdefault(rows, deque(maxlen=RECENT))
            times.append(took)
            if len(times) >= SURE:
                self._newest = rows
        elif alike and rows and (plain := self.decode(rows)):
            self._costs.append(max(0.0, took - plain) / prompts)


class Unpaced:
    """In place of the engine's Pace: prompts take the whole token budget, so that all sequences begin as soon as can be."""

    def __init__(self, budget):
        self._budget = budget

    def decode(self, rows):
        """Nothing is known."""

    def beside(self, rows):
        """The whole budget."""
        return self._budget

    def forget(self):
        """Nothing was learned."""

    def note(self, now, plan, following):
        """Nothing is learned."""


def _prompts(plan):
    """Tokens of a plan that are not decoded ones."""
    return sum(w.count for w in plan.works if w.count > 1 or not w.sample)
