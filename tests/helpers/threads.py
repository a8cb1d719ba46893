"""What tests of LLM wait for: its engine threads, a condition, and all pages given back."""

import threading
import time


def engine_threads():
    return [t for t in threading.enumerate() if t.name == "mlxr-engine"]


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.005)


def all_pages_free(llm):
    stats = llm.stats()
    return stats["pages_used"] == 0 and stats["running"] == 0 and stats["waiting"] == 0
