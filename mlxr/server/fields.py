"""What clients may send: one model a request, strict about names, types and sizes; also the source of /openapi.json."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import ApiError

MAX_CHOICES, MAX_STOPS, MAX_MESSAGES, MAX_TOOLS, MAX_INPUTS = 32, 64, 4096, 128, 256
Text = Annotated[str, Field(max_length=8 << 20)]
Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.:-]+$")]
Whole = Annotated[int, Field(ge=1, le=1 << 31)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0, le=1 << 31)]], Field(min_length=1)]
Ignored = Field(default=None, description="Accepted, and without effect.")


class Strict(BaseModel):
    """Unknown names and wrong types are errors; so are NaN and infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class Function(Strict):
    name: Name
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = Field(default=None, description="Arguments always follow the schema where a call is forced.")


class Tool(Strict):
    type: Literal["function"]
    function: Function


class NamedFunction(Strict):
    name: Name


class NamedTool(Strict):
    type: Literal["function"]
    function: NamedFunction


class CalledFunction(Strict):
    name: Annotated[str, Field(min_length=1, max_length=256)]
    arguments: Text


class ToolCall(Strict):
    id: Annotated[str, Field(max_length=256)]
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = Ignored


class TextPart(Strict):
    type: Literal["text", "input_text", "output_text"]
    text: Text
    annotations: list[Any] | None = Ignored
    logprobs: list[Any] | None = Ignored


class Message(Strict):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[TextPart] | None = None
    name: Annotated[str, Field(max_length=256)] | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOLS)] | None = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None
    reasoning_content: Text | None = None
    refusal: Text | None = Ignored
    annotations: list[Any] | None = Ignored
    audio: None = Ignored
    function_call: None = Ignored


class JsonSchema(Strict):
    name: Name
    description: Text | None = None
    schema_: dict[str, Any] | bool = Field(default=True, alias="schema")
    strict: bool | None = Field(default=None, description="Answers follow the schema always.")


class ResponseFormat(Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Structure(Strict):
    """One of: a JSON schema, a regular expression, some texts, a grammar in llguidance's Lark."""

    json_: dict[str, Any] | bool | None = Field(default=None, alias="json")
    regex: Annotated[str, Field(min_length=1)] | None = None
    choice: Annotated[list[Annotated[str, Field(min_length=1, max_length=4096)]], Field(min_length=1, max_length=1024)] | None = None
    grammar: Annotated[str, Field(min_length=1)] | None = None


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: bool | None = Ignored


class Sampling(Strict):
    """What all requests that generate have in common."""

    model: Annotated[str, Field(max_length=512)] | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1 << 31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    ignore_eos: bool | None = None
    priority: Annotated[int, Field(ge=-1000, le=1000)] | None = Field(default=None, description="Lower is served first.")
    timeout: Annotated[float, Field(gt=0, le=1e6)] | None = Field(default=None, description="Seconds until it is ended.")
    cache_salt: Annotated[str, Field(max_length=256)] | None = Field(
        default=None, description="Only requests with the same salt share cached prefixes.")
    structured_outputs: Structure | None = None


Stops = Annotated[str, Field(min_length=1, max_length=1024)] | Annotated[
    list[Annotated[str, Field(min_length=1, max_length=1024)]], Field(max_length=MAX_STOPS)]
Biases = Annotated[dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
                   Field(max_length=4096)]


class OpenAI(Sampling):
    """What OpenAI's two ways to generate have in common."""

    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Whole | None = None
    stop: Stops | None = None
    logit_bias: Biases | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Ignored


class ChatRequest(OpenAI):
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Whole | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Annotated[str, Field(max_length=32)] | None = Field(
        default=None, description="Given to the chat template.")
    chat_template_kwargs: dict[str, Any] | None = Field(default=None, description="Variables of the chat template.")
    metadata: dict[str, Any] | None = Ignored
    store: bool | None = Ignored
    service_tier: str | None = Ignored
    safety_identifier: str | None = Ignored
    prompt_cache_key: str | None = Ignored


class CompletionRequest(OpenAI):
    prompt: Text | TokenIds | Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS)] | Annotated[
        list[TokenIds], Field(min_length=1, max_length=MAX_INPUTS)]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = Field(default=None, description="Must equal n.")
    suffix: None = Ignored


class EmbeddingRequest(Strict):
    """`input`: one text, its token ids, or a list of either. dimensions: those that the model has, or none."""

    model: Annotated[str, Field(max_length=512)] | None = None
    input: Text | TokenIds | Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS)] | Annotated[
        list[TokenIds], Field(min_length=1, max_length=MAX_INPUTS)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Whole | None = None
    user: str | None = Ignored


class TokenizeRequest(Strict):
    """A text (`prompt`) or `messages`."""

    model: Annotated[str, Field(max_length=512)] | None = None
    prompt: Text | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool = True


def parse(model, body):
    """An instance of a model from the bytes of a JSON text. Raises ApiError naming the field that is wrong."""
    try:
        return model.model_validate_json(body)
    except ValidationError as e:
        raise _refusal(e) from None


def _refusal(error):
    found = error.errors(include_url=False, include_context=False, include_input=False)
    same = [e for e in found if e["loc"][:1] == found[0]["loc"][:1]]
    first = max(same, key=lambda e: len(e["loc"]))       # of a value's alternatives, the one that went furthest
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is not valid JSON: {first['msg'].removeprefix('Invalid JSON: ')}", code="invalid_json")
    if not first["loc"]:
        return ApiError(400, f"the body must be a JSON object: {first['msg']}", code="invalid_type")
    name = _path(first["loc"])
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"unknown or unsupported field {name!r}", param=name, code="unknown_parameter")
    if first["type"] == "missing":
        return ApiError(400, f"the field {name!r} is missing", param=name, code="missing_required_parameter")
    return ApiError(400, f"{name!r}: {first['msg']}", param=name, code="invalid_value")


def _path(loc):
    """messages[0].content from a validation error's place, without the names of the alternatives that were tried."""
    path = str(loc[0])
    for part in loc[1:]:
        if isinstance(part, int):
            path += f"[{part}]"
        elif str(part).isidentifier() and str(part).islower() and part not in ("str", "int", "float", "bool", "none", "literal"):
            path += f".{part}"
    return path[:200]
