"""What a server must refuse: each with the right status, in the right shape, soon, and the server goes on."""

import http.client
import json
import select
import socket
import time
from urllib.parse import urlparse

import pytest

SKY = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "temperature": 0}
CHAT = "/v1/chat/completions"


def deep(n):
    return ('{"a":' * n + "1" + "}" * n).encode()


def with_field(**fields):
    return {**SKY, **fields}


BAD_CHATS = [
    (b"", 400, None), (b"{", 400, None), (b"[1]", 400, None), (b"null", 400, None), (b'"x"', 400, None), (b"{}{}", 400, None),
    (b'{"messages": NaN}', 400, None), (b"\xff\xfe", 400, None), (b'{"messages": "\xc3\x28"}', 400, None), (deep(100_000), 400, None),
    (b'{"messages":' + b"[" * 50_000, 400, None), ({}, 400, "messages"), ({"messages": []}, 400, "messages"),
    ({"messages": "hi"}, 400, "messages"), ({"messages": [1]}, 400, "messages[0]"),
    ({"messages": [{"role": "user"}]}, 400, None), ({"messages": [{"role": "king", "content": "x"}]}, 400, "messages[0].role"),
    ({"messages": [{"role": "user", "content": 5}]}, 400, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, 400, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": "x", "wrong": 1}]}, 400, "messages[0].wrong"),
    (with_field(temperature="hot"), 400, "temperature"), (with_field(temperature=-1), 400, "temperature"),
    (with_field(temperature=True), 400, "temperature"), (with_field(top_p=0), 400, "top_p"), (with_field(top_p=1.1), 400, "top_p"),
    (with_field(n=0), 400, "n"), (with_field(n=10 ** 9), 400, "n"), (with_field(n=1.5), 400, "n"),
    (with_field(max_tokens=0), 400, "max_tokens"), (with_field(max_tokens="9"), 400, "max_tokens"),
    (with_field(max_tokens=10 ** 30), 400, "max_tokens"), (with_field(seed=10 ** 40), 400, "seed"),
    (with_field(stop=["x"] * 5000), 400, "stop"), (with_field(stop=""), 400, "stop"), (with_field(stop=["a", 1]), 400, "stop[1]"),
    (with_field(logit_bias={"x": 1}), 400, None), (with_field(logit_bias={"999999": 1}), 400, None),
    (with_field(logit_bias={"5": 1000}), 400, None), (with_field(top_logprobs=3), 400, "top_logprobs"),
    (with_field(logprobs=True, top_logprobs=99), 400, "top_logprobs"), (with_field(stream="yes"), 400, "stream"),
    (with_field(stream_options={"wrong": 1}), 400, "stream_options.wrong"), (with_field(wrong_name=1), 400, "wrong_name"),
    (with_field(audio={}), 400, "audio"), (with_field(functions=[]), 400, "functions"), (with_field(tools=[{}]), 400, "tools[0].type"),
    (with_field(tools=[{"type": "function", "function": {"name": "a b"}}]), 400, "tools[0].function.name"),
    (with_field(model="../../../etc/passwd"), 404, "model"), (with_field(model="smollm2-135m/../x"), 404, "model"),
    (with_field(model=5), 400, "model"), (with_field(model="x" * 10_000), 400, "model"), (with_field(priority=10 ** 9), 400, "priority"),
    (with_field(timeout=-1), 400, "timeout"), (with_field(chat_template_kwargs={"messages": []}), 400, "chat_template_kwargs.messages"),
    (with_field(messages=[{"role": "user", "content": "word " * 20_000}]), 400, None),
]
BOMBS = {
    "deep": {"type": "object", "properties": {"a": {"$ref": "#"}}},
    "wide": {"anyOf": [{"type": "object", "properties": {f"p{i}_{j}": {"type": "string"} for j in range(20)}} for i in range(200)]},
    "pattern": {"type": "string", "pattern": "(a{1,1000}){1,1000}"},
    "lengths": {"type": "string", "minLength": 10 ** 9},
    "items": {"type": "array", "minItems": 10 ** 9},
    "long": {"type": "string", "description": "x" * 200_000},
    "refs": {"$defs": {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(30)} | {"d30": {"type": "string"}},
             "$ref": "#/$defs/d0"},
}


@pytest.mark.parametrize("body, status, param", BAD_CHATS, ids=[str(i) for i in range(len(BAD_CHATS))])
def test_bad_chats(server, body, status, param):
    began = time.monotonic()
    got, answer, _ = server.ask(CHAT, body)
    assert got == status, answer
    error = answer["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"
    assert "\n" not in error["message"] and "Traceback" not in error["message"] and len(error["message"]) < 1000
    assert error["param"] == param or param is None, error
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("name", BOMBS)
def test_schema_bombs_are_refused_or_served_in_bounded_time(server, name):
    """No grammar may stop the others: while it is compiled, somebody else is answered."""
    body = with_field(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": BOMBS[name]}})
    began = time.monotonic()
    status, answer, _ = server.ask(CHAT, body)
    assert status in (200, 400) and time.monotonic() - began < 90, answer
    assert server.ask(CHAT, SKY)[0] == 200


def test_long_prompts_say_what_fits(server):
    status, answer, _ = server.ask(CHAT, with_field(messages=[{"role": "user", "content": "word " * 9000}]))
    assert status == 400 and answer["error"]["code"] == "context_length_exceeded"
    assert "the context is 8192" in answer["error"]["message"] or "the page pool holds" in answer["error"]["message"]


def test_paths_and_methods(server):
    for path, method, status in (("/nothing", "GET", 404), ("/v1/../../etc/passwd", "GET", 404), (CHAT, "GET", 405), ("/health", "POST", 405),
                                 ("/v1/models/..%2f..%2fetc", "GET", 404), ("/page/index.html", "GET", 404)):
        got, answer, _ = server.ask(path, b"{}" if method == "POST" else None, method=method)
        assert got == status and answer["error"]["message"], path


def test_content_types_and_sizes(server):
    assert server.ask(CHAT, SKY, {"Content-Type": "text/plain"})[0] == 415
    assert server.ask(CHAT, SKY, {"Content-Type": "application/json; charset=utf-8"})[0] == 200
    at = urlparse(server.url)
    raw = http.client.HTTPConnection(at.hostname, at.port, timeout=60)
    raw.putrequest("POST", CHAT)
    raw.putheader("Content-Type", "application/json")
    raw.putheader("Content-Length", str(10 ** 12))           # promised, and refused before it is all there
    raw.endheaders()
    try:
        for _ in range(40):
            raw.send(b" " * (1 << 20))
    except OSError:
        pass
    try:
        assert raw.getresponse().status == 413
    except OSError:
        pass                                                  # the server had closed: as good
    raw.close()
    assert server.ask(CHAT, SKY)[0] == 200


def test_many_large_bodies_take_turns(server):
    """Bodies that are arriving are bounded together; small ones come in beside them, and what was held is free afterwards."""
    at, held, answers, end = urlparse(server.url), [], {}, time.monotonic() + 150
    try:
        for _ in range(4):
            s = socket.create_connection((at.hostname, at.port), timeout=60)
            held.append(s)
            s.sendall(b"POST " + CHAT.encode() + b" HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                      b"Content-Length: 4000000\r\n\r\n" + b" " * 3_000_000)
        while len(answers) < 2 and time.monotonic() < end:       # of 12 million bytes, 8 may come in
            for s in select.select(set(held) - set(answers), [], [], 0.2)[0]:
                answers[s] = s.recv(100)
        assert len(answers) == 2 and all(b" 503 " in a for a in answers.values()), answers
        assert server.ask(CHAT, SKY)[0] == 200
    finally:
        for s in held:
            s.close()
    body = with_field(metadata={"x": "y" * 3_000_000})
    while (status := server.ask(CHAT, body)[0]) == 503 and time.monotonic() < end:       # the server has yet to see them leave
        time.sleep(0.05)
    assert status == 200


def test_not_http_at_all(server):
    at = urlparse(server.url)
    for data in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9.9\r\n\r\n", b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                 b"Content-Length: -5\r\n\r\n", b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n"):
        with socket.create_connection((at.hostname, at.port), timeout=60) as s:
            s.settimeout(60)
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            answer = s.recv(1000)
            assert not answer or b" 4" in answer[:14] or b" 505" in answer[:14], answer
    assert server.ask("/health")[0] == 200


def test_other_sites_and_hosts(server):
    assert server.ask("/health", headers={"Host": "evil.example"})[0] == 403
    assert server.ask("/health", headers={"Host": "localhost:8080"})[0] == 200
    _, _, headers = server.ask(CHAT, SKY, {"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in headers
    _, _, headers = server.ask(CHAT, SKY, {"Origin": "https://ok.example"})
    assert headers["access-control-allow-origin"] == "https://ok.example"


def test_other_endpoints_refuse_alike(server):
    for path, body, status, param in (
            ("/v1/completions", {}, 400, "prompt"), ("/v1/completions", {"prompt": []}, 400, "prompt"),
            ("/v1/completions", {"prompt": "x", "best_of": 2}, 400, "best_of"), ("/v1/completions", {"prompt": ""}, 400, None),
            ("/v1/completions", {"prompt": [99999999]}, 400, None), ("/v1/completions", {"prompt": "x", "suffix": "y"}, 400, "suffix"),
            ("/v1/responses", {"input": "x", "previous_response_id": "r"}, 400, "previous_response_id"),
            ("/v1/responses", {"input": []}, 400, "input"), ("/tokenize", {}, 400, "prompt"), ("/v1/embeddings", {"input": ""}, 400, None),
            ("/v1/embeddings", {"input": "x", "dimensions": 5}, 400, "dimensions"), ("/v1/embeddings", {"input": []}, 400, "input"),
            ("/v1/messages", {"messages": [{"role": "user", "content": "x"}]}, 400, None)):
        got, answer, _ = server.ask(path, body)
        assert got == status, (path, body, answer)
        assert param is None or answer["error"]["param"] == param, answer
    assert server.ask("/v1/messages", {"max_tokens": 5, "messages": [{"role": "user", "content": "x"}], "oops": 1})[1]["type"] == "error"


def test_nothing_is_left_behind(server):
    """After all of that, the pool is as free as at the start, and the log holds no traceback."""
    stats = server.idle()
    assert stats["pages_free"] == stats["pages"]
    assert "Traceback" not in server.read_log()
    lines = [json.loads(line.split(" ", 2)[2]) for line in server.log.splitlines() if '"event": "request"' in line]
    assert lines and all({"id", "method", "path", "status", "seconds"} <= set(line) for line in lines)
