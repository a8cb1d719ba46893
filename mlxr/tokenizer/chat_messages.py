"""Checks chat messages and turns what a template will see into plain JSON values, copied from the caller's."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import RequestError

_MAX_DEPTH = 64
_REASONING = ("reasoning_content", "thinking", "reasoning")  # names that clients give a message's reasoning


def check_messages(messages: Any) -> list[dict]:
    """Copies of the messages. Raises RequestError, naming the message, where one is malformed.

    Content that is a list of text parts becomes one text; other kinds of parts are refused.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise RequestError(f"messages must be a list of {{role, content}} objects, not {type(messages).__name__}")
    if not messages:
        raise RequestError("messages is empty; give at least one message")
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def check_values(values: Mapping[str, Any]) -> dict:
    """Plain copies of tools, documents and a template's other variables. Raises RequestError."""
    for name in ("tools", "documents"):
        items = values.get(name)
        if items is not None and not (isinstance(items, (list, tuple)) and all(isinstance(x, Mapping) for x in items)):
            raise RequestError(f"{name} must be a list of objects")
    return {name: _plain(value, name) for name, value in values.items()}


def _message(message: Any, where: str) -> dict:
    if not isinstance(message, Mapping):
        raise RequestError(f"{where} must be an object with role and content, not {type(message).__name__}")
    message = _plain(message, where)
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise RequestError(f"{where}: role must be text such as 'user', found {str(role)[:40]!r}")
    if message.get("content") is None:
        if not message.get("tool_calls"):
            raise RequestError(f"{where}: content is missing")
    elif not isinstance(message["content"], str):
        message["content"] = _joined(message["content"], f"{where}: content")
    reasoning = next((message[name] for name in _REASONING if message.get(name) is not None), None)
    if reasoning is not None:  # templates read the first name, or the second
        message = {"thinking": reasoning, **message, "reasoning_content": reasoning}
    return message


def _joined(parts: Any, where: str) -> str:
    if not isinstance(parts, list):
        raise RequestError(f"{where} must be text or a list of text parts, not {type(parts).__name__}")
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        if kind != "text":
            raise RequestError(f"{where} has a part of type {str(kind)[:40]!r}; only text is supported")
        if not isinstance(part.get("text"), str):
            raise RequestError(f"{where} has a text part without text")
    return "".join(part["text"] for part in parts)


def _plain(value: Any, where: str, depth: int = 0) -> Any:
    """A copy out of None, bool, int, float, str, list and dict alone, so that a template can reach no other object."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if depth > _MAX_DEPTH:
        raise RequestError(f"{where} is nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise RequestError(f"{where} has a key that is not text")
        return {str.__str__(key): _plain(item, where, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, where, depth + 1) for item in value]
    for kind in (str, int, float):  # enums and other subclasses
        if isinstance(value, kind):
            return getattr(kind, f"__{kind.__name__}__")(value)
    raise RequestError(f"{where} holds a {type(value).__name__}, which is not a JSON value")
