"""What a request gives back, and the watch for stop strings in its text."""

from dataclasses import dataclass, field


@dataclass
class TokenLogprob:
    """One generated token: its id, text, natural log of its probability, and the most likely tokens {id: logprob}."""

    token_id: int
    text: str
    logprob: float
    top: dict = field(default_factory=dict)


@dataclass
class StreamChunk:
    """What one step added to a request. text may be empty while a character or a possible stop string is incomplete.

    hidden: NumPy float32 [hidden size], what the token was drawn from, where Handling.embed asked for it and the model tells.
    """

    text: str = ""
    token_ids: list = field(default_factory=list)
    logprobs: list | None = None
    finish_reason: str | None = None
    hidden: object = None


@dataclass
class Output:
    """A finished request.

    finish_reason: "stop" (end token or stop string), "length", or "cancelled". logprobs: a TokenLogprob for each
    generated token, where asked for. prompt_tokens: tokens of the prompt. stats: seconds and counts of this request.
    """

    text: str
    token_ids: list
    finish_reason: str
    prompt_tokens: int
    logprobs: list | None = None
    stats: dict = field(default_factory=dict)


class StopWatch:
    """Passes text on, except what may yet become a stop string; cuts it at the first one that does."""

    def __init__(self, stops):
        self._stops, self._held = stops, ""
        self.found = None

    def add(self, text, last=False):
        """Text that is safe to show now. After a stop string (`found`) nothing more comes. last: nothing follows."""
        if not self._stops:
            return text
        self._held += text
        hits = [(self._held.find(s), -len(s), s) for s in self._stops if s in self._held]
        if hits:
            at, _, self.found = min(hits)
            return self._release(at)
        return self._release(len(self._held) - (0 if last else self._partial()))

    def _partial(self):
        """Length of the longest end of the held text that begins a stop string."""
        longest = min(max(map(len, self._stops)) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if any(s.startswith(self._held[-n:]) for s in self._stops)), 0)

    def _release(self, n):
        out, self._held = self._held[:n], "" if self.found else self._held[n:]
        return out
