"""How many tokens of prompts may ride beside decoding, so that no stream of tokens is held up for long. No mlx here."""

from collections import deque
from statistics import median

STRETCH = 2.5                    # a step with prompts may take this many times as long as one without
FIRST, LEAST, MOST = 16, 8, 4096       # tokens: before anything was measured, and bounds
RECENT = 15                      # steps without prompts, of whose times the median counts


class Pace:
    """Learns how long steps without prompts take, and lets steps with prompts grow or shrink towards STRETCH times that."""

    def __init__(self):
        self._beside, self._last, self._plain = float(FIRST), None, deque(maxlen=RECENT)

    @property
    def decode(self):
        """Seconds of a step without prompts, or None."""
        return median(self._plain) if self._plain else None

    @property
    def beside(self):
        """Tokens of prompts for a step that decodes as well."""
        return int(self._beside)

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
        if alike and not prompts:
            self._plain.append(took)
        elif alike and self.decode and prompts < plan.tokens and prompts > 0.7 * self._beside:
            change = STRETCH * self.decode / took
            self._beside = min(MOST, max(LEAST, self._beside * min(1.2, max(0.5, change))))


class Unpaced:
    """In place of the engine's Pace: prompts take the whole token budget, so that all sequences begin as soon as can be."""

    decode = None

    def __init__(self, beside):
        self.beside = beside

    def forget(self):
        """Nothing was learned."""

    def note(self, now, plan, following):
        """Nothing is learned."""


def _prompts(plan):
    """Tokens of a plan that are not decoded ones."""
    return sum(w.count for w in plan.works if w.count > 1)
