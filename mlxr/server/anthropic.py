"""Anthropic's /v1/messages and /v1/messages/count_tokens."""

import json
import uuid

from .anthropic_fields import CountRequest, MessagesRequest
from .asking import ask_chat
from .errors import ApiError
from .fields import ChatRequest, parse
from .openai import Answer, begin, parts_of
from .wire import PING, EventStream, event, json_response, read_body, while_connected


async def messages(request):
    service, fields, asked, job = await begin(request, MessagesRequest, _ask)
    if fields.stream:
        request_id = request.state.request_id
        return EventStream(_stream(service, asked, job), job, lambda error: event(error.anthropic(request_id), "error"))
    return json_response(await while_connected(request, _whole(service, asked, job), job))


async def count_tokens(request):
    models = request.app.state.models
    fields = parse(CountRequest, await read_body(request, models.config))
    async with models.use(fields.model) as service:
        asked = await service.off_thread(_ask, service, fields)
    return json_response({"input_tokens": len(asked.prompts[0])})


def _ask(service, fields):
    """The Asked of a MessagesRequest, by way of the ChatRequest that means the same."""
    same = fields.model_dump(exclude_none=True, exclude={"messages", "system", "tools", "tool_choice", "thinking", "metadata",
                                                         "stop_sequences", "structured_outputs", "service_tier", "cache_control",
                                                         "output_config"})
    if getattr(fields, "structured_outputs", None):
        same["structured_outputs"] = fields.structured_outputs.model_dump(by_alias=True, exclude_none=True)
    if getattr(fields, "stop_sequences", None):
        same["stop"] = fields.stop_sequences
    output = getattr(fields, "output_config", None)
    if output and output.format:
        same["response_format"] = {"type": "json_schema", "json_schema": {"name": "output", "schema": output.format.schema_}}
    if output and output.effort:
        same["reasoning_effort"] = output.effort
    if fields.thinking:
        same["chat_template_kwargs"] = {"enable_thinking": fields.thinking.type != "disabled"}
    if fields.tools:
        same["tools"] = [{"type": "function", "function": {"name": t.name, "parameters": t.input_schema,
                                                           **({"description": t.description} if t.description else {})}}
                         for t in fields.tools]
    choice = fields.tool_choice
    if choice:
        if choice.type == "tool" and not choice.name:
            raise ApiError(400, "a tool choice of type 'tool' needs a name", param="tool_choice.name")
        same["tool_choice"] = ({"type": "function", "function": {"name": choice.name}} if choice.type == "tool"
                               else {"any": "required"}.get(choice.type, choice.type))
        same["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    return ask_chat(service, ChatRequest.model_validate({**same, "messages": _messages(fields)}, strict=False))


def _text(content):
    return content if isinstance(content, str) else "".join(b.text for b in content or ())


def _messages(fields):
    out = [{"role": "system", "content": _text(fields.system)}] if fields.system else []
    for i, turn in enumerate(fields.messages):
        if isinstance(turn.content, str):
            out.append({"role": turn.role, "content": turn.content})
            continue
        blocks = {kind: [b for b in turn.content if b.type == kind] for kind in ("text", "thinking", "tool_use", "tool_result")}
        if blocks["tool_use" if turn.role == "user" else "tool_result"]:
            raise ApiError(400, "tool_use belongs to the assistant's turns, tool_result to the user's", param=f"messages[{i}].content")
        out += [{"role": "tool", "tool_call_id": b.tool_use_id, "content": _text(b.content)} for b in blocks["tool_result"]]
        message = {"role": turn.role, "content": _text(blocks["text"])}
        if blocks["thinking"]:
            message["reasoning_content"] = "".join(b.thinking for b in blocks["thinking"])
        if blocks["tool_use"]:
            message["tool_calls"] = [{"id": b.id, "type": "function", "function": {"name": b.name, "arguments": json.dumps(b.input)}}
                                     for b in blocks["tool_use"]]
        if blocks["text"] or blocks["tool_use"] or not blocks["tool_result"]:
            out.append(message)
    return out


def _usage(job):
    usage = job.usage()
    return {"input_tokens": usage.prompt - usage.cached, "cache_read_input_tokens": usage.cached,
            "cache_creation_input_tokens": 0, "output_tokens": usage.generated}


def _reason(job, reason):
    """(stop_reason, stop_sequence)"""
    if reason == "stop" and job.requests[0].watch.found:
        return "stop_sequence", job.requests[0].watch.found
    return {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}[reason], None


def _head(service):
    return {"id": f"msg_{uuid.uuid4().hex}", "type": "message", "role": "assistant", "model": service.name}


async def _whole(service, asked, job):
    answer = Answer()
    async for _, parts, chunk in parts_of(asked, job):
        if chunk:
            answer.add(parts, chunk)
    content = [{"type": "thinking", "thinking": answer.reasoning, "signature": ""}] if answer.reasoning else []
    if answer.content.strip() or not answer.calls:
        content.append({"type": "text", "text": answer.content})
    content += [{"type": "tool_use", "id": id, "name": name, "input": _input(text)} for id, name, text in answer.calls]
    reason, sequence = _reason(job, answer.reason)
    return {**_head(service), "content": content, "stop_reason": reason, "stop_sequence": sequence, "usage": _usage(job)}


def _input(text):
    """A call's arguments as an object; a model that was cut off may have written half of one."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {"_unparsed": text}
    return value if isinstance(value, dict) else {"value": value}


async def _stream(service, asked, job):
    blocks, kind, reason = -1, None, None

    def send(name, **fields):
        return event({"type": name, **fields}, name)

    started = {**_head(service), "content": [], "stop_reason": None, "stop_sequence": None}
    yield send("message_start", message={**started, "usage": {**_usage(job), "output_tokens": 0}})
    async for _, parts, chunk in parts_of(asked, job):
        if chunk is None:
            yield PING
            continue
        for part in parts:
            if part[0] != "arguments" and (part[0] == "call" or part[0] != kind):
                if part[0] == "content" and kind and not part[1].strip():
                    continue                 # blank lines around calls are no text
                if kind:
                    yield send("content_block_stop", index=blocks)
                kind, blocks = part[0], blocks + 1
                empty = {"content": {"type": "text", "text": ""}, "reasoning": {"type": "thinking", "thinking": "", "signature": ""},
                         "call": {"type": "tool_use", "id": part[2] if kind == "call" else "", "name": part[-1], "input": {}}}[kind]
                yield send("content_block_start", index=blocks, content_block=empty)
            if part[0] != "call":
                delta = {"content": ("text_delta", "text"), "reasoning": ("thinking_delta", "thinking"),
                         "arguments": ("input_json_delta", "partial_json")}[part[0]]
                yield send("content_block_delta", index=blocks, delta={"type": delta[0], delta[1]: part[-1]})
        reason = chunk.finish_reason or reason
    if kind:
        yield send("content_block_stop", index=blocks)
    reason, sequence = _reason(job, reason)
    yield send("message_delta", delta={"stop_reason": reason, "stop_sequence": sequence}, usage=_usage(job))
    yield send("message_stop")
