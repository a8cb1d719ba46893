"""Models on either backend of a CPU: our compiled kernels ("host"), and MLX's own operations ("reference")."""

import pytest

from mlxr.kernels import host_build


@pytest.fixture(params=["host", "reference"])
def backend(request, monkeypatch):
    """Load and run models on one backend, whose name this is."""
    if request.param == "host" and host_build.compiler() is None:
        pytest.skip("no C++ compiler")
    monkeypatch.setenv("MLXR_BACKEND", request.param)
    return request.param
