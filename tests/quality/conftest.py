"""Models on either backend of a CPU, small ones with a tokenizer of bytes, and validations of these."""

import pytest

from helpers.quality import byte_engine, passages_text
from mlxr.kernels import host_build
from mlxr.quality.validation import Plan, Quiet, Validation


@pytest.fixture(params=["host", "reference"])
def backend(request, monkeypatch):
    """Run on one backend, whose name this is."""
    if request.param == "host" and host_build.compiler() is None:
        pytest.skip("no C++ compiler")
    monkeypatch.setenv("MLXR_BACKEND", request.param)
    return request.param


@pytest.fixture
def validation():
    """A function from a Plan's fields (and an engine) to a Validation of a small random model."""
    def make(engine=None, text=None, progress=None, **plan):
        plan = Plan(**{"formats": ("q8",), "contexts": (64,), "windows": 3, **plan})
        return Validation(engine or byte_engine(), plan, text or passages_text(), progress or Quiet())
    return make
