"""From a checked request to what the engine takes: token ids, sampling parameters, a guide; and how to read the answer."""

import json
from dataclasses import dataclass, field

from .. import guides
from ..errors import RequestError
from ..sequence import Handling, SamplingParams
from .errors import ApiError
from .parts import Splitter
from .tool_formats import described, thinking_marks, tool_format


@dataclass
class Asked:
    """prompts: ids, one for each sequence (`copies` in a row are the same). new_splitter(): for the text of one of them."""

    prompts: list
    params: list
    handling: Handling
    copies: int = 1
    splitting: dict = field(default_factory=dict)

    def new_splitter(self):
        return Splitter(**self.splitting)


def ask_chat(service, request):
    """The Asked of a ChatRequest. Slow (template, tokenizer, grammar): not for the event loop. Raises RequestError, ApiError."""
    tokenizer = service.tokenizer
    messages = [_message(m) for m in request.messages]
    tools = [t.model_dump(exclude_none=True) for t in request.tools or ()]
    choice = request.tool_choice if isinstance(request.tool_choice, (str, type(None))) else request.tool_choice.function.name
    many = request.parallel_tool_calls is not False
    calls, forced = _tools(tokenizer, tools, choice, request)
    variables = {**(request.chat_template_kwargs or {})}
    if request.reasoning_effort is not None:
        variables["reasoning_effort"] = request.reasoning_effort
    for name in ("messages", "tools", "documents", "chat_template", "add_generation_prompt"):
        if name in variables:
            raise ApiError(400, f"{name!r} cannot be a variable of the chat template", param=f"chat_template_kwargs.{name}")
    if calls and calls.injected:
        messages = _with_system(messages, described(tools))
    elif calls:
        variables["tools"] = tools
    ids = tokenizer.encode_chat(messages, **variables)
    grammar = calls.grammar(forced, many) if forced else _grammar(request)
    thinking = thinking_marks(tokenizer.chat_template) if grammar is None else None
    inside = bool(thinking) and tokenizer.decode(ids[-8:]).rstrip().endswith(thinking[0])
    handling = _handling(service, request, guides.lark(grammar) if forced else grammar, _hidden(tokenizer, calls, thinking))
    top = (request.top_logprobs or 0) if request.logprobs else None
    if request.top_logprobs is not None and not request.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs to be true", param="top_logprobs")
    most = request.max_completion_tokens or request.max_tokens
    copies = request.n or 1
    params = _params(service, request, most, top, copies)
    return Asked([ids] * copies, params, handling, copies,
                 dict(thinking=thinking, inside=inside, tools=calls, schemas=tools, many=many))


def ask_completion(service, request):
    """The same of a CompletionRequest."""
    prompts = request.prompt if isinstance(request.prompt, list) and not isinstance(request.prompt[0], int) else [request.prompt]
    ids = [service.tokenizer.encode(p) if isinstance(p, str) else p for p in prompts]
    copies = request.n or 1
    if request.best_of not in (None, copies):
        raise ApiError(400, "best_of must equal n: all answers are returned", param="best_of")
    if request.echo and request.logprobs is not None:
        raise ApiError(400, "echo with logprobs is not supported: logprobs are those of generated tokens", param="echo")
    handling = _handling(service, request, _grammar(request), False)
    params = _params(service, request, request.max_tokens or 16, request.logprobs, copies)
    return Asked([p for p in ids for _ in range(copies)], params * len(ids), handling, copies)


def tokenize(service, request):
    """The ids of a TokenizeRequest."""
    if (request.prompt is None) == (request.messages is None):
        raise ApiError(400, "give either prompt or messages", param="prompt")
    if request.prompt is not None:
        return service.tokenizer.encode(request.prompt, add_special=request.add_special_tokens)
    tools = [t.model_dump(exclude_none=True) for t in request.tools or ()]
    return list(service.tokenizer.encode_chat([_message(m) for m in request.messages], tools=tools or None,
                                              add_generation_prompt=request.add_generation_prompt))


def _message(message):
    """A Message as chat templates know it."""
    out = message.model_dump(exclude_none=True, exclude={"refusal", "annotations", "audio", "function_call"})
    if out["role"] == "developer":
        out["role"] = "system"
    if isinstance(out.get("content"), list):
        out["content"] = "".join(part["text"] for part in out["content"])
    for call in out.get("tool_calls", ()):
        call.pop("index", None)
        try:
            arguments = json.loads(call["function"]["arguments"] or "{}")
        except ValueError:
            continue
        if isinstance(arguments, dict):              # most templates write it as JSON themselves
            call["function"]["arguments"] = arguments
    if out.get("tool_calls"):
        out.setdefault("content", "")
    return out


def _with_system(messages, text):
    if messages[0]["role"] == "system":
        first = {**messages[0], "content": f"{messages[0].get('content', '')}\n\n{text}"}
        return [first, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def _tools(tokenizer, tools, choice, request):
    """(the format in which calls may come or None, the tools of which one has to be called)."""
    if choice not in (None, "none", "auto") and not tools:
        raise ApiError(400, "tool_choice needs tools", param="tool_choice")
    if not tools or choice == "none":
        return None, []
    calls = tool_format(tokenizer.chat_template)
    if choice in (None, "auto"):
        if _structure(request):
            raise ApiError(400, "a response format cannot be combined with tools, unless tool_choice is 'none'", param="tools")
        return calls, []
    forced = tools if choice == "required" else [t for t in tools if t["function"]["name"] == choice]
    if not forced:
        raise ApiError(400, f"tool_choice names {choice!r}, which is not among tools", param="tool_choice")
    if _structure(request):
        raise ApiError(400, "a response format cannot be combined with a forced tool call", param="tool_choice")
    if not calls.streams:
        raise ApiError(400, f"this model writes calls in the {calls.name} format, which cannot be forced; use 'auto'",
                       param="tool_choice")
    return calls, forced


def _structure(request):
    form = getattr(request, "response_format", None)
    return request.structured_outputs or (form if form and form.type != "text" else None)


def _grammar(request):
    """The grammar that the answer must follow, or None. Raises RequestError, ApiError."""
    form, given = getattr(request, "response_format", None), request.structured_outputs
    if form and form.type != "text":
        if given:
            raise ApiError(400, "give response_format or structured_outputs, not both", param="structured_outputs")
        if form.type == "json_object":
            return _named(guides.json_schema, {"type": "object"}, "response_format")
        if not form.json_schema:
            raise ApiError(400, "the type json_schema needs json_schema", param="response_format.json_schema")
        return _named(guides.json_schema, form.json_schema.schema_, "response_format.json_schema.schema")
    if not given:
        return None
    asked = {"json": given.json_, "regex": given.regex, "choice": given.choice, "grammar": given.grammar}
    asked = {name: value for name, value in asked.items() if value is not None}
    if len(asked) != 1:
        raise ApiError(400, "give exactly one of json, regex, choice and grammar", param="structured_outputs")
    (name, value), = asked.items()
    make = {"json": guides.json_schema, "regex": guides.regex, "choice": guides.choice, "grammar": guides.lark}[name]
    return _named(make, value, f"structured_outputs.{name}")


def _named(make, value, param):
    try:
        return make(value)
    except RequestError as e:
        raise ApiError(400, str(e), param=param) from None


def _hidden(tokenizer, calls, thinking):
    """Whether the marks of calls or reasoning are control tokens, which text does not show otherwise."""
    marks = [*(thinking or ()), *((calls.start, calls.end) if calls else ())]
    return any(tokenizer.special_ids.intersection(tokenizer.encode(m, add_special=False)) for m in marks if m)


def _handling(service, request, grammar, show_special):
    guide = None
    if grammar is not None:
        try:
            guide = service.guides.compile(grammar)
        except RequestError as e:
            raise ApiError(400, str(e), param="structured_outputs" if request.structured_outputs else "response_format") from None
    limit = service.config.timeout
    timeout = min(request.timeout or limit, limit) if limit else request.timeout
    return Handling(priority=request.priority or 0, timeout=timeout, cache_salt=request.cache_salt or "", guide=guide,
                    show_special=show_special)


def _params(service, request, most, logprobs, copies):
    """SamplingParams of `copies` answers; each has a seed of its own."""
    def given(name, default):
        value = getattr(request, name, None)
        return default if value is None else value

    stop = request.stop or ()
    bias = {int(t): b for t, b in (request.logit_bias or {}).items()}
    seeds = [None if request.seed is None else (request.seed + i) % (1 << 64) for i in range(copies)]
    return [SamplingParams(
        max_tokens=most or service.config.max_tokens, temperature=given("temperature", 1.0), top_p=given("top_p", 1.0),
        top_k=given("top_k", 0), min_p=given("min_p", 0.0), repetition_penalty=given("repetition_penalty", 1.0),
        presence_penalty=given("presence_penalty", 0.0), frequency_penalty=given("frequency_penalty", 0.0),
        logit_bias=bias or None, seed=seed, stop=(stop,) if isinstance(stop, str) else tuple(stop), logprobs=logprobs,
        ignore_eos=given("ignore_eos", False)) for seed in seeds]
