"""Clients that load a server: many at once, of all sizes, some of which leave in the middle; and what they measure."""

import json
import random
import re
import threading
import time
from pathlib import Path

import httpx2 as httpx       # which the openai package brings

TEXT = (Path(__file__).resolve().parents[2] / "README.md").read_text() * 3
WORDS = re.findall(r"[A-Za-z]{2,12}", TEXT)


def prompt_of(tokens, seed):
    """A text of roughly that many tokens, different for each seed."""
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(max(1, int(tokens / 1.19))))


def request_of(tokens, seed, max_tokens, **more):
    return {"prompt": prompt_of(tokens, seed), "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True, **more}


def stream(client, body, leave_after=None):
    """(text, seconds of each event since the start, usage) of a streamed completion. leave_after: chunks, then hang up."""
    began, times, text, usage = time.perf_counter(), [], "", None
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    with client.stream("POST", "/v1/completions", json=body) as answer:
        if answer.status_code != 200:
            answer.read()
            raise AssertionError((answer.status_code, answer.text[:300]))
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            data = json.loads(line[6:])
            if "error" in data:
                raise AssertionError(data)
            if data["choices"]:
                times.append(time.perf_counter() - began)
                text += data["choices"][0]["text"]
            usage = data.get("usage") or usage
            if leave_after is not None and len(times) > leave_after:
                return None, times, None
    return text, times, usage


def resident(pid):
    """Resident bytes of a process (Linux)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def run_clients(server, requests, clients, seconds, leaving=0.0, seed=0):
    """`clients` threads that ask random ones of requests ({name: body}) for some seconds. Returns counts, and what was
    wrong: [(name, error or wrong text)]. requests: {name: (body, the text expected)}."""
    end, wrong, counts = time.monotonic() + seconds, [], {"answers": 0, "left": 0, "tokens": 0}
    lock = threading.Lock()

    def one(number):
        rng = random.Random(seed * 1000 + number)
        with httpx.Client(base_url=server.url, timeout=600) as client:
            while time.monotonic() < end:
                name = rng.choice(sorted(requests))
                body, expected = requests[name]
                leave = rng.randrange(body["max_tokens"]) if rng.random() < leaving else None
                try:
                    text, times, _ = stream(client, body, leave)
                except (AssertionError, httpx.HTTPError) as e:
                    with lock:
                        wrong.append((name, repr(e)[:300]))
                    continue
                with lock:
                    counts["tokens"] += len(times)
                    counts["left" if text is None else "answers"] += 1
                    if text is not None and text != expected:
                        wrong.append((name, text[:80], expected[:80]))
    threads = [threading.Thread(target=one, args=(i,)) for i in range(clients)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return counts, wrong
