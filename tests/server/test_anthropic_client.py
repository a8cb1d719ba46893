"""Anthropic's own client against a real server."""

import asyncio
import json

import anthropic
import pytest

SKY = [{"role": "user", "content": "Why is the sky blue?"}]
GREEDY = dict(model="smollm2-135m", extra_body={"temperature": 0})     # the client has no argument for it
TOOL = {"name": "weather", "description": "the weather in a city",
        "input_schema": {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"],
                         "additionalProperties": False}}


@pytest.fixture(scope="module")
def claude(server):
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=60) as c:
        yield c


def test_messages_whole_streamed_and_async(claude, client, server):
    same = client.chat.completions.create(messages=[{"role": "system", "content": "Be brief."}, *SKY], max_tokens=12, temperature=0,
                                          model="smollm2-135m")
    whole = claude.messages.create(messages=SKY, system="Be brief.", max_tokens=12, **GREEDY)
    text = same.choices[0].message.content
    assert whole.content[0].text == text and whole.stop_reason == "max_tokens"
    usage = whole.usage
    assert usage.output_tokens == 12 and usage.input_tokens + usage.cache_read_input_tokens == same.usage.prompt_tokens
    with claude.messages.stream(messages=SKY, system=[{"type": "text", "text": "Be brief."}], max_tokens=12, **GREEDY) as stream:
        assert "".join(stream.text_stream) == text
        assert stream.get_final_message().stop_reason == "max_tokens"

    async def other():
        async with anthropic.AsyncAnthropic(base_url=server.url, api_key="x", max_retries=0) as c:
            return (await c.messages.create(messages=SKY, system="Be brief.", max_tokens=12, **GREEDY)).content[0].text
    assert asyncio.run(other()) == text


def test_stop_sequences_and_counting(claude):
    free = claude.messages.create(messages=SKY, max_tokens=20, **GREEDY).content[0].text
    cut = claude.messages.create(messages=SKY, max_tokens=20, stop_sequences=[free[20:25]], **GREEDY)
    assert cut.stop_reason == "stop_sequence" and cut.stop_sequence == free[20:25]
    assert claude.messages.count_tokens(model="smollm2-135m", messages=SKY).input_tokens == 36


def test_tools(claude):
    asked = dict(messages=[{"role": "user", "content": "How is the weather in Oslo?"}], max_tokens=80, tools=[TOOL], **GREEDY)
    choice = {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}
    whole = claude.messages.create(tool_choice=choice, **asked)
    use = whole.content[-1]
    assert whole.stop_reason == "tool_use" and use.type == "tool_use" and use.input["city"] in ("Rome", "Oslo")
    with claude.messages.stream(tool_choice=choice, **asked) as stream:
        kinds = [e.type for e in stream]
        final = stream.get_final_message()
    assert final.content[-1].input == use.input and "input_json" in kinds
    follow = claude.messages.create(messages=[*asked["messages"], {"role": "assistant", "content": [use.model_dump(exclude_none=True)]}, {
        "role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "snow"}]}], max_tokens=5, **GREEDY)
    assert follow.content[0].text


def test_structured_output(claude):
    form = {"type": "json_schema", "schema": TOOL["input_schema"]}
    answer = claude.messages.create(messages=SKY, max_tokens=40, output_config={"format": form}, **GREEDY)
    assert json.loads(answer.content[0].text)["city"] in ("Rome", "Oslo") and answer.stop_reason == "end_turn"


def test_errors_have_anthropics_shape(claude):
    with pytest.raises(anthropic.NotFoundError, match="not served here"):
        claude.messages.create(model="claude-x", max_tokens=1, messages=SKY)
    with pytest.raises(anthropic.BadRequestError) as e:
        claude.messages.create(max_tokens=1, messages=SKY, extra_body={"wrong": 1}, model="smollm2-135m")
    assert e.value.body["error"]["type"] == "invalid_request_error" and "wrong" in e.value.body["error"]["message"]
