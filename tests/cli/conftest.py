"""Fixtures for tests of the command line."""

import pytest

from helpers.command import mlxr


@pytest.fixture(scope="session")
def model_is_ready(smollm2_gguf):
    """The default model is on this disk and has run once: no other run downloads it or compiles kernels."""
    result = mlxr("generate", "--prompt", "hi", "--max-tokens", "2")
    assert result.returncode == 0, result.stderr
