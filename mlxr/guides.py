"""Structured output: grammars that say which tokens may come next, on llguidance. A guide belongs to one sequence."""

import contextlib
import json

import numpy as np

from .errors import RequestError

LONGEST = 1 << 17       # characters of a schema, regular expression or grammar
# Between the parts of a JSON text: a line break and an indent. Any amount of white space is allowed by JSON, and weak
# models then write nothing else until they run out of tokens.
JSON_OPTIONS = {"whitespace_pattern": r"\n?[ ]{0,12}"}


def json_schema(schema):
    """The grammar of JSON texts that a schema (a dict, or True for any) describes. Raises RequestError."""
    if schema is False:
        raise RequestError("the JSON schema false allows nothing")
    return _made("grammar_from_json_schema", json.dumps({} if schema is True else schema), "the JSON schema", JSON_OPTIONS)


def regex(pattern):
    """The grammar of texts that match a regular expression as a whole (Rust's syntax, without look-around)."""
    return _made("grammar_from_regex", pattern, "the regular expression")


def lark(text):
    """A grammar in llguidance's dialect of Lark."""
    return _made("grammar_from_lark", text, "the grammar")


def choice(texts):
    """The grammar of exactly one of these texts."""
    return lark("start: " + " | ".join(json.dumps(text) for text in texts))


def _made(how, text, what, *options):
    from llguidance import LLMatcher

    if len(text) > LONGEST:
        raise RequestError(f"{what} has {len(text)} characters; the limit is {LONGEST}")
    try:
        return getattr(LLMatcher, how)(text, *options)
    except ValueError as e:
        raise RequestError(f"{what} cannot be used: {_line(e)}") from None


class GuideMaker:
    """Compiles grammars for one tokenizer. vocabulary: columns of the model's logits. Threads may share it."""

    def __init__(self, tokenizer, vocabulary):
        self._tokenizer, self.vocabulary, self._made = tokenizer, vocabulary, None

    def prepare(self):
        """Read the vocabulary now, if it can be used: that keeps all other threads of Python waiting, .1 s for 49,152 tokens."""
        with contextlib.suppress(RequestError):
            self._read()

    def _read(self):
        if self._made is None:
            self._made = _tokens(self._tokenizer, self.vocabulary)
        return self._made

    def compile(self, grammar):
        """A function that makes a new Guide for a grammar. Takes milliseconds to a second. Raises RequestError."""
        from llguidance import LLMatcher

        matcher = LLMatcher(self._read(), grammar, log_level=0)
        if matcher.is_error():
            raise RequestError(f"the grammar cannot be used: {_line(matcher.get_error())}")
        return lambda: Guide(matcher.deep_copy(), self.vocabulary)


class Guide:
    """Where one sequence is in its grammar."""

    def __init__(self, matcher, vocabulary):
        self._matcher, self._words = matcher, -(-vocabulary // 32)
        self.complete = False                # whether nothing may follow

    @property
    def failed(self):
        """Why the grammar cannot go on (it became too complex), or an empty string."""
        return _line(self._matcher.get_error()) if self._matcher.is_error() else ""

    def mask(self):
        """uint32 [ceil(vocabulary / 32)]: bit t % 32 of word t // 32 says whether token t may come next."""
        bits = np.zeros(self._words, np.int32)
        self._matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        return bits.view(np.uint32)

    def advance(self, token):
        """Take the next token. Returns whether the text is complete, so that nothing may follow."""
        self._matcher.consume_token(token)
        self.complete = self._matcher.is_stopped()
        return self.complete


class _Words:
    """A Tokenizer as llguidance's wrapper wants one."""

    def __init__(self, tokenizer, vocabulary):
        self.eos_token_id, self.bos_token_id = min(tokenizer.eos_ids), tokenizer.bos_id
        self.tokens = [tokenizer.token_bytes(t) if t < tokenizer.vocab_size else b"" for t in range(vocabulary)]
        self.special_token_ids = sorted(t for t in tokenizer.special_ids if t < vocabulary)
        self._tokenizer = tokenizer

    def __call__(self, text):
        return self._tokenizer.encode(text.decode("utf-8", "replace"), add_special=False)


def _tokens(tokenizer, vocabulary):
    from llguidance import LLTokenizer
    from llguidance._tokenizer import TokenizerWrapper

    if not tokenizer.eos_ids:
        raise RequestError("this model has no end-of-sequence token, which structured output needs")
    words = TokenizerWrapper(_Words(tokenizer, vocabulary))
    return LLTokenizer(words, n_vocab=vocabulary, eos_token=sorted(t for t in tokenizer.eos_ids if t < vocabulary))


def _line(error):
    return " ".join(str(error).split())[:300]
