"""Running a server: keys, binding, limits, deadlines, clients that leave, metrics, and an orderly end."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from urllib.parse import urlparse

import pytest

from helpers.command import environment, refused
from helpers.server import Server

CHAT = "/v1/chat/completions"
SKY = {"messages": [{"role": "user", "content": "Why is the sky blue?"}], "temperature": 0}
LONG = {**SKY, "max_tokens": 2000, "ignore_eos": True, "stream": True}


class Stream:
    """A streamed answer, read from a plain socket, that can be left at any moment; when a test ends, all are."""

    opened = []

    def __init__(self, server, body, headers=""):
        at, data = urlparse(server.url), json.dumps(body).encode()
        self.socket = socket.create_connection((at.hostname, at.port), timeout=60)
        self.socket.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}"
                            f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
        self.seen = b""
        self.opened.append(self)

    def read_some(self):
        """Until there is text: the chunk that names the role comes before the model has seen the request."""
        while not re.search(rb'"content":"[^"]', self.seen):
            data = self.socket.recv(65536)
            assert data, self.seen[-500:]
            self.seen += data

    def rest(self):
        while data := self.socket.recv(65536):
            self.seen += data
        return self.seen.decode()

    def leave(self):
        self.socket.close()


@pytest.fixture(autouse=True)
def leaving():
    """A test that fails must not leave the server busy for those that follow."""
    yield
    while Stream.opened:
        Stream.opened.pop().leave()


def test_a_client_that_leaves_frees_its_pages(server):
    before = server.idle()
    streams = [Stream(server, LONG) for _ in range(3)]
    whole = Stream(server, {**LONG, "stream": False})
    for s in streams:
        s.read_some()
    assert server.stats()["running"] >= 3
    for s in (*streams, whole):
        s.leave()
    after = server.idle()
    assert after["pages_free"] == before["pages_free"] == before["pages"]
    assert "Traceback" not in server.read_log()


def test_requests_end_in_time(server):
    status, answer, _ = server.ask(CHAT, {**LONG, "stream": False, "timeout": 0.4})
    assert status == 504 and answer["error"]["code"] == "timeout"
    s = Stream(server, {**LONG, "timeout": 0.4})
    text = s.rest()
    assert '"code":"timeout"' in text and text.rstrip().endswith("0") and "data: [DONE]" in text
    assert server.idle()["pages_used"] == 0


def test_the_queue_is_bounded(server):
    """8 run and 24 may wait: the 33rd is told to come back, and when all have left the next is served."""
    streams = [Stream(server, {**LONG, "n": 8})]
    streams[0].read_some()                               # it runs: whichever comes first of several would take all places
    streams += [Stream(server, {**LONG, "n": 8}) for _ in range(3)]
    deadline = time.monotonic() + 60
    while server.stats()["waiting"] < 24:
        assert time.monotonic() < deadline, server.stats()
        time.sleep(0.05)
    status, answer, headers = server.ask(CHAT, {**SKY, "max_tokens": 1})
    assert status == 429 and answer["error"]["code"] == "queue_full" and int(headers["retry-after"]) >= 1
    for s in streams:
        s.leave()
    server.idle()
    assert server.ask(CHAT, {**SKY, "max_tokens": 1})[0] == 200


def test_priority_goes_first(server):
    """With all 8 places taken, an urgent request does not wait for the others."""
    streams = [Stream(server, {**LONG, "n": 8, "priority": 5})]
    streams[0].read_some()
    streams.append(Stream(server, {**LONG, "n": 8, "priority": 5}))
    began = time.monotonic()
    status, _, _ = server.ask(CHAT, {**SKY, "max_tokens": 2, "priority": 0})
    assert status == 200 and time.monotonic() - began < 90
    deadline = time.monotonic() + 60                     # the place it took is given back in the steps that follow
    while server.stats()["running"] < 8:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for s in streams:
        s.leave()
    assert server.idle()["pages_used"] == 0


def test_metrics_count(server):
    def counters():
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in server.ask("/metrics")[1].splitlines()
                if not line.startswith("#")}
    before = counters()
    server.ask(CHAT, {**SKY, "max_tokens": 5})
    after = counters()
    assert after["mlxr_generated_tokens_total"] - before["mlxr_generated_tokens_total"] == 5
    assert after["mlxr_time_to_first_token_seconds_count"] - before["mlxr_time_to_first_token_seconds_count"] == 1
    key = 'mlxr_requests_total{path="/v1/chat/completions",status="200"}'
    assert after[key] - before.get(key, 0) == 1 and after['mlxr_pages_free{model="smollm2-135m"}'] == after['mlxr_pages{model="smollm2-135m"}']


def test_request_ids_and_documents(server):
    _, _, headers = server.ask("/health", headers={"X-Request-Id": "mine-1"})
    assert headers["x-request-id"] == "mine-1"
    assert server.ask("/health", headers={"X-Request-Id": "bad id\t"})[2]["x-request-id"].startswith("req_")
    document = server.ask("/openapi.json")[1]
    assert set(document["paths"]) >= {CHAT, "/v1/completions", "/v1/messages", "/v1/responses", "/tokenize", "/metrics", "/health"}
    ids = server.ask("/tokenize", {"messages": SKY["messages"]})[1]
    assert ids["count"] == len(ids["tokens"]) == 36
    assert server.ask("/ready")[0] == 200


@pytest.fixture(scope="module")
def guarded(smollm2_gguf):
    with Server("--pool", "60M", "--grace", "3", "--alias", "mine", env={"MLXR_API_KEY": "s3cret-käse"}) as s:
        yield s


def test_keys(guarded):
    body = {**SKY, "max_tokens": 1, "model": "mine"}
    key = "s3cret-käse".encode().decode("latin-1")
    for headers, status in (({}, 401), ({"Authorization": "Bearer wrong"}, 401), ({"Authorization": "s3cret"}, 401),
                            ({"Authorization": "Basic " + key}, 401), ({"Authorization": "Bearer"}, 401),
                            ({"Authorization": "Bearer " + key + "x"}, 401), ({"Authorization": "Bearer " + key[:-1]}, 401)):
        got, answer, _ = guarded.ask(CHAT, body, headers)
        assert got == status and "s3cret" not in json.dumps(answer), headers
    assert guarded.ask("/metrics")[0] == 401 and guarded.ask("/health")[0] == 200 and guarded.ask("/")[0] == 200
    for headers in ({"Authorization": "Bearer " + key}, {"x-api-key": key}):
        assert guarded.ask(CHAT, body, headers)[0] == 200
    assert "sky" not in guarded.read_log() and "s3cret" not in guarded.log       # no prompt text unless asked for


def test_sigterm_finishes_what_is_short_and_cuts_off_what_is_long(guarded):
    key = "Authorization: Bearer s3cret-käse\r\n"
    long, short = Stream(guarded, {**LONG, "max_tokens": 8000}, key), []
    long.read_some()
    asked = threading.Thread(target=lambda: short.append(guarded.ask(CHAT, {**SKY, "max_tokens": 20}, {
        "x-api-key": "s3cret-käse".encode().decode("latin-1")})))
    asked.start()
    while not short and sum(guarded.ask("/stats", headers={"x-api-key": "s3cret-käse".encode().decode("latin-1")})[1][n]
                            for n in ("running", "waiting")) < 2:
        time.sleep(0.02)                                 # it has not arrived yet
    code, log = guarded.stop()
    asked.join()
    text = long.rest()
    assert code == 0 and "Traceback" not in log, log[-2000:]
    assert short[0][0] == 200 and short[0][1]["choices"][0]["finish_reason"] in ("length", "stop")
    assert '"code":"server_stopping"' in text and "data: [DONE]" in text


def test_what_cannot_be_served_is_said_at_the_door():
    assert "give a key with --api-key" in refused("serve", "--host", "0.0.0.0")
    assert "--port must be" in refused("serve", "--port", "70000")
    assert "--memory" in refused("serve", "--memory", "lots")
    assert "--memory" in refused("serve", "--memory", "130%")
    assert "give one of" in refused("serve", "--memory", "2G", "--pool", "1G")
    assert "weights" in refused("serve", "--memory", "50M")
    assert "key is empty" in refused("serve", "--api-key", "")


def test_a_log_that_nobody_reads_stops_nobody():
    """More lines than a pipe holds: they wait for their reader, and what does not fit is counted."""
    end, start = os.pipe()
    code = ("import logging; from mlxr.server import logs\n"
            "with logs.to_stderr():\n"
            "    for i in range(logs.LINES + 5000): logging.getLogger('mlxr.server').info('x' * 50)\n"
            "print('went on', flush=True)")
    with subprocess.Popen([sys.executable, "-c", code], stderr=start, stdout=subprocess.PIPE, env=environment()) as process:
        os.close(start)
        try:
            assert process.stdout.read() == b"went on\n" and process.wait(20) == 0
        finally:
            process.kill()
            os.close(end)
