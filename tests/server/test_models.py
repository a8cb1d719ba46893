"""Several models in one server: loaded when asked for, unloaded for another or when nobody asks; MLX's limits."""

import asyncio
import threading
import time
from types import SimpleNamespace

import mlxr  # noqa: F401  (first: it decides which BLAS MLX uses)
import mlx.core as mx
import pytest

from helpers.command import refused
from helpers.server import Server
from mlxr.memory import KEPT, Limits
from mlxr.server.errors import ApiError
from mlxr.server.service import OPEN_TOKENS, Service

CHAT = "/v1/chat/completions"
SKY = {"messages": [{"role": "user", "content": "Why is the sky blue?"}], "temperature": 0, "max_tokens": 6}


def loaded(server):
    return [m["id"] for m in server.ask("/v1/models")[1]["data"] if m["loaded"]]


def test_models_come_and_go(smollm2_gguf):
    with Server("--pool", "40M", "--max-batch", "2", "--alias", "first", "--also", f"second={smollm2_gguf}",
                "--also", "gone=/no/such/model", "--unload-after", "4") as server:
        assert [m["id"] for m in server.ask("/v1/models")[1]["data"]] == ["first", "second", "gone"] and loaded(server) == ["first"]
        answers = [server.ask(CHAT, {**SKY, "model": name})[1] for name in ("first", "second")]
        assert [a["model"] for a in answers] == ["first", "second"] and loaded(server) == ["second"]
        assert answers[0]["choices"] == answers[1]["choices"]
        assert server.ask("/v1/models/second")[1]["loaded"] and server.ask("/stats?model=first")[1]["loaded"] is False

        busy = threading.Thread(target=server.ask, args=(CHAT, {**SKY, "model": "second", "max_tokens": 600, "ignore_eos": True}))
        busy.start()
        while not server.ask("/stats?model=second")[1]["running"]:
            time.sleep(0.01)
        status, answer, headers = server.ask(CHAT, {**SKY, "model": "first"})
        assert status == 503 and answer["error"]["code"] == "model_not_loaded" and headers["retry-after"]
        busy.join()
        status, answer, _ = server.ask(CHAT, {**SKY, "model": "gone"})
        assert status == 500 and "/no/such/model" in answer["error"]["message"]
        assert server.ask(CHAT, {**SKY, "model": "third"})[0] == 404
        assert server.ask(CHAT, SKY)[1]["choices"] == answers[0]["choices"]      # the default comes back after the failure
        deadline = time.monotonic() + 60
        while loaded(server):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert server.ask("/ready")[0] == 200 and 'mlxr_loads_total 3.0' in server.ask("/metrics")[1]
        code, log = server.stop()
        assert code == 0 and "Traceback" not in log


def test_bad_options_are_refused():
    assert "NAME=MODEL" in refused("serve", "--also", "second")
    assert "there already" in refused("serve", "--alias", "a", "--also", "a=b")
    assert "--max-loaded" in refused("serve", "--max-loaded", "0")


def test_limits_are_restored():
    before, memory = mx.set_cache_limit(123 << 20), mx.set_memory_limit(9 << 30)
    limits = Limits()
    try:
        limits.set(1 << 30, 5 << 20)
        limits.set(2 << 30, 7 << 20)
        kept = (7 << 20) // KEPT
        assert mx.set_cache_limit(kept) == kept and mx.set_memory_limit(5 << 30) == (2 << 30) - (2 if mx.metal.is_available() else 1) * kept
        limits.restore()
        limits.restore()
        assert mx.set_cache_limit(before) == 123 << 20 and mx.set_memory_limit(memory) == 9 << 30
    finally:
        mx.set_cache_limit(before)
        mx.set_memory_limit(memory)


def test_tokens_of_waiting_prompts_are_bounded():
    """Many long prompts are told to come back; one alone is taken, however long."""
    full = SimpleNamespace(ready=True, limit=300, open=3, tokens=OPEN_TOKENS - 10)
    with pytest.raises(ApiError) as e:
        asyncio.run(Service.start(full, [[1] * 6, [1] * 5], [], None))
    assert e.value.status == 429 and e.value.code == "queue_full" and e.value.headers["Retry-After"]
    alone = SimpleNamespace(ready=True, limit=300, open=0, tokens=0, jobs=set(), engine=SimpleNamespace(persistence=None), tokenizer=None)
    with pytest.raises(ApiError, match="inside the server"):         # it gets as far as the engine's thread, which is not there
        asyncio.run(Service.start(alone, [[1] * (OPEN_TOKENS + 1)], [], None))
    assert alone.open == alone.tokens == 0
