"""Limits on what an untrusted chat template may do: time, the size of text and lists, and the numbers it pads with.

A template cannot loop without end, but nested loops, doubled strings and paddings come to the same. Every loop turn,
call, filter and operator that can make something large asks here first.
"""

import re
import time
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

_MAX_PADDING = 100_000  # columns, indents, digits
_MAX_BITS = 4096  # of an integer
_LONG_NUMBER = re.compile(r"\d{6}")
_COMPUTED_WIDTH = re.compile(r"%[^A-Za-z%]*\*|\{[^{}]*\{")


class LimitExceeded(Exception):
    """The template does too much; the message says of what."""


class Budget:
    """Of one rendering. `work` counts characters and list items made, `seconds` is wall-clock time."""

    def __init__(self, seconds: float, work: int):
        self.deadline = time.monotonic() + seconds
        self.seconds = seconds
        self.work = work
        self.text = work // 4  # the longest single text

    def spend(self, amount: int = 0) -> None:
        self.work -= amount + 1
        if self.work < 0:
            raise LimitExceeded("it makes too much text")
        if time.monotonic() > self.deadline:
            raise LimitExceeded(f"it takes longer than {self.seconds:g} seconds")

    def text_of(self, length: int) -> None:
        if length > self.text:
            raise LimitExceeded("it makes too long a text")
        self.spend(length)

    def measure(self, value: Any) -> int:
        """Characters and items in a value, counting what is shared as often as it appears. Stops at the limit."""
        if isinstance(value, str):
            return len(value)
        size, waiting = 0, [value]
        while waiting:
            item = waiting.pop()
            size += len(item) if isinstance(item, str) else 1
            if isinstance(item, dict):
                waiting += item.keys()
                waiting += item.values()
            elif isinstance(item, (list, tuple)):
                waiting += item
            if size + len(waiting) > self.text:
                raise LimitExceeded("it makes too large a list")
        return size

    def made(self, value: Any) -> Any:
        """A new value, after a check of its size; iterators pass, as their consumers ask again."""
        if isinstance(value, str):
            self.text_of(len(value))
        elif isinstance(value, (list, tuple, dict)):
            self.spend(self._items(value))
        elif isinstance(value, int) and value.bit_length() > _MAX_BITS:
            raise LimitExceeded("it makes too large a number")
        else:
            self.spend()
        return value

    def _items(self, value: Any) -> int:
        """Items in nested lists, counted with repetition; text counts as one."""
        count, waiting = 0, [value]
        while waiting:
            item = waiting.pop()
            count += len(item)
            waiting += [part for part in (item.values() if isinstance(item, dict) else item)
                        if isinstance(part, (list, tuple, dict))]
            if count + len(waiting) > self.text // 8:
                raise LimitExceeded("it makes too large a list")
        return count

    def operator(self, operator: str, left: Any, right: Any) -> None:
        """Before left <operator> right."""
        if operator == "%":
            if isinstance(left, str):
                self.formatting(left, right)
        elif isinstance(left, (int, float)) and isinstance(right, (int, float)):
            bits = [part.bit_length() if isinstance(part, int) else 64 for part in (left, right)]
            whole = isinstance(left, int) and isinstance(right, int)
            if operator == "**" and whole and right > 0 and bits[0] * right > _MAX_BITS or max(bits) > _MAX_BITS:
                raise LimitExceeded("it makes too large a number")
        elif operator == "*":
            for sequence, times in ((left, right), (right, left)):
                if isinstance(sequence, (str, list, tuple)) and isinstance(times, int):
                    self.text_of(len(sequence) * max(times, 0))
        elif isinstance(left, (str, list, tuple)) and isinstance(right, (str, list, tuple)):
            self.text_of(len(left) + len(right))

    def formatting(self, text: str, values: Any) -> None:
        """Before text % values or text.format(values)."""
        if _LONG_NUMBER.search(text) or _COMPUTED_WIDTH.search(text):
            raise LimitExceeded("it formats with too wide, or computed, columns")
        self.text_of(len(text) + (text.count("%") + text.count("{")) * (self.measure(values) + 400))

    def padding(self, arguments: Iterable[Any]) -> None:
        """Numbers given to filters and methods: none has to be large."""
        if any(isinstance(argument, int) and abs(argument) > _MAX_PADDING for argument in arguments):
            raise LimitExceeded(f"it calls a filter or method with a number above {_MAX_PADDING}")

    def replacing(self, text: str, old: Any, new: Any) -> None:
        """Before text.replace(old, new)."""
        self.text_of(len(text) + text.count(str(old)) * len(str(new)))

    def joining(self, separator: Any, items: Any) -> None:
        """Before separator.join(items), items being a list."""
        self.text_of(self.measure(items) + len(str(separator)) * len(items))

    def indenting(self, text: str, width: Any) -> None:
        """Before each line of text moves right."""
        self.text_of(len(text) + (text.count("\n") + 1) * (width if isinstance(width, int) else len(str(width))))


BUDGET: ContextVar[Budget] = ContextVar("chat template budget")
