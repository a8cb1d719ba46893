"""A server under load, for minutes: many clients of all sizes, clients that leave, long prompts beside streams, a small pool.

MLXR_LOAD_SECONDS sets how long each load lasts (default 180). What is measured is printed: run with -s to see it.
"""

import os
import random
import re
import statistics
import threading
import time

import pytest

from helpers.load import httpx, request_of, resident, run_clients, stream
from helpers.server import Server

pytestmark = pytest.mark.slow
SECONDS = float(os.environ.get("MLXR_LOAD_SECONDS", 180))


@pytest.fixture(scope="module")
def loaded(smollm2_gguf):
    with Server("--pool", "600M", "--max-batch", "32", "--max-queue", "64") as s:
        yield s


def alone(server, bodies):
    """{name: (body, its answer alone and uncached)}"""
    with httpx.Client(base_url=server.url, timeout=600) as client:
        return {n: (b, stream(client, {**b, "cache_salt": f"alone-{n}"})[0]) for n, b in bodies.items()}


@pytest.mark.parametrize("leaving", [0.0, 0.2])
def test_32_clients_of_all_sizes(loaded, leaving):
    """No error, every answer as alone, all pages free at the end, resident memory as after the first part."""
    rng = random.Random(5)
    sizes = [10, 15, 20, 40, 60, 100, 150, 200, 300, 500, 800, 1200, 2000, 3000]
    bodies = {f"{n}": request_of(n, n, rng.randint(5, 40)) for n in sizes}
    requests = alone(loaded, bodies)
    short = {n: r for n, r in requests.items() if int(n) <= 100}
    run_clients(loaded, short, 32, 10, seed=3)           # all 32 run at once: tails are made as they are needed
    counts, wrong = run_clients(loaded, requests, 32, SECONDS / 3, leaving, seed=1)
    loaded.idle()
    before = resident(loaded.process.pid)
    more, also = run_clients(loaded, requests, 32, 2 * SECONDS / 3, leaving, seed=2)
    stats, after = loaded.idle(), resident(loaded.process.pid)
    print(f"\nleaving {leaving}: {counts} then {more}; resident {before / 2**20:.0f} MiB, then {after / 2**20:.0f} MiB; {stats}")
    assert not wrong and not also, (wrong + also)[:5]
    assert stats["pages_free"] == stats["pages"]
    assert after < 1.02 * before
    assert more["answers"] > 20 and (more["left"] > 0) == (leaving > 0)


def test_a_long_prompt_holds_nobody_up(loaded):
    """While 6,000 tokens are read in, others' longest gap is at most 4 times their normal one: the median of three prompts."""
    gaps, marks, done = [[] for _ in range(3)], [], threading.Event()

    def watch(i):
        body = {**request_of(20, 70 + i, 7000), "stream": True}
        with httpx.Client(base_url=loaded.url, timeout=600) as client, client.stream("POST", "/v1/completions", json=body) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    gaps[i].append(time.perf_counter())
                if done.is_set():
                    break

    threads = [threading.Thread(target=watch, args=(i,)) for i in range(3)]
    for t in threads:
        t.start()
    try:
        with httpx.Client(base_url=loaded.url, timeout=600) as client:
            for round, size in enumerate((1000, 6000, 6000, 6000)):      # the first does not count: the pace is learned then
                time.sleep(3)
                began = time.perf_counter()
                _, times, usage = stream(client, request_of(size, 90 + round, 1))
                marks.append((began, began + times[0], usage["prompt_tokens"]))
            time.sleep(3)
    finally:
        done.set()
        for t in threads:
            t.join()
    longest = []
    for before, (began, end, tokens), after in zip(marks, marks[1:], [*(m[0] for m in marks[2:]), time.perf_counter()]):
        pairs = [pair for times in gaps for pair in zip(times, times[1:])]
        without = [b - a for a, b in pairs if before[1] < a and b < began or end < a and b < after]
        normal = statistics.median(without)
        during = sorted(b - a for a, b in pairs if began <= a and b <= end)
        longest.append(during[-1] / normal)
        print(f"\nnormal gap {normal * 1000:.1f} ms, longest {max(without) / normal:.2f} of it; beside {tokens} tokens, which took {end - began:.1f} s: median "
              f"{statistics.median(during) / normal:.2f} of it, 99 % {during[int(0.99 * len(during))] / normal:.2f}, longest {longest[-1]:.2f}")
        assert tokens >= 5000 and len(during) > 50
    assert statistics.median(longest) <= 4


def test_the_second_turn_starts_at_once(loaded):
    with httpx.Client(base_url=loaded.url, timeout=600) as client:
        ratios = []
        for i in range(3):
            first = request_of(2000, 200 + i, 20)
            text, times, usage = stream(client, first)
            again = {**first, "prompt": first["prompt"] + text + "\nAnd then?"}
            _, second, used = stream(client, again)
            ratios.append(second[0] / times[0])
            assert used["prompt_tokens_details"]["cached_tokens"] > 0.95 * usage["prompt_tokens"]
    print(f"\nfirst token of the second turn: {[f'{r:.3f}' for r in ratios]} of the first's, {usage['prompt_tokens']} tokens")
    assert statistics.median(ratios) <= 0.10


def test_a_small_pool_under_a_large_load(smollm2_gguf):
    """4,000 tokens of pages, 40,000 wanted: everything is answered as alone, or refused clearly; memory stays in the table."""
    with Server("--pool", "91M", "--max-batch", "16", "--max-queue", "64") as s:
        assert 3500 < s.stats()["pages"] * s.stats()["page_size"] < 4500
        bodies = {f"{n}": request_of(n, n, 60) for n in (300, 800, 1300, 1800)}
        requests = alone(s, bodies)
        counts, wrong = run_clients(s, requests, 24, min(60, SECONDS), seed=3)
        stats = s.idle()
        status, answer, _ = s.ask("/v1/completions", request_of(6000, 1, 5))
        print(f"\n{counts}, {stats}, too long: {answer}")
        assert not wrong and counts["answers"] > 10 and stats["pages_free"] == stats["pages"]
        assert status == 400 and answer["error"]["code"] == "context_length_exceeded"
        peak = next(float(line.split()[1]) for line in s.ask("/metrics")[1].splitlines() if line.startswith("mlxr_peak_bytes "))
        table = dict(re.findall(r"^  (\S.*?) {2,}([0-9.]+) MiB$", s.read_log(), re.MULTILINE))
        print(f"table {table}, peak {peak / 2**20:.1f} MiB")
        assert peak / 2**20 < 1.02 * float(table["together"])
