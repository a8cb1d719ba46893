"""mlxr: language models on Apple silicon, with a paged and quantized KV cache."""

import importlib

from ._blas import prefer_openblas
from ._version import __version__ as __version__

prefer_openblas()

# Public name -> module that defines it. They are imported at first use, so that the command line starts fast.
_HOMES = {
    "ConfigError": "errors", "DownloadError": "errors", "EngineClosed": "errors", "EngineConfig": "config",
    "KernelError": "errors", "LLM": "api", "MlxrError": "errors", "ModelNotFound": "errors", "OutOfPages": "errors",
    "Output": "output", "PromptTooLong": "errors", "RequestError": "errors", "SamplingParams": "sequence",
    "StreamChunk": "output", "TokenLogprob": "output", "TokenizerError": "errors", "UnsupportedModel": "errors",
    "WeightsError": "errors",
}

__all__ = sorted(["__version__", *_HOMES])


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module 'mlxr' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__():
    return __all__
