"""OpenAI's own client against a real server: chat, completions, responses; sync and async, whole and streamed."""

import asyncio
import json

import numpy as np
import openai
import pytest

from mlxr.api import LLM
from mlxr.sequence import SamplingParams

MODEL = "smollm2-135m"
SKY = [{"role": "user", "content": "Why is the sky blue?"}]
GREEDY = dict(model=MODEL, temperature=0)


def test_chat_whole_streamed_and_async_say_the_same(client, server):
    whole = client.chat.completions.create(messages=SKY, max_tokens=12, **GREEDY)
    text = whole.choices[0].message.content
    assert whole.choices[0].finish_reason == "length" and whole.model == MODEL and len(text) > 20
    assert whole.usage.completion_tokens == 12 and whole.usage.total_tokens == whole.usage.prompt_tokens + 12
    stream = client.chat.completions.create(messages=SKY, max_tokens=12, stream=True, stream_options={"include_usage": True}, **GREEDY)
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage.completion_tokens == 12 and not chunks[-1].choices

    async def both():
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0) as c:
            one = await c.chat.completions.create(messages=SKY, max_completion_tokens=12, **GREEDY)
            parts = [p async for p in await c.chat.completions.create(messages=SKY, max_tokens=12, stream=True, **GREEDY)]
            return one.choices[0].message.content, "".join(p.choices[0].delta.content or "" for p in parts)
    assert asyncio.run(both()) == (text, text)


def test_the_server_says_what_the_python_api_says(client, smollm2_gguf):
    with LLM(smollm2_gguf, pool_bytes=100 << 20) as llm:
        expected = llm.chat(SKY, SamplingParams(max_tokens=30))
    answer = client.chat.completions.create(messages=SKY, max_tokens=30, **GREEDY)
    assert answer.choices[0].message.content == expected.text and answer.usage.prompt_tokens == expected.prompt_tokens


def test_n_seeds_and_stops(client):
    hot = dict(model=MODEL, temperature=1.0, max_tokens=10, messages=SKY)
    a, b = (client.chat.completions.create(n=3, seed=7, **hot) for _ in range(2))
    texts = [c.message.content for c in a.choices]
    assert texts == [c.message.content for c in b.choices] and len(set(texts)) > 1
    assert [c.index for c in a.choices] == [0, 1, 2] and a.usage.completion_tokens == 30
    assert client.chat.completions.create(seed=8, **hot).choices[0].message.content == texts[1]      # each has the next seed
    free = client.chat.completions.create(messages=SKY, max_tokens=20, **GREEDY).choices[0].message.content
    for stop in (free[20:25], [free[20:25], "never"]):
        cut = client.chat.completions.create(messages=SKY, max_tokens=20, stop=stop, **GREEDY).choices[0]
        assert cut.message.content == free[:free.index(free[20:25])] and cut.finish_reason == "stop"
    streamed = client.chat.completions.create(n=2, stream=True, seed=7, **hot)
    out = ["", ""]
    for chunk in streamed:
        out[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert out == texts[:2]


def test_logprobs_bias_and_penalties(client):
    answer = client.chat.completions.create(messages=SKY, max_tokens=4, logprobs=True, top_logprobs=3, **GREEDY).choices[0]
    content = answer.logprobs.content
    assert len(content) == 4 and "".join(bytes(c.bytes).decode() for c in content) == answer.message.content
    for c in content:
        assert c.top_logprobs[0].token == c.token and c.logprob <= 0 and len(c.top_logprobs) == 3
    ids = client.post("/../tokenize", body={"prompt": content[0].token}, cast_to=object)["tokens"]
    banned = client.chat.completions.create(messages=SKY, max_tokens=4, logit_bias={str(ids[0]): -100}, **GREEDY)
    assert not banned.choices[0].message.content.startswith(content[0].token)
    for penalty in ({"frequency_penalty": 2.0}, {"presence_penalty": 2.0}, {"extra_body": {"repetition_penalty": 1.5}}):
        prompt = "one one one one one one"
        plain = client.completions.create(prompt=prompt, max_tokens=12, **GREEDY).choices[0].text
        assert client.completions.create(prompt=prompt, max_tokens=12, **GREEDY, **penalty).choices[0].text != plain
    streamed = client.chat.completions.create(messages=SKY, max_tokens=4, logprobs=True, top_logprobs=3, stream=True, **GREEDY)
    seen = [x.token for c in streamed for x in (c.choices[0].logprobs.content if c.choices[0].logprobs else ())]
    assert seen == [c.token for c in content]


def test_completions(client):
    prompts = ["The capital of France is", "One, two, three,"]
    both = client.completions.create(prompt=prompts, max_tokens=5, logprobs=2, **GREEDY)
    single = [client.completions.create(prompt=p, max_tokens=5, **GREEDY).choices[0].text for p in prompts]
    assert [c.text for c in both.choices] == single and "Paris" in single[0]
    first = both.choices[0].logprobs
    assert "".join(first.tokens) == single[0] and first.text_offset[0] == 0 and len(first.top_logprobs[0]) == 2
    assert client.completions.create(prompt=prompts[0], max_tokens=5, echo=True, **GREEDY).choices[0].text == prompts[0] + single[0]
    ids = client.post("/../tokenize", body={"prompt": prompts[0]}, cast_to=object)["tokens"]
    assert client.completions.create(prompt=ids, max_tokens=5, **GREEDY).choices[0].text == single[0]
    stream = client.completions.create(prompt=prompts, max_tokens=5, n=2, stream=True, **GREEDY)
    out = [""] * 4
    for chunk in stream:
        out[chunk.choices[0].index] += chunk.choices[0].text
    assert out == [single[0]] * 2 + [single[1]] * 2


def test_a_second_turn_is_cached_and_says_so(client):
    story = "Tell me about number %d. " * 30 % tuple(range(30))
    first = client.chat.completions.create(messages=[{"role": "user", "content": story}], max_tokens=20, **GREEDY)
    turn = [{"role": "user", "content": story}, {"role": "assistant", "content": first.choices[0].message.content},
            {"role": "user", "content": "And now?"}]
    second = client.chat.completions.create(messages=turn, max_tokens=5, **GREEDY)
    details = second.usage.prompt_tokens_details
    assert first.usage.prompt_tokens // 64 * 64 <= details.cached_tokens < second.usage.prompt_tokens
    salted = client.chat.completions.create(messages=turn, max_tokens=5, extra_body={"cache_salt": "mine"}, **GREEDY)
    assert salted.usage.prompt_tokens_details.cached_tokens == 0
    assert "no earlier request" in salted.usage.prompt_tokens_details.cache_note
    assert salted.choices[0].message.content == second.choices[0].message.content


def test_models(client):
    assert [m.id for m in client.models.list()] == [MODEL] and client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError, match="not served here"):
        client.models.retrieve("gpt-9")
    with pytest.raises(openai.NotFoundError) as e:
        client.chat.completions.create(model="gpt-9", messages=SKY)
    assert e.value.code == "model_not_found" and e.value.param == "model"


def test_embeddings(client):
    """The client asks for base64 by itself. One vector of length 1 for each text, as alone, and near those of like texts."""
    texts = ["The cat sat on the mat.", "A cat is sitting on a mat.", "Quarterly revenue grew by 12 %.", "x"]
    answer = client.embeddings.create(model=MODEL, input=texts)
    vectors = np.array([d.embedding for d in answer.data])
    assert vectors.shape == (4, 576) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert [d.index for d in answer.data] == [0, 1, 2, 3] and answer.usage.prompt_tokens == answer.usage.total_tokens > 15
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    for i in (0, 3):
        alone = client.embeddings.create(model=MODEL, input=texts[i], encoding_format="float", dimensions=576).data[0].embedding
        assert np.allclose(alone, vectors[i], atol=1e-4)
    with pytest.raises(openai.BadRequestError, match="576 dimensions"):
        client.embeddings.create(model=MODEL, input="x", dimensions=64)


def test_responses(client):
    chat = client.chat.completions.create(messages=[{"role": "system", "content": "Be brief."}, *SKY], max_tokens=12, **GREEDY)
    whole = client.responses.create(input="Why is the sky blue?", instructions="Be brief.", max_output_tokens=12, **GREEDY)
    assert whole.output_text == chat.choices[0].message.content and whole.status == "incomplete"
    assert whole.incomplete_details.reason == "max_output_tokens" and whole.usage.output_tokens == 12
    events = list(client.responses.create(
        input=[{"role": "user", "content": [{"type": "input_text", "text": "Why is the sky blue?"}]}], instructions="Be brief.",
        max_output_tokens=12, stream=True, **GREEDY))
    kinds = [e.type for e in events]
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text
    assert events[-1].response.output_text == whole.output_text and [e.sequence_number for e in events] == list(range(len(events)))
    assert kinds[0] == "response.created" and kinds[-1] == "response.incomplete"
    assert "response.output_text.delta" in kinds and "response.output_item.done" in kinds
    shaped = client.responses.create(input="A person", max_output_tokens=60, model=MODEL, text={"format": {
        "type": "json_schema", "name": "p", "schema": {"type": "object", "properties": {"age": {"type": "integer"}},
                                                       "required": ["age"], "additionalProperties": False}}}, extra_body={"seed": 1})
    assert isinstance(json.loads(shaped.output_text)["age"], int)
    tool = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}}
    called = client.responses.create(input="Look.", tools=[tool], tool_choice="required", max_output_tokens=60, parallel_tool_calls=False,
                                     **GREEDY)
    call = called.output[0]
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "look", {})
    follow = client.responses.create(input=[{"role": "user", "content": "Look."}, call.model_dump(exclude_none=True), {
        "type": "function_call_output", "call_id": call.call_id, "output": "a tree"}], max_output_tokens=5, **GREEDY)
    assert follow.output_text
