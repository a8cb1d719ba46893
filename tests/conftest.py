"""Fixtures: the real model, as GGUF and as a dequantized fp32 folder, and real text."""

import os
import signal
from pathlib import Path

os.environ.setdefault("MLXR_PRECOMPILE", "1")     # hundreds of kernels are compiled: their headers once

import mlxr  # noqa: F401  (before any test imports mlx: it decides which BLAS MLX uses)
import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no fault, and a commit is judged by the same examples each time; --slow looks for new ones.
settings.register_profile("fixed", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("new", settings.get_profile("fixed"), derandomize=False)

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:     # as in what a shell runs in the background: commands under test inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPO = Path(__file__).resolve().parents[1]
SHARED = REPO.parent / "shared"


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests marked slow as well")


def pytest_configure(config):
    settings.load_profile("new" if config.getoption("--slow") else "fixed")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow") or "slow" in (config.getoption("-m") or ""):
        return
    skip = pytest.mark.skip(reason="slow: run with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def smollm2_gguf():
    """Path of SmolLM2-135M-Instruct in Q4_1, fetched once into the user's cache folder."""
    from mlxr.weights.locate import locate

    return locate(None, progress=False)


@pytest.fixture(scope="session")
def smollm2_fp32(smollm2_gguf):
    """A safetensors folder of the same model, dequantized to fp32, as Hugging Face publishes models."""
    from helpers.dequantize import dequantized_folder

    return dequantized_folder(smollm2_gguf)


@pytest.fixture(scope="session")
def wikitext():
    path = SHARED / "data" / "wikitext2-test.txt"
    if not path.exists():
        pytest.skip(f"real text for evaluation is not present ({path.name})")
    return path.read_text()
