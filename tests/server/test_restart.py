"""A server with --cache-dir: after a restart prompts are found; killed at any moment it comes back, and serves nothing damaged."""

import random
import threading
import time

import pytest

from helpers.load import httpx, prompt_of, request_of, stream
from helpers.server import Server

KILLS = 50


def started(folder, *more):
    return Server("--pool", "200M", "--max-batch", "8", "--cache-dir", folder, *more)


def first_token(server, body):
    """(seconds to the first token, text, cached tokens)"""
    with httpx.Client(base_url=server.url, timeout=300) as client:
        text, times, usage = stream(client, body)
    return times[0], text, usage["prompt_tokens_details"]["cached_tokens"]


def test_a_restart_finds_prompts(smollm2_gguf, tmp_path):
    """In the metrics, in the usage, in the answer; not under another salt. Time is for the slow test."""
    body = request_of(300, 1, 8)
    with started(tmp_path) as server:
        _, text, cached = first_token(server, body)
        assert cached == 0 and server.stop()[0] == 0
    with started(tmp_path) as server:
        _, again, cached = first_token(server, body)
        assert again == text and cached >= 256
        assert server.stats()["disk_read"] >= 4 and 'mlxr_disk_pages{model="smollm2-135m"}' in server.ask("/metrics")[1]
        assert first_token(server, {**body, "cache_salt": "mine"})[2] == 0


@pytest.mark.slow
def test_time_to_first_token_after_a_restart(smollm2_gguf, tmp_path):
    ratios = []
    for i in range(5):
        body = request_of(2000, 50 + i, 8)
        with started(tmp_path) as server:
            first_token(server, request_of(300, 900 + i, 2))
            cold, text, _ = first_token(server, body)
            server.stop()
        with started(tmp_path) as server:
            first_token(server, request_of(300, 950 + i, 2))
            warm, again, cached = first_token(server, body)
            assert again == text and cached > 1800
        ratios.append(warm / cold)
    print(f"\nfirst token after a restart: {[f'{r:.3f}' for r in ratios]} of the first time's")
    assert sorted(ratios)[2] <= 0.20


@pytest.mark.slow
def test_killed_at_random_moments(smollm2_gguf, tmp_path):
    """50 kills while pages are written: every restart answers, as a server without a cache does, from what is whole."""
    rng, prefix = random.Random(1), prompt_of(400, 7)
    bodies = [{**request_of(1, 0, 6), "prompt": f"{prefix} {prompt_of(300, i)}"} for i in range(12)]
    with started(tmp_path / "none") as server:
        expected = [first_token(server, {**b, "cache_salt": str(i)})[1] for i, b in enumerate(bodies)]
    cached = read = damaged = 0
    for kill in range(KILLS):
        with started(tmp_path / "cache", "--cache-dir-size", "60M") as server:
            i = rng.randrange(len(bodies))
            _, text, found = first_token(server, bodies[i])
            assert text == expected[i], kill
            cached += found > 0
            stats = server.ask("/metrics")[1]
            read += "mlxr_disk_read_total{model=\"smollm2-135m\"} 0.0" not in stats
            damaged += "mlxr_disk_damaged_total{model=\"smollm2-135m\"} 0.0" not in stats

            def load(n, kill=kill):
                try:
                    first_token(server, {**request_of(600, 1000 * kill + n, 30), "max_tokens": 30})
                except (httpx.HTTPError, AssertionError, IndexError):
                    pass
            threads = [threading.Thread(target=load, args=(n,)) for n in range(3)]
            for t in threads:
                t.start()
            time.sleep(rng.uniform(0.05, 2.5))
            server.process.kill()
            for t in threads:
                t.join()
    files = list((tmp_path / "cache").glob("*/*.page"))
    size = sum(f.stat().st_size for f in files)
    print(f"\n{KILLS} kills: {cached} first answers had cached tokens, {read} from disk, {damaged} found a damaged file; "
          f"{len(files)} pages, {size / 2**20:.0f} MiB at the end")
    assert read > KILLS / 4 and size < 1.1 * (60 << 20)
