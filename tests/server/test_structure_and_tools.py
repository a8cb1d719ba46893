"""Structured output and tool calls on the real model, batched with requests that have none."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

MODEL = "smollm2-135m"
PERSON = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0,
                                                                                                "maximum": 120},
                                           "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3}},
          "required": ["name", "age", "tags"], "additionalProperties": False}
ASK = [{"role": "user", "content": "Tell me about somebody."}]
WEATHER = {"type": "function", "function": {"name": "weather", "description": "the weather in a city", "parameters": {
    "type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"], "additionalProperties": False}}}


def form_of(schema):
    return {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}


def is_person(text):
    value = json.loads(text)
    assert set(value) == {"name", "age", "tags"} and len(value["name"]) <= 12 and 0 <= value["age"] <= 120
    assert set(value["tags"]) <= {"a", "b"} and len(value["tags"]) <= 3
    return True


def many_persons(client, n):
    """n hot answers to the schema from 8 clients at once, with plain requests among them; how many were valid."""
    def one(seed):
        if seed % 4 == 3:
            client.chat.completions.create(model=MODEL, messages=ASK, temperature=0, max_tokens=10)
        answer = client.chat.completions.create(model=MODEL, messages=ASK, temperature=1, seed=seed, max_tokens=400,
                                                response_format=form_of(PERSON)).choices[0]
        return answer.finish_reason == "stop" and is_person(answer.message.content)
    with ThreadPoolExecutor(8) as pool:
        return sum(pool.map(one, range(n)))


def test_json_schema_holds_at_temperature_one_in_a_batch(client):
    assert many_persons(client, 6) == 6


@pytest.mark.slow
def test_json_schema_holds_a_thousand_times(client):
    assert many_persons(client, 1000) == 1000


def test_a_guide_changes_no_other_row(client):
    """Plain greedy answers beside guided ones are what they are alone, and a guided answer is what it is alone."""
    def ask(guided):
        extra = {"response_format": form_of(PERSON)} if guided else {}
        return client.chat.completions.create(model=MODEL, messages=ASK, temperature=0, max_tokens=60, **extra).choices[0].message.content
    alone = [ask(False), ask(True)]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, [False, True] * 3)) == alone * 3


@pytest.mark.parametrize("what, fits", [
    ({"regex": "[a-c]{3}-[0-9]{2}"}, lambda t: re.fullmatch("[a-c]{3}-[0-9]{2}", t)),
    ({"choice": ["yes", "no", "it depends"]}, lambda t: t in ("yes", "no", "it depends")),
    ({"grammar": 'start: "<" NAME ">"\nNAME: /[a-z]{1,5}/'}, lambda t: re.fullmatch("<[a-z]{1,5}>", t)),
    ({"json": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2}}, lambda t: len(json.loads(t)) == 2)])
def test_other_structures(client, what, fits):
    answer = client.completions.create(model=MODEL, prompt="Answer:", max_tokens=60, temperature=1, seed=3,
                                       extra_body={"structured_outputs": what}).choices[0]
    assert fits(answer.text) and answer.finish_reason == "stop", answer


def test_json_object(client):
    answer = client.chat.completions.create(model=MODEL, messages=ASK, temperature=0, max_tokens=300,
                                            response_format={"type": "json_object"}).choices[0]
    assert answer.message.content.startswith("{")
    if answer.finish_reason == "stop":
        assert isinstance(json.loads(answer.message.content), dict)


@pytest.mark.parametrize("schema", [{}, {"schema": True}, {"schema": {}}])
def test_a_schema_that_says_nothing_allows_any_json(client, schema):
    answer = client.chat.completions.create(model=MODEL, messages=ASK, temperature=1, seed=2, max_tokens=300,
                                            response_format={"type": "json_schema", "json_schema": {"name": "x", **schema}}).choices[0]
    if answer.finish_reason == "stop":
        json.loads(answer.message.content)


@pytest.mark.parametrize("bad, param", [
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": False}}}, "response_format.json_schema.schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "banana"}}}}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"structured_outputs": {"regex": "("}}, "structured_outputs"),
    ({"structured_outputs": {"grammar": "nonsense"}}, "structured_outputs"),
    ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
    ({"structured_outputs": {}}, "structured_outputs"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
    ({"tools": [WEATHER], "response_format": {"type": "json_object"}}, "tools")])
def test_what_cannot_be_structured_is_refused(client, bad, param):
    with pytest.raises(openai.BadRequestError) as e:
        client.chat.completions.create(model=MODEL, messages=ASK, extra_body=bad)
    assert e.value.param == param, e.value.body


def test_forced_calls_whole_and_streamed(client):
    asked = dict(model=MODEL, messages=[{"role": "user", "content": "The weather in Oslo for two days?"}], tools=[WEATHER],
                 tool_choice="required", parallel_tool_calls=False, temperature=0, max_tokens=100)
    whole = client.chat.completions.create(**asked).choices[0]
    call, = whole.message.tool_calls
    assert whole.finish_reason == "tool_calls" and whole.message.content is None and call.function.name == "weather"
    arguments = json.loads(call.function.arguments)
    assert arguments["city"] in ("Rome", "Oslo") and 1 <= arguments["days"] <= 9
    deltas = [c.choices[0].delta.tool_calls[0] for c in client.chat.completions.create(stream=True, **asked)
              if c.choices[0].delta.tool_calls]
    assert deltas[0].function.name == "weather" and deltas[0].id and len(deltas) > 3
    assert "".join(d.function.arguments for d in deltas) == call.function.arguments
    follow = [*asked["messages"], whole.message.model_dump(exclude_none=True),
              {"role": "tool", "tool_call_id": call.id, "content": "snow"}]
    assert client.chat.completions.create(model=MODEL, messages=follow, max_tokens=5, temperature=0).choices[0].message.content


def test_parallel_forced_calls(client):
    answer = client.chat.completions.create(model=MODEL, messages=ASK, tools=[WEATHER], tool_choice="required", temperature=1, seed=5,
                                            max_tokens=150).choices[0]
    for call in answer.message.tool_calls[:-1] if answer.finish_reason == "length" else answer.message.tool_calls:
        assert json.loads(call.function.arguments)["city"] in ("Rome", "Oslo")
    assert client.chat.completions.create(model=MODEL, messages=ASK, tools=[WEATHER], tool_choice="none", temperature=0,
                                          max_tokens=5).choices[0].message.content
