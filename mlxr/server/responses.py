"""OpenAI's /v1/responses, without stored state: an answer as items, whole or as a stream of typed events."""

import itertools
import time
import uuid

from .asking import ask_chat
from .errors import ApiError
from .fields import ChatRequest
from .openai import begin, parts_of
from .responses_fields import ResponsesRequest
from .wire import PING, EventStream, event, json_response, while_connected


async def responses(request):
    service, fields, asked, job = await begin(request, ResponsesRequest, _ask)
    answer = _Response(service, fields, asked, job)
    if fields.stream:
        return EventStream(answer.stream(), job, answer.failed)
    return json_response(await while_connected(request, answer.whole(), job))


def _ask(service, fields):
    """The Asked of a ResponsesRequest, by way of the ChatRequest that means the same."""
    same = fields.model_dump(exclude_none=True, include={"temperature", "top_p", "seed", "parallel_tool_calls", "priority",
                                                         "timeout", "cache_salt"})
    if fields.structured_outputs:
        same["structured_outputs"] = fields.structured_outputs.model_dump(by_alias=True, exclude_none=True)
    if fields.max_output_tokens:
        same["max_tokens"] = fields.max_output_tokens
    if fields.reasoning and fields.reasoning.effort:
        same["reasoning_effort"] = fields.reasoning.effort
    if fields.tools:
        same["tools"] = [{"type": "function", "function": t.model_dump(exclude_none=True, exclude={"type"})} for t in fields.tools]
    if fields.tool_choice is not None:
        named = not isinstance(fields.tool_choice, str)
        same["tool_choice"] = {"type": "function", "function": {"name": fields.tool_choice.name}} if named else fields.tool_choice
    form = fields.text and fields.text.format
    if form and form.type == "json_schema":
        if form.schema_ is None or form.name is None:
            raise ApiError(400, "the type json_schema needs name and schema", param="text.format.schema")
        same["response_format"] = {"type": form.type, "json_schema": {"name": form.name, "schema": form.schema_}}
    elif form:
        same["response_format"] = {"type": form.type}
    return ask_chat(service, ChatRequest.model_validate({**same, "messages": _messages(fields)}, strict=False))


def _messages(fields):
    messages = [{"role": "system", "content": fields.instructions}] if fields.instructions else []
    if isinstance(fields.input, str):
        return [*messages, {"role": "user", "content": fields.input}]
    for item in fields.input:
        if item.type == "message":
            content = item.content if isinstance(item.content, str) else "".join(p.text for p in item.content)
            messages.append({"role": item.role, "content": content})
        elif item.type == "function_call":
            call = {"id": item.call_id, "type": "function", "function": {"name": item.name, "arguments": item.arguments}}
            if messages and messages[-1]["role"] == "assistant":
                messages[-1].setdefault("tool_calls", []).append(call)
            else:
                messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
        elif item.type == "function_call_output":
            output = item.output if isinstance(item.output, str) else "".join(p.text for p in item.output)
            messages.append({"role": "tool", "tool_call_id": item.call_id, "content": output})
    if not any(m["role"] != "system" for m in messages):
        raise ApiError(400, "input holds no message", param="input")
    return messages


class _Response:
    """One response on its way: its items, and the events that tell of them."""

    def __init__(self, service, fields, asked, job):
        self.fields, self.asked, self.job, self.items = fields, asked, job, []
        self._numbers, self._calls, self._reason = itertools.count(), {}, None
        form = fields.text.format.model_dump(by_alias=True, exclude_none=True) if fields.text and fields.text.format else None
        self.head = {
            "id": f"resp_{uuid.uuid4().hex}", "object": "response", "created_at": int(time.time()), "model": service.name,
            "instructions": fields.instructions, "max_output_tokens": fields.max_output_tokens, "metadata": fields.metadata or {},
            "parallel_tool_calls": fields.parallel_tool_calls is not False, "previous_response_id": None,
            "temperature": asked.params[0].temperature, "top_p": asked.params[0].top_p, "store": False,
            "text": {"format": form or {"type": "text"}}, "truncation": "disabled",
            "tools": [t.model_dump() for t in fields.tools or ()],
            "tool_choice": "auto" if fields.tool_choice is None else fields.tool_choice if isinstance(fields.tool_choice, str)
            else fields.tool_choice.model_dump(),
            "reasoning": {"effort": fields.reasoning.effort if fields.reasoning else None, "summary": None}}

    async def whole(self):
        async for _ in self.stream(pings=False):
            pass
        return self._now(self._status())

    def failed(self, error):
        """How a stream ends that cannot go on."""
        now = {**self._now("failed"), "error": {"code": error.code or "server_error", "message": error.message}}
        return self._event("response.failed", response=now)

    async def stream(self, pings=True):
        """The bytes of all events."""
        yield self._event("response.created", response=self._now("in_progress"))
        yield self._event("response.in_progress", response=self._now("in_progress"))
        async for _, parts, chunk in parts_of(self.asked, self.job):
            if chunk is None:
                yield PING
                continue
            for part in parts:
                for data in self._part(part):
                    yield data
            self._reason = chunk.finish_reason or self._reason
        if not self.items:
            for data in self._part(("content", "")):
                yield data
        for data in self._close():
            yield data
        status = self._status()
        yield self._event(f"response.{status}", response=self._now(status))

    def _status(self):
        return "incomplete" if self._reason == "length" else "completed"

    def _now(self, status):
        over = status in ("completed", "incomplete")
        usage = self.job.usage() if over else None
        return {**self.head, "status": status, "error": None, "output": self.items,
                "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
                "usage": usage and {
                    "input_tokens": usage.prompt, "output_tokens": usage.generated, "total_tokens": usage.prompt + usage.generated,
                    "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
                    "output_tokens_details": {"reasoning_tokens": 0}}}

    def _event(self, name, /, **fields):
        return event({"type": name, "sequence_number": next(self._numbers), **fields}, name)

    def _part(self, part):
        """Events of one part; opens and closes items as their kinds change."""
        kind, *rest = part
        if kind == "arguments":
            item = self._calls[rest[0]]
            item["arguments"] += rest[1]
            yield self._event("response.function_call_arguments.delta", item_id=item["id"], delta=rest[1],
                              output_index=self.items.index(item))
            return
        wanted = {"content": "message", "reasoning": "reasoning", "call": "function_call"}[kind]
        if kind == "call" or not self.items or self.items[-1]["type"] != wanted:
            if wanted == "message" and not rest[0].strip() and self.items and rest[0]:
                return                       # blank lines around calls are no message
            yield from self._close()
            yield from self._open(wanted, rest)
        if kind != "call" and rest[0]:
            item, name = self.items[-1], "output_text" if kind == "content" else "reasoning_text"
            item["content"][0]["text"] += rest[0]
            yield self._event(f"response.{name}.delta", item_id=item["id"], output_index=len(self.items) - 1, content_index=0,
                              delta=rest[0], **({"logprobs": []} if kind == "content" else {}))

    def _open(self, kind, rest):
        if kind == "function_call":
            item = {"id": f"fc_{uuid.uuid4().hex}", "type": kind, "status": "in_progress", "call_id": rest[1], "name": rest[2],
                    "arguments": ""}
            self._calls[rest[0]] = item
        elif kind == "message":
            item = {"id": f"msg_{uuid.uuid4().hex}", "type": kind, "status": "in_progress", "role": "assistant", "content": []}
        else:
            item = {"id": f"rs_{uuid.uuid4().hex}", "type": kind, "status": "in_progress", "summary": [], "content": []}
        self.items.append(item)
        yield self._event("response.output_item.added", output_index=len(self.items) - 1, item=item)
        if kind != "function_call":
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []} if kind == "message" else {
                "type": "reasoning_text", "text": ""}
            item["content"].append(part)
            yield self._event("response.content_part.added", item_id=item["id"], output_index=len(self.items) - 1,
                              content_index=0, part=part)

    def _close(self):
        """Events that end the newest item, if it is open."""
        item = self.items[-1] if self.items else None
        if item is None or item["status"] != "in_progress":
            return
        item["status"] = "incomplete" if self._reason == "length" else "completed"
        at = {"item_id": item["id"], "output_index": len(self.items) - 1}
        if item["type"] == "function_call":
            yield self._event("response.function_call_arguments.done", **at, arguments=item["arguments"], name=item["name"])
        else:
            part, message = item["content"][0], item["type"] == "message"
            name = "output_text" if message else "reasoning_text"
            yield self._event(f"response.{name}.done", **at, content_index=0, text=part["text"],
                              **({"logprobs": []} if message else {}))
            yield self._event("response.content_part.done", **at, content_index=0, part=part)
        yield self._event("response.output_item.done", output_index=len(self.items) - 1, item=item)
