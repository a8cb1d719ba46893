"""Pages on disk: bit for bit or not at all, within bounds, after any kind of damage; and a real model's after a restart."""

import os
import random

import mlxr  # noqa: F401  (first: it decides which BLAS MLX uses)
import numpy as np
import pytest

from mlxr.api import LLM
from mlxr.errors import ConfigError
from mlxr.pages.store import HEAD, PageStore
from mlxr.sequence import SamplingParams

SIZE = 4096
KEYS = [bytes([i]) * 16 for i in range(12)]
RECORDS = [random.Random(i).randbytes(SIZE) for i in range(12)]


def opened(folder, kind="a model", limit=1 << 20):
    return PageStore(folder, kind, SIZE, limit)


def filled(folder, n=6, **kw):
    store = opened(folder, **kw)
    for key, record in zip(KEYS[:n], RECORDS):
        store.put(key, record)
    store.close()
    return store


def whole(store, n=6):
    return [(k, bytes(r)) for k, r in store.take(KEYS[:n])] == list(zip(KEYS[:n], RECORDS))


def test_pages_come_back_bit_for_bit(tmp_path):
    first = filled(tmp_path)
    assert whole(first) and first.stats()["disk_pages"] == 6
    again = opened(tmp_path)
    again.fetch(KEYS[:3])
    assert whole(again) and again.stats()["disk_bytes"] == 6 * (SIZE + HEAD.size) and KEYS[6] not in again
    assert len(opened(tmp_path, kind="another model")) == 0


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "head", "version", "swapped", "gone", "longer"])
def test_what_is_damaged_is_never_served(tmp_path, damage):
    folder = filled(tmp_path).folder
    path = folder / f"{KEYS[2].hex()}.page"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[HEAD.size + 1000] ^= 4
    elif damage == "head":
        data[20] ^= 1
    elif damage == "version":
        data[8] += 1
    elif damage == "swapped":
        data = (folder / f"{KEYS[3].hex()}.page").read_bytes()
    data = {"cut": data[:-1], "empty": b"", "longer": data + b"x"}.get(damage, data)
    path.write_bytes(data)
    store = opened(tmp_path)
    if damage == "gone":
        path.unlink()
    assert [k for k, _ in store.take(KEYS[:6])] == KEYS[:2]
    assert not path.exists() and KEYS[2] not in store
    assert store.damaged == (damage != "gone")
    store.put(KEYS[2], RECORDS[2])
    store.close()
    assert whole(opened(tmp_path))


def test_what_a_killed_process_left_is_removed(tmp_path):
    folder = filled(tmp_path).folder
    (folder / f"{KEYS[7].hex()}.tmp").write_bytes(b"half")
    (folder / "strange.page").write_bytes(b"x" * (HEAD.size + SIZE))
    assert whole(opened(tmp_path)) and not list(folder.glob("*.tmp"))


def test_bytes_are_bounded_and_the_longest_unused_go_first(tmp_path):
    limit = 4 * (SIZE + HEAD.size)
    store = filled(tmp_path, n=4, limit=limit)
    assert len(store) == 4
    os.utime(store.folder / f"{KEYS[0].hex()}.page", (1, 1))
    store = opened(tmp_path, limit=limit)
    assert len(store.take([KEYS[1]])) == 1
    store.put(KEYS[8], RECORDS[8])
    store.close()
    assert len(store) == 4 and KEYS[0] not in store and KEYS[1] in store and KEYS[8] in store
    assert sum(f.stat().st_size for f in store.folder.glob("*.page")) <= limit
    assert len(opened(tmp_path, limit=limit // 2)) == 2


def test_a_folder_that_cannot_be_used_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="--cache-dir"):
        opened(tmp_path / "file")
    with pytest.raises(ConfigError, match="prefix_cache"):
        LLM(cache_dir=str(tmp_path), prefix_cache=False)


def test_a_model_finds_its_pages_after_a_restart(smollm2_gguf, tmp_path):
    """The same answer, computed from restored pages; also with a page damaged."""
    prompt = [int(t) for t in np.random.default_rng(1).integers(1000, 40000, 300)]
    params = SamplingParams(max_tokens=8, ignore_eos=True)

    def run():
        with LLM(smollm2_gguf, pool_bytes=40 << 20, cache_dir=str(tmp_path), max_batch=2) as llm:
            out = llm.generate([prompt], params)[0]
            records = llm._thread.call(lambda engine: {
                key: [np.array(layer.records[page]).tobytes() for layer in engine.pool.layers]
                for key, page in engine.scheduler.cache._page.items()})
            return out, records, llm.stats()

    first, written, stats = run()
    assert first.stats["cached_tokens"] == 0
    second, read, stats = run()
    assert second.token_ids == first.token_ids and second.stats["cached_tokens"] == 256 and stats["disk_read"] == 4
    assert read == written
    path = next(p for p in tmp_path.glob("*/*.page"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)
    third, _, stats = run()
    assert third.token_ids == first.token_ids and stats["disk_damaged"] == 1
