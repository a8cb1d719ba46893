"""Takes generated text apart as it comes: reasoning, content, and tool calls with their arguments."""

import json
import uuid
from dataclasses import dataclass

# A part is a tuple: ("reasoning", text), ("content", text), ("call", number, id, name), ("arguments", number, text).


@dataclass
class Splitter:
    """One answer's text on its way.

    thinking: (start, end) marks around reasoning, or None; inside: whether the prompt opened it already.
    tools: the ToolFormat in which calls come, or None. schemas: the request's tools, for formats that need their types.
    """

    thinking: tuple | None = None
    inside: bool = False
    tools: object = None
    schemas: list | None = None
    many: bool = True                  # more than one call is let through
    calls: int = 0
    _held: str = ""
    _state: str = "start"
    _call: object = None

    def __post_init__(self):
        if self.inside:
            self._state = "reasoning"

    def add(self, text, last=False):
        """The parts that this text completes. last: nothing follows."""
        self._held += text
        parts = []
        while True:
            before = len(self._held), self._state
            self._step(parts, last)
            if (len(self._held), self._state) == before:
                break
        return _joined(parts)

    def _step(self, parts, last):
        if self._state == "start":                   # a reasoning mark may only open the answer
            self._begin(last)
        elif self._state == "reasoning":
            found = self._until(self.thinking[1], parts, "reasoning", last)
            if found:
                self._state = "after"
        elif self._state == "after":                 # blank lines between reasoning and answer belong to neither
            self._held = self._held.lstrip()
            if self._held or last:
                self._state = "content"
        elif self._state == "content":
            found = self._until(self.tools.start if self.tools else None, parts, "content", last)
            if found:
                self._state, self._call = "call", _Call(self.tools, self.schemas)
        else:
            self._in_call(parts, last)

    def _begin(self, last):
        text = self._held.lstrip()
        start = self.thinking[0] if self.thinking else None
        if start and text.startswith(start):
            self._held, self._state = text[len(start):].removeprefix("\n"), "reasoning"
        elif not start or last or (text and not start.startswith(text)):
            self._state = "content"

    def _until(self, mark, parts, kind, last):
        """Move held text up to a mark into parts, keeping back what may begin the mark. Returns whether it was there."""
        at = self._held.find(mark) if mark else -1
        if at >= 0:
            text, self._held = self._held[:at], self._held[at + len(mark):]
        else:
            keep = 0 if last or not mark else overlap(self._held, mark)
            text, self._held = self._held[:len(self._held) - keep], self._held[len(self._held) - keep:]
        if text:
            parts.append((kind, text))
        return at >= 0

    def _in_call(self, parts, last):
        end = self.tools.end
        at = self._held.find(end) if end else -1
        if at < 0 and not last:
            keep = overlap(self._held, end) if end else 0
            body, self._held = self._held[:len(self._held) - keep], self._held[len(self._held) - keep:]
            self._emit(parts, self._call.add(body))
            return
        cut = at if at >= 0 else len(self._held)
        body, self._held = self._held[:cut], self._held[cut + len(end) if at >= 0 else cut:]
        streamed, whole = self._call.add(body), self._call.finish()
        self._emit(parts, streamed)
        if whole is None:                            # it was no call: show the text as it came
            parts.append(("content", self.tools.start + self._call.text + (end if at >= 0 else "")))
        else:
            self._emit(parts, whole)
        self.calls += self._call.made
        self._state, self._call = "content", None
        self._held = self._held.lstrip()

    def _emit(self, parts, events):
        for number, *rest in events:
            number += self.calls
            if number and not self.many:
                continue
            if rest[0] == "call":
                parts.append(("call", number, rest[2] or f"call_{uuid.uuid4().hex[:24]}", rest[1]))
            else:
                parts.append(("arguments", number, rest[1]))


def overlap(text, mark):
    """Length of the longest end of text that begins mark, short of all of it."""
    return next((n for n in range(min(len(text), len(mark) - 1), 0, -1) if mark.startswith(text[-n:])), 0)


def _joined(parts):
    """Parts with neighbours of one kind put together."""
    out = []
    for part in parts:
        if out and out[-1][:-1] == part[:-1] and part[0] != "call":
            out[-1] = (*part[:-1], out[-1][-1] + part[-1])
        else:
            out.append(part)
    return out


class _Call:
    """The text between the marks of one call, or of several where the format puts them together.

    Events: (number, "call", name, id or None) and (number, "arguments", text). made: calls so far.
    """

    def __init__(self, tools, schemas):
        self.tools, self.schemas, self.text, self.made = tools, schemas, "", 0
        self._arguments = None                       # reads arguments as they come, where the format is plain JSON

    def add(self, text):
        self.text += text
        if not self.tools.streams:
            return []
        events = []
        if self._arguments is None:
            head = self.tools.head(self.text)
            if head is None:
                return []
            name, at = head
            self._arguments, self.made = JsonEnd(), 1
            events.append((0, "call", name, None))
            text = self.text[at:]
        piece = self._arguments.take(text)
        return events + ([(0, "arguments", piece)] if piece else [])

    def finish(self):
        """What was not told yet, or None when this is no call."""
        if self._arguments is not None:
            return []
        calls = self.tools.parse(self.text, self.schemas)
        if not calls:
            return None
        self.made = len(calls)
        events = []
        for i, call in enumerate(calls):
            arguments = call.get("arguments") or {}
            if not isinstance(arguments, str):
                arguments = json.dumps(arguments, ensure_ascii=False)
            events += [(i, "call", call["name"], call.get("id")), (i, "arguments", arguments)]
        return events


class JsonEnd:
    """Passes the text of one JSON object or array on, and drops what follows it."""

    def __init__(self):
        self.depth, self.text, self.escaped, self.done = 0, False, False, False

    def take(self, piece):
        for i, c in enumerate(piece):
            if self.done:
                return piece[:i]
            if self.text:
                if self.escaped:
                    self.escaped = False
                elif c == "\\":
                    self.escaped = True
                elif c == '"':
                    self.text = False
            elif c == '"':
                self.text = True
            elif c in "{[":
                self.depth += 1
            elif c in "}]":
                self.depth -= 1
                self.done = self.depth <= 0
        return piece
