"""SamplingParams and Sequence: what a request asks for, and how far it has come. No mlx here."""

import enum
import itertools
import math
from dataclasses import dataclass, field

from .errors import RequestError

MAX_LOGPROBS = 20


def _number(value, name, low, high, *, open_low=False):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise RequestError(f"{name} must be a number, not {value!r}")
    if value < low or value > high or (open_low and value == low):
        bound = f"in {'(' if open_low else '['}{low:g}, {high:g}]" if high != math.inf else f"at least {low:g}"
        raise RequestError(f"{name} must be {bound}, not {value!r}")


def _whole(value, name, low):
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise RequestError(f"{name} must be a whole number of at least {low}, not {value!r}")


def _tuple(values, what):
    try:
        return () if values is None else tuple(values)
    except TypeError:
        raise RequestError(f"{what}, not {values!r}") from None


@dataclass(frozen=True)
class SamplingParams:
    """What one request asks of the sampler. Raises RequestError for a value that cannot be used.

    max_tokens:          tokens to generate at most.
    temperature:         0 takes the most likely token.
    top_k, top_p, min_p: keep the k most likely (0: all), the nucleus of mass p (1: all), those of at least min_p times
                         the most likely's probability (0: all). All three look at the distribution before temperature.
    repetition_penalty:  divides positive and multiplies negative logits of the last `repetition_context` tokens, prompt
                         included (Keskar et al. 2019, arXiv:1909.05858); 1 is none.
    presence_penalty, frequency_penalty: subtracted once, and once per occurrence, for generated tokens (OpenAI's).
    logit_bias:          {token id: added to its logit}.
    seed:                same seed, same text, whatever else is in the batch. None draws one.
    stop:                strings that end the text; they are not part of it. stop_token_ids: the same with tokens.
    logprobs:            None, or how many of the most likely tokens to report at each position (0: the chosen only).
    ignore_eos:          go on after an end-of-sequence token.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    repetition_context: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict | None = None
    seed: int | None = None
    stop: tuple = ()
    stop_token_ids: tuple = ()
    logprobs: int | None = None
    ignore_eos: bool = False

    def __post_init__(self):
        _whole(self.max_tokens, "max_tokens", 1)
        _whole(self.top_k, "top_k", 0)
        _whole(self.repetition_context, "repetition_context", 0)
        _number(self.temperature, "temperature", 0, math.inf)
        _number(self.top_p, "top_p", 0, 1, open_low=True)
        _number(self.min_p, "min_p", 0, 1)
        _number(self.repetition_penalty, "repetition_penalty", 0, math.inf, open_low=True)
        _number(self.presence_penalty, "presence_penalty", -2, 2)
        _number(self.frequency_penalty, "frequency_penalty", -2, 2)
        for name in ("temperature", "repetition_penalty"):
            if math.isinf(getattr(self, name)):
                raise RequestError(f"{name} must be finite")
        if not isinstance(self.ignore_eos, bool):
            raise RequestError(f"ignore_eos must be True or False, not {self.ignore_eos!r}")
        if self.seed is not None:
            _whole(self.seed, "seed", 0)
        if self.logprobs is not None:
            _whole(self.logprobs, "logprobs", 0)
            if self.logprobs > MAX_LOGPROBS:
                raise RequestError(f"logprobs must be at most {MAX_LOGPROBS}, not {self.logprobs}")
        self._check_stops()

    def _check_stops(self):
        stop = (self.stop,) if isinstance(self.stop, str) else _tuple(self.stop, "stop must be a string or strings")
        if not all(isinstance(s, str) and s for s in stop):
            raise RequestError("stop must be a string or strings, none of them empty")
        object.__setattr__(self, "stop", stop)
        ids = _tuple(self.stop_token_ids, "stop_token_ids must be a list of token ids")
        object.__setattr__(self, "stop_token_ids", ids)
        for t in self.stop_token_ids:
            _whole(t, "each of stop_token_ids", 0)
        if not isinstance(self.logit_bias, (dict, type(None))):
            raise RequestError(f"logit_bias must be a dict of token ids and numbers, not {self.logit_bias!r}")
        for t, bias in (self.logit_bias or {}).items():
            _whole(t, "each token id of logit_bias", 0)
            _number(bias, f"the logit_bias of token {t}", -math.inf, math.inf)

    def check_vocabulary(self, size):
        """Raise RequestError when a token id here is not in a vocabulary of `size`."""
        for name, ids in (("stop_token_ids", self.stop_token_ids), ("logit_bias", self.logit_bias or ())):
            for t in ids:
                if t >= size:
                    raise RequestError(f"{name} names token {t}, but the vocabulary ends at {size - 1}")


@dataclass(frozen=True)
class Handling:
    """How the engine treats a request, beside what the sampler does.

    priority:   lower is served first; it may take the place of higher ones. timeout: seconds until it is ended, or None.
    cache_salt: only requests with the same salt share pages. guide: makes the object that says which tokens may come
                next (guides.py), or None. show_special: control tokens are part of the text. embed: what is wanted is the model's
                last hidden state at the prompt's last token (StreamChunk.hidden), with the first token.
    Raises RequestError for a value that cannot be used.
    """

    priority: int = 0
    timeout: float | None = None
    cache_salt: str = ""
    guide: object = None
    show_special: bool = False
    embed: bool = False

    def __post_init__(self):
        _whole(self.priority, "priority", -1000)
        if self.priority > 1000:
            raise RequestError(f"priority must be at most 1000, not {self.priority}")
        if self.timeout is not None:
            _number(self.timeout, "timeout", 0, math.inf, open_low=True)
        if not isinstance(self.cache_salt, str):
            raise RequestError(f"cache_salt must be text, not {self.cache_salt!r}")


class Status(enum.Enum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


_ids = itertools.count()


@dataclass(eq=False)
class Sequence:
    """One request on its way. The scheduler fills pages, slot, computed, pending, learned, cached, cache_note; the prefix
    cache keys; the engine tokens and finish_reason."""

    tokens: list                      # prompt, then what was generated and read back
    params: SamplingParams
    limit: int                        # tokens in all at most: min(context, what the pool holds, prompt + max_tokens)
    stop_ids: frozenset = frozenset()
    seed: int = 0
    id: int = field(default_factory=lambda: next(_ids))
    status: Status = Status.WAITING
    pages: list = field(default_factory=list)      # block table: ids of sealed pages, in order
    slot: int = -1                    # tail slot while running
    computed: int = 0                 # tokens whose K and V are in pages or tail (or will be, by launched steps)
    pending: int = 0                  # sampled tokens that are still on the device
    row: int = -1                     # its row in the last launched step's output
    finish_reason: str | None = None
    preemptions: int = 0
    num_prompt: int = 0
    priority: int = 0
    salt: str = ""                    # of the prefix cache
    guide: object = None              # says which tokens may come next, once all before them were read back
    keys: list = field(default_factory=list)       # of its complete pages, in order
    learned: int = 0                  # pages that the prefix cache was told of
    cached: int | None = None         # prompt tokens that were there when it was first admitted
    cache_note: str = ""              # why no more
    embed: bool = False               # the hidden states that its tokens are drawn from are wanted

    def __post_init__(self):
        self.num_prompt = len(self.tokens)

    @property
    def total(self):
        """Tokens there are, those still on the device included."""
        return len(self.tokens) + self.pending

    @property
    def generated(self):
        """Ids of the generated tokens that were read back."""
        return self.tokens[self.num_prompt:]

    @property
    def rank(self):
        """Sequences are served in this order."""
        return self.priority, self.id

    @property
    def finished(self):
        return self.status is Status.FINISHED
