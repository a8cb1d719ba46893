"""OpenAI's /v1/chat/completions and /v1/completions: answers whole and as streams."""

import time
import uuid

from .asking import ask_chat, ask_completion
from .errors import unfinished
from .fields import ChatRequest, CompletionRequest, parse
from .wire import PING, EventStream, event, json_response, read_body, while_connected


async def chat(request):
    service, fields, asked, job = await begin(request, ChatRequest, ask_chat)
    if fields.stream:
        usage = fields.stream_options is not None and bool(fields.stream_options.include_usage)
        return EventStream(_chat_stream(service, asked, job, usage), job, stream_failed)
    return json_response(await while_connected(request, _chat_answer(service, asked, job), job))


async def completions(request):
    service, fields, asked, job = await begin(request, CompletionRequest, ask_completion)
    echoes = [service.tokenizer.decode(p, skip_special=True) for p in asked.prompts] if fields.echo else None
    if fields.stream:
        usage = fields.stream_options is not None and bool(fields.stream_options.include_usage)
        return EventStream(_completion_stream(service, asked, job, usage, echoes), job, stream_failed)
    return json_response(await while_connected(request, _completion_answer(service, asked, job, echoes), job))


async def begin(request, model, ask):
    """(Service, fields, Asked, running Job) of a request. Raises ApiError."""
    models = request.app.state.models
    fields = parse(model, await read_body(request, models.config))
    async with models.use(fields.model) as service:
        asked = await service.off_thread(ask, service, fields)
        job = await service.start(asked.prompts, asked.params, asked.handling, request.url.path, bool(fields.stream))
    request.state.job = job
    return service, fields, asked, job


def stream_failed(error):
    return event(error.openai()) + event("[DONE]")


async def parts_of(asked, job):
    """(index, parts, chunk) of each chunk; (None, None, None) after a silence. Raises ApiError where an answer was cut off."""
    splitters = [asked.new_splitter() for _ in asked.prompts]
    async for i, chunk in job:
        if chunk is None:
            yield None, None, None
            continue
        error = unfinished(chunk.finish_reason)
        if error:
            raise error
        parts = splitters[i].add(chunk.text, last=chunk.finish_reason is not None)
        if chunk.finish_reason and splitters[i].calls:
            chunk.finish_reason = "tool_calls"
        yield i, parts, chunk


def _head(prefix, kind, service):
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()),
            "model": service.name, "system_fingerprint": f"mlxr-{service.info['backend']}"}


# ---------------------------------------------------------------------- chat


async def _chat_answer(service, asked, job):
    answers = [Answer() for _ in asked.prompts]
    async for i, parts, chunk in parts_of(asked, job):
        if chunk:
            answers[i].add(parts, chunk)
    choices = []
    for i, a in enumerate(answers):
        message = {"role": "assistant", "content": a.content if a.content or not a.calls else None, "refusal": None}
        if a.reasoning:
            message["reasoning_content"] = a.reasoning
        if a.calls:
            message["tool_calls"] = a.tool_calls()
        choices.append({"index": i, "message": message, "finish_reason": a.reason,
                        "logprobs": _chat_logprobs(service, a.logprobs)})
    return {**_head("chatcmpl", "chat.completion", service), "choices": choices, "usage": job.usage(asked.copies).openai()}


class Answer:
    """What the parts of one answer add up to."""

    def __init__(self):
        self.content, self.reasoning, self.calls, self.reason, self.logprobs = "", "", [], None, None

    def add(self, parts, chunk):
        for kind, *rest in parts:
            if kind == "content":
                self.content += rest[0]
            elif kind == "reasoning":
                self.reasoning += rest[0]
            elif kind == "call":
                self.calls.append([rest[1], rest[2], ""])
            else:
                self.calls[rest[0]][2] += rest[1]
        self.reason = chunk.finish_reason or self.reason
        if chunk.logprobs is not None:
            self.logprobs = (self.logprobs or []) + chunk.logprobs

    def tool_calls(self):
        return [{"id": id, "type": "function", "function": {"name": name, "arguments": text}} for id, name, text in self.calls]


async def _chat_stream(service, asked, job, usage):
    head = _head("chatcmpl", "chat.completion.chunk", service)
    extra = {"usage": None} if usage else {}

    def chunk_of(i, delta, reason=None, logprobs=None):
        return event({**head, "choices": [{"index": i, "delta": delta, "finish_reason": reason, "logprobs": logprobs}], **extra})

    for i in range(len(asked.prompts)):
        yield chunk_of(i, {"role": "assistant", "content": ""})
    async for i, parts, chunk in parts_of(asked, job):
        if chunk is None:
            yield PING
            continue
        logprobs = _chat_logprobs(service, chunk.logprobs)
        for part in parts:
            yield chunk_of(i, _delta(part), None, logprobs)
            logprobs = None
        if chunk.finish_reason or logprobs:
            yield chunk_of(i, {}, chunk.finish_reason, logprobs)
    if usage:
        yield event({**head, "choices": [], "usage": job.usage(asked.copies).openai()})
    yield event("[DONE]")


def _delta(part):
    kind, *rest = part
    if kind == "content":
        return {"content": rest[0]}
    if kind == "reasoning":
        return {"reasoning_content": rest[0]}
    if kind == "call":
        call = {"index": rest[0], "id": rest[1], "type": "function", "function": {"name": rest[2], "arguments": ""}}
    else:
        call = {"index": rest[0], "function": {"arguments": rest[1]}}
    return {"tool_calls": [call]}


def _chat_logprobs(service, logprobs):
    if logprobs is None:
        return None

    def one(token, logprob):
        data = service.tokenizer.token_bytes(token)
        return {"token": data.decode("utf-8", "replace"), "logprob": max(logprob, -9999.0), "bytes": list(data)}
    return {"content": [{**one(x.token_id, x.logprob), "top_logprobs": [one(t, p) for t, p in x.top.items()]}
                        for x in logprobs], "refusal": None}


# ---------------------------------------------------------------------- completions


async def _completion_answer(service, asked, job, echoes):
    texts, reasons, logprobs = echoes or [""] * job.n, [None] * job.n, [None] * job.n
    async for i, parts, chunk in parts_of(asked, job):
        if chunk:
            texts[i] += "".join(part[-1] for part in parts)
            reasons[i] = chunk.finish_reason or reasons[i]
            if chunk.logprobs is not None:
                logprobs[i] = (logprobs[i] or []) + chunk.logprobs
    choices = [{"index": i, "text": texts[i], "finish_reason": reasons[i], "logprobs": _legacy_logprobs(service, logprobs[i])[0]}
               for i in range(job.n)]
    return {**_head("cmpl", "text_completion", service), "choices": choices, "usage": job.usage(asked.copies).openai()}


async def _completion_stream(service, asked, job, usage, echoes):
    head = _head("cmpl", "text_completion", service)
    extra, offsets = {"usage": None} if usage else {}, [0] * job.n

    def chunk_of(i, text, reason=None, logprobs=None):
        return event({**head, "choices": [{"index": i, "text": text, "finish_reason": reason, "logprobs": logprobs}], **extra})

    for i, echo in enumerate(echoes or ()):
        yield chunk_of(i, echo)
    async for i, parts, chunk in parts_of(asked, job):
        if chunk is None:
            yield PING
            continue
        text = "".join(part[-1] for part in parts)
        if text or chunk.finish_reason or chunk.logprobs:
            logprobs, offsets[i] = _legacy_logprobs(service, chunk.logprobs, offsets[i])
            yield chunk_of(i, text, chunk.finish_reason, logprobs)
    if usage:
        yield event({**head, "choices": [], "usage": job.usage(asked.copies).openai()})
    yield event("[DONE]")


def _legacy_logprobs(service, logprobs, offset=0):
    """(OpenAI's older form, the text offset after it)."""
    if logprobs is None:
        return None, offset
    tokens = [x.text for x in logprobs]
    offsets = [offset + sum(map(len, tokens[:i])) for i in range(len(tokens) + 1)]
    text = service.tokenizer.token_text
    return {"tokens": tokens, "token_logprobs": [x.logprob for x in logprobs], "text_offset": offsets[:-1],
            "top_logprobs": [{text(t): p for t, p in x.top.items()} for x in logprobs]}, offsets[-1]
