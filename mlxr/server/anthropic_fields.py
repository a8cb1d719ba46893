"""What /v1/messages takes: Anthropic's Messages interface, with text, tools and their results."""

from typing import Annotated, Any, Literal

from pydantic import Field

from .fields import MAX_MESSAGES, MAX_STOPS, MAX_TOOLS, Ignored, Name, Sampling, Strict, Text, Whole


class TextBlock(Strict):
    type: Literal["text"]
    text: Text
    cache_control: dict[str, Any] | None = Ignored
    citations: list[Any] | None = Ignored


class ThinkingBlock(Strict):
    type: Literal["thinking"]
    thinking: Text
    signature: str | None = Ignored


class UseBlock(Strict):
    type: Literal["tool_use"]
    id: Annotated[str, Field(max_length=256)]
    name: Annotated[str, Field(min_length=1, max_length=256)]
    input: dict[str, Any]
    cache_control: dict[str, Any] | None = Ignored
    caller: dict[str, Any] | None = Ignored


class ResultBlock(Strict):
    type: Literal["tool_result"]
    tool_use_id: Annotated[str, Field(max_length=256)]
    content: Text | list[TextBlock] | None = None
    is_error: bool | None = None
    cache_control: dict[str, Any] | None = Ignored


class Turn(Strict):
    role: Literal["user", "assistant"]
    content: Text | list[TextBlock | ThinkingBlock | UseBlock | ResultBlock]


class AnthropicTool(Strict):
    name: Name
    description: Text | None = None
    input_schema: dict[str, Any]
    type: Literal["custom"] | None = None
    cache_control: dict[str, Any] | None = Ignored
    strict: bool | None = Ignored


class AnthropicChoice(Strict):
    type: Literal["auto", "any", "tool", "none"]
    name: Name | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Strict):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Whole | None = Ignored
    display: str | None = Ignored


class OutputFormat(Strict):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Strict):
    format: OutputFormat | None = None
    effort: Annotated[str, Field(max_length=32)] | None = Field(default=None, description="Given to the chat template.")


class CountRequest(Strict):
    model: Annotated[str, Field(max_length=512)] | None = None
    messages: Annotated[list[Turn], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: Text | list[TextBlock] | None = None
    tools: Annotated[list[AnthropicTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: AnthropicChoice | None = None
    thinking: Thinking | None = Field(default=None, description="Tells the chat template whether to think.")


class MessagesRequest(CountRequest, Sampling):
    max_tokens: Whole
    stop_sequences: Annotated[list[Annotated[str, Field(min_length=1, max_length=1024)]], Field(max_length=MAX_STOPS)] | None = None
    metadata: dict[str, Any] | None = Ignored
    output_config: OutputConfig | None = None
    service_tier: str | None = Ignored
    cache_control: dict[str, Any] | None = Ignored
