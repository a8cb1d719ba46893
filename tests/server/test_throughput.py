"""Throughput of 16 clients against one, and against llama-cpp-python's server and mlx_lm.server on the same model, in turns.

Beside tokens a second it tells tokens a second of processor time, which other programs on the machine change less.
MLXR_BENCH_THREADS: of each engine (default 2); on a busy machine 1, as llama.cpp's threads wait for each other by spinning.
MLXR_LLAMA_PATH: folders for PYTHONPATH where llama_cpp.server's own requirements (fastapi ...) are not installed.
"""

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.load import httpx, prompt_of
from helpers.server import Server

pytestmark = pytest.mark.slow
CLIENT = Path(__file__).resolve().parents[1] / "helpers" / "fast_client.py"       # in a process of its own
THREADS = os.environ.get("MLXR_BENCH_THREADS", "2")
TOKENS, ROUNDS = 96, int(os.environ.get("MLXR_ROUNDS", 3))


class Peer:
    """Another engine's server, as a process. url; name of the model for it."""

    def __init__(self, *command, model, env=None):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.url, self.model = f"http://127.0.0.1:{port}", model
        self.process = subprocess.Popen([sys.executable, "-m", *map(str, command), "--port", str(port)], env={**os.environ, **(env or {})},
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait(self, seconds=180):
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(self.url + "/v1/models", timeout=5)
                return True
            time.sleep(0.3)
        return False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(server, clients, each, tokens, seed, model):
    """(tokens a second, tokens a second of processor time) of some clients with `each` requests one after the other."""
    bodies = [{"model": model, "prompt": prompt_of(40, f"{seed}/{n}"), "max_tokens": tokens, "temperature": 0,
               "logit_bias": {"2": -100, "0": -100}} for n in range(clients * each)]
    if model is None:
        bodies = [{k: v for k, v in b.items() if k != "model"} for b in bodies]
    cpu = cpu_seconds(server.process.pid)
    done = subprocess.run([sys.executable, CLIENT, server.url, str(clients), str(each)], input=json.dumps(bodies), text=True,
                          capture_output=True, check=True)
    answer = json.loads(done.stdout)
    assert not answer["errors"], answer["errors"]
    return answer["tokens"] / answer["seconds"], answer["tokens"] / (cpu_seconds(server.process.pid) - cpu)


def test_throughput(smollm2_gguf, smollm2_fp32):
    pytest.importorskip("llama_cpp")
    env = {"PYTHONPATH": os.pathsep.join([*os.environ.get("MLXR_LLAMA_PATH", "").split(os.pathsep), os.environ.get("PYTHONPATH", "")])}
    found = {}
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(Server("--pool", "200M", "--max-batch", "16", env={"MLXR_THREADS": THREADS}))
        llama = stack.enter_context(Peer("llama_cpp.server", "--model", smollm2_gguf, "--n_threads", THREADS, "--n_ctx", "2048", model="x", env=env))
        plain = stack.enter_context(Peer("mlx_lm.server", "--model", smollm2_fp32, model="default_model"))
        if not llama.wait():
            pytest.skip("llama_cpp.server does not start; it needs fastapi, sse-starlette, starlette-context, pydantic-settings")
        for r in range(ROUNDS + 1):                      # the first round warms up
            for name, server, model in (("mlxr", ours, None), ("llama", llama, llama.model)):
                for clients, each in ((1, 2), (16, 1)):
                    found.setdefault((name, clients), []).append(run(server, clients, each, TOKENS, r, model))
                    print(name, clients, *(f"{x:.1f}" for x in found[name, clients][-1]), flush=True)
        if plain.wait(60):
            found["mlx_lm", 1] = [run(plain, 1, 1, 8, 0, plain.model) for _ in range(2)]
    wall, cpu = ({k: statistics.median(x[i] for x in v[1:]) for k, v in found.items()} for i in (0, 1))
    print("\n", *(f"{name}, {n} clients: {wall[name, n]:.1f} tokens/s, {cpu[name, n]:.1f} a second of processor time\n" for name, n in found))
    ratios = [wall["mlxr", 16] / wall["mlxr", 1], wall["mlxr", 16] / wall["llama", 16]]
    print(f"16 clients against one: {ratios[0]:.2f} (processor time {cpu['mlxr', 16] / cpu['mlxr', 1]:.2f}); "
          f"against llama's server: {ratios[1]:.2f} ({cpu['mlxr', 16] / cpu['llama', 16]:.2f})")
    assert ratios[0] >= 3 and ratios[1] >= 1.5
