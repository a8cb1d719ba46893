"""What /v1/responses takes: the part of OpenAI's Responses interface that needs no memory of earlier responses."""

from typing import Annotated, Any, Literal

from pydantic import Field

from .fields import MAX_MESSAGES, MAX_TOOLS, Ignored, Name, NamedFunction, Strict, Structure, Text, TextPart, Whole


class InputMessage(Strict):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]
    id: str | None = Ignored
    status: str | None = Ignored
    phase: str | None = Ignored


class InputCall(Strict):
    type: Literal["function_call"]
    call_id: Annotated[str, Field(max_length=256)]
    name: Annotated[str, Field(min_length=1, max_length=256)]
    arguments: Text
    id: str | None = Ignored
    status: str | None = Ignored


class InputResult(Strict):
    type: Literal["function_call_output"]
    call_id: Annotated[str, Field(max_length=256)]
    output: Text | list[TextPart]
    id: str | None = Ignored
    status: str | None = Ignored


class InputReasoning(Strict):
    type: Literal["reasoning"]
    summary: list[Any] | None = Ignored
    content: list[Any] | None = Ignored
    encrypted_content: str | None = Ignored
    id: str | None = Ignored
    status: str | None = Ignored


class FlatTool(Strict):
    type: Literal["function"]
    name: Name
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedFlatTool(NamedFunction):
    type: Literal["function"]


class TextFormat(Strict):
    type: Literal["text", "json_object", "json_schema"]
    name: Name | None = None
    description: Text | None = None
    schema_: dict[str, Any] | bool | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextOptions(Strict):
    format: TextFormat | None = None
    verbosity: str | None = Ignored


class Reasoning(Strict):
    effort: Annotated[str, Field(max_length=32)] | None = None
    summary: str | None = Ignored
    generate_summary: str | None = Ignored


class ResponsesRequest(Strict):
    model: Annotated[str, Field(max_length=512)] | None = None
    input: Text | Annotated[list[InputMessage | InputCall | InputResult | InputReasoning],
                            Field(min_length=1, max_length=MAX_MESSAGES)]
    instructions: Text | None = None
    max_output_tokens: Whole | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    stream: bool | None = None
    text: TextOptions | None = None
    tools: Annotated[list[FlatTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedFlatTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    structured_outputs: Structure | None = None
    priority: Annotated[int, Field(ge=-1000, le=1000)] | None = None
    timeout: Annotated[float, Field(gt=0, le=1e6)] | None = None
    cache_salt: Annotated[str, Field(max_length=256)] | None = None
    store: bool | None = Ignored
    metadata: dict[str, Any] | None = Ignored
    user: str | None = Ignored
    include: list[str] | None = Ignored
    truncation: Literal["disabled"] | None = Ignored
    service_tier: str | None = Ignored
    safety_identifier: str | None = Ignored
    prompt_cache_key: str | None = Ignored
