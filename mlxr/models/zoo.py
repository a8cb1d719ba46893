"""The way into mlx-lm's model definitions: find an architecture's classes without the cost of importing mlx-lm itself.

`import mlx_lm` brings transformers (1.5 s). Its `models` subpackage needs nothing of that, so it is imported under a
bare parent package, which runs the real `__init__` when somebody asks it for an attribute.
"""

import dataclasses
import importlib
import importlib.util
import inspect
import sys
import types

from ..errors import UnsupportedModel, WeightsError

# model_type in a config -> module in mlx_lm.models, where the two differ.
ALIASES = {
    "mistral": "llama",
    "llava": "mistral3",
    "phi-msft": "phixtral",
    "falcon_mamba": "mamba",
    "kimi_k2": "deepseek_v3",
    "joyai_llm_flash": "deepseek_v3",
    "qwen2_5_vl": "qwen2_vl",
    "minimax_m2": "minimax",
    "iquestcoder": "llama",
    "xverse": "llama",
    "gemma4_unified": "gemma4",
    "deepseek_v41_text": "deepseek_v41",
}

# Modules of mlx_lm.models that define no architecture.
_NOT_MODELS = {
    "activations", "base", "bitlinear_layers", "cache", "gated_delta", "mla", "pipeline", "rope_utils", "ssm",
    "switch_layers",
}


class _BarePackage(types.ModuleType):
    """mlx_lm before anybody asked it for an attribute."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        spec = self.__dict__["__spec__"]
        self.__class__ = types.ModuleType  # once: what __init__ itself imports sees an ordinary module
        spec.loader.exec_module(self)
        return getattr(self, name)


def _prepare():
    """Make `mlx_lm.models` importable, cheaply when mlx_lm was not imported yet."""
    if "mlx_lm" in sys.modules:
        return
    spec = importlib.util.find_spec("mlx_lm")
    if spec is None:
        raise UnsupportedModel("the package mlx-lm is not installed; its model definitions are needed: pip install mlx-lm")
    package = _BarePackage("mlx_lm")
    package.__spec__ = spec
    package.__path__ = list(spec.submodule_search_locations)
    package.__package__ = "mlx_lm"
    package.__file__ = spec.origin
    sys.modules["mlx_lm"] = package


def lm_module(name):
    """The module `mlx_lm.models.<name>`, without running mlx-lm's own `__init__`."""
    _prepare()
    return importlib.import_module(f"mlx_lm.models.{name}")


def tool_parser(name):
    """The module `mlx_lm.tool_parsers.<name>`, likewise: parse_tool_call, tool_call_start, tool_call_end."""
    _prepare()
    return importlib.import_module(f"mlx_lm.tool_parsers.{name}")


def architectures():
    """Names of all architectures that the installed mlx-lm defines, sorted."""
    _prepare()
    import pkgutil

    return sorted(m.name for m in pkgutil.iter_modules([_models_dir()])
                  if m.name not in _NOT_MODELS)


def _models_dir():
    return list(importlib.import_module("mlx_lm.models").__path__)[0]


def architecture_name(config):
    """The module name for a model's config (its `model_type`, aliases resolved).

    Raises WeightsError when the config has no model_type.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise WeightsError("config.json has no model_type; a Hugging Face model folder is expected")
    declared = config.get("architectures") or ()
    if model_type == "bailing_hybrid" and "BailingMoeV3ForCausalLM" in declared:
        return "bailing_moe_v3"
    return ALIASES.get(model_type, model_type)


def model_classes(config):
    """(Model, ModelArgs) of mlx-lm for a Hugging Face style config dict.

    Raises UnsupportedModel, naming the architecture, when the installed mlx-lm has none of that name.
    """
    name = architecture_name(config)
    if not name.replace("_", "").replace("-", "").isalnum() or name in _NOT_MODELS:
        raise UnsupportedModel(f"{name!r} is not the name of a model architecture")
    try:
        module = lm_module(name)
    except ModuleNotFoundError as e:
        if e.name != f"mlx_lm.models.{name}":
            raise UnsupportedModel(f"architecture {name!r} needs the package {e.name!r}: pip install {e.name}") from e
        raise UnsupportedModel(
            f"architecture {name!r} is not supported by the installed mlx-lm; "
            f"it has {len(architectures())} others (a newer mlx-lm may have it)") from e
    except SystemExit as e:                  # what some definitions do where a package of theirs is missing
        raise UnsupportedModel(f"mlx-lm's definition of architecture {name!r} ended itself: a package it needs is missing") from e
    return module.Model, module.ModelArgs


def instantiate(config):
    """A Model with random, lazily made weights. Raises UnsupportedModel when the config lacks what the class needs."""
    cls, args_cls = model_classes(config)
    try:
        return cls(args_cls.from_dict(config))
    except (TypeError, KeyError, ValueError, AttributeError) as e:
        need = [f.name for f in dataclasses.fields(args_cls)
                if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
                and f.name not in config] if dataclasses.is_dataclass(args_cls) else []
        why = f"config.json lacks {', '.join(need)}" if need else str(e)
        raise UnsupportedModel(f"cannot build architecture {config.get('model_type')!r}: {why}") from e


def takes(function, name):
    """Whether a callable accepts a keyword of that name."""
    return name in inspect.signature(function).parameters
