"""The public names of mlxr, pinned: a name appears here on purpose, and does not go away by accident."""

import subprocess
import sys

import mlxr
import mlxr.errors
import pytest

PUBLIC = [
    "ConfigError",
    "DownloadError",
    "EngineClosed",
    "EngineConfig",
    "KernelError",
    "LLM",
    "MlxrError",
    "ModelNotFound",
    "OutOfPages",
    "Output",
    "PromptTooLong",
    "RequestError",
    "SamplingParams",
    "StreamChunk",
    "TokenLogprob",
    "TokenizerError",
    "UnsupportedModel",
    "WeightsError",
    "__version__",
]


def test_names_are_these_and_sorted():
    assert mlxr.__all__ == PUBLIC == sorted(PUBLIC)
    assert dir(mlxr) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_each_is_importable_and_documented(name):
    value = getattr(mlxr, name)
    if name == "__version__":
        assert value.split(".")[0].isdigit()
    else:
        assert value.__name__ == name and value.__module__.startswith("mlxr.") and value.__doc__


def test_every_error_is_public_and_has_the_common_base():
    errors = {name for name, value in vars(mlxr.errors).items() if isinstance(value, type)}
    assert errors == {name for name in PUBLIC if isinstance(getattr(mlxr, name), type)
                      and issubclass(getattr(mlxr, name), mlxr.MlxrError)}


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="module 'mlxr' has no attribute 'Modle'"):
        print(mlxr.Modle)


def test_importing_mlxr_brings_no_heavy_library():
    heavy = {"mlx", "mlx.core", "mlx_lm", "transformers", "torch", "numpy", "huggingface_hub", "rich", "jinja2", "gguf"}
    code = f"import mlxr, sys; print(sorted({heavy!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.slow
def test_star_import_gives_them_all():
    code = "from mlxr import *; print(sorted(n for n in dir() if n == '__version__' or not n.startswith('__')))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == str(PUBLIC), result.stderr
