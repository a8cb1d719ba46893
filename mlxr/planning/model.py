"""What a plan needs to know of a model: from its files, from its config alone, or from a few numbers. No weight is read."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten

from ..engine import context_limit
from ..errors import ConfigError, ModelNotFound, UnsupportedModel, WeightsError
from ..models import seam, zoo
from ..models.build import DTYPES, choose_dtype, gguf_model, make_model
from ..models.experts import is_experts
from ..models.held import held_bytes
from ..models.linear import on_cpu
from ..models.modes import REFUSED, mode_of
from ..pages.pool import LayerSpec
from ..weights import hub
from ..weights.checkpoint import open_checkpoint
from ..weights.locate import ALIASES, locate, split_repo
from .configs import CONFIGS

MOST = 10_000       # layers, heads, elements of a head: no model has more
_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads", "attention_heads")
_EXPERTS = (("num_experts_per_tok", "num_experts_per_token", "moe_topk", "top_k_experts", "num_experts_per_toks"),
            ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts"))


@dataclass
class PlannedModel:
    """Sizes of a model.

    specs: a LayerSpec for each attention layer, None for one that stores nothing. heads: query heads. parameters: in all,
    or None where they are not known; table: of them, in an embedding that is read a row a token; expert: of them, in
    routed experts, of which a token reads the share `routed`. weights: bytes on this backend, and on_mac: of Metal;
    None where parameters are not known. dtype: of activations here. config: the Hugging Face config, {} of numbers.
    """

    name: str
    source: str
    architecture: str
    specs: list
    heads: int
    parameters: int | None
    weights: int | None
    on_mac: int | None
    vocabulary: int = 0
    context: int = 1 << 20
    table: int = 0
    expert: int = 0
    routed: float = 1.0
    dtype: mx.Dtype = mx.float32
    recurrent: bool = False
    config: dict = field(default_factory=dict)

    def read_share(self, rows=1):
        """Share of the weights that one step of `rows` sequences reads: no embedding table, and the experts that are
        routed to, 1 - (1 - k/E)^rows of them where every token takes k of E at random."""
        if not self.parameters:
            return 1.0
        spared = self.table + self.expert * (1 - self.routed) ** rows
        return 1 - spared / self.parameters

    @property
    def computed(self):
        """Parameters that one token is multiplied with."""
        return self.parameters - self.table - self.expert * (1 - self.routed) if self.parameters else 0


def from_numbers(layers, heads, kv_heads, head_dim, parameters=None, bits=None):
    """A PlannedModel of equal attention layers. bits: of a weight (default 16). Raises ConfigError for numbers that no
    model has."""
    for name, value in (("layers", layers), ("heads", heads), ("kv-heads", kv_heads), ("head-dim", head_dim)):
        if value is None or not 1 <= value <= MOST:
            raise ConfigError(f"--{name} must be a whole number from 1 to {MOST}" + ("" if value is None else f", not {value}"))
    if heads % kv_heads:
        raise ConfigError(f"--heads {heads} is not a multiple of --kv-heads {kv_heads}")
    if parameters is not None and not 1 <= parameters <= 10 ** 15:
        raise ConfigError(f"--params must lie between 1 and 1e15, not {parameters:g}")
    weights = parameters and int(parameters * _bits(bits, {}) / 8)
    config = {"hidden_size": heads * head_dim, "num_attention_heads": heads, "head_dim": head_dim}
    return PlannedModel("", "numbers", "", [LayerSpec(kv_heads, head_dim, head_dim)] * layers, heads, parameters, weights,
                        weights, dtype=_dtype(None), config=config)


def from_name(name=None, bits=None, dtype=None, cache="none"):
    """The PlannedModel of what weights.locate takes, of a repository's config.json alone, or of a bundled name.

    bits: of a weight, in place of what the model has. dtype: of activations. cache: as load_model says. Raises what locating and reading raise.
    """
    known = CONFIGS.get(str(name).lower()) if name is not None and not Path(name).exists() else None
    if known and str(name).lower() not in ALIASES:
        return _of_config(known, str(name), "bundled numbers", bits, dtype)
    repo, file = split_repo(str(name)) if name is not None and not Path(str(name)).expanduser().exists() else (None, None)
    if repo and not file and str(name) not in ALIASES:
        return _of_config(_read(hub.fetch(repo, "config.json")), repo, "config.json of the repository", bits, dtype)
    if name is not None and Path(str(name)).name == "config.json" and Path(str(name)).is_file():
        return _of_config(_read(Path(str(name))), str(name), "config.json", bits, dtype)
    try:
        path = locate(name)
    except ModelNotFound as e:
        raise ModelNotFound(f"{e}; or, for a plan, a config.json or one of: {', '.join(CONFIGS)}") from None
    if path.is_dir() and not any(path.glob("*.safetensors")):
        return _of_config(_read(path / "config.json"), str(path), "config.json", bits, dtype)
    return _of_files(path, bits, dtype, cache)


def _read(path):
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise WeightsError(f"{path} is not a readable config.json: {e}") from None
    if not isinstance(config, dict):
        raise WeightsError(f"{path} holds no JSON object")
    return config


def _of_files(path, bits, dtype, cache):
    checkpoint = open_checkpoint(path)
    _check(checkpoint.config)
    model = gguf_model(checkpoint) if checkpoint.kind == "gguf" else make_model(checkpoint.config)
    planned = _planned(model, checkpoint.config, str(path), f"{checkpoint.kind} file headers", choose_dtype(checkpoint, dtype))
    if bits is not None:
        planned.weights = planned.on_mac = int(planned.parameters * _bits(bits, {}) / 8)
    else:
        planned.weights, planned.on_mac = held_bytes(checkpoint, model, dtype, cache), checkpoint.nbytes
    return planned


def _of_config(config, name, source, bits, dtype):
    _check(config)
    planned = _planned(make_model(config), config, name, source, _dtype(dtype))
    planned.weights = planned.on_mac = int(planned.parameters * _bits(bits, config) / 8)
    return planned


def _check(config):
    architecture = zoo.architecture_name(config)
    mode, note = mode_of(architecture)
    if mode == REFUSED:
        raise UnsupportedModel(f"architecture {architecture!r} cannot run: {note}")


def _planned(model, config, name, source, dtype):
    seam.install()
    shape = seam.probe(model)
    text = {**config, **(config.get("text_config") or {})}
    specs = [s for s in shape.specs if s]
    heads = next((text[n] for n in _HEADS if isinstance(text.get(n), int)), specs[0].kv_heads if specs else 1)
    chosen, of = (next((text[n] for n in names if isinstance(text.get(n), int) and text[n]), 0) for names in _EXPERTS)
    parameters, table, expert = _count(model)
    return PlannedModel(name, source, zoo.architecture_name(config), shape.specs, heads, parameters, None, None,
                        shape.vocabulary, context_limit(config, None), table, expert, chosen / of if chosen and of else 1.0,
                        dtype or shape.dtype, shape.recurrent, config)


def _count(model):
    """(parameters, those of an embedding table that is no output matrix, those of routed experts) of unquantized modules."""
    total = sum(p.size for _, p in tree_flatten(model.parameters()))
    modules = dict(model.named_modules())
    tables = [m.weight.size for m in modules.values() if type(m).__name__ == "Embedding"]
    untied = any(path.rpartition(".")[2] in ("lm_head", "output", "embed_out") for path in modules)
    expert = sum(p.size for m in modules.values() if is_experts(m) for _, p in tree_flatten(m.parameters()))
    return total, max(tables, default=0) if untied else 0, expert


def _bits(bits, config):
    """Bits of a weight, scales counted: as given, as a config's quantization says, or 16."""
    if bits is not None:
        if not 0.5 <= bits <= 64:
            raise ConfigError(f"--bits must lie between 0.5 and 64, not {bits:g}")
        return bits
    how = config.get("quantization") or {}
    if isinstance(how.get("bits"), int):
        return how["bits"] + 32 / how.get("group_size", 64)
    return 16


def _dtype(name):
    """mx.Dtype of activations where there is no checkpoint to ask."""
    return DTYPES[name] if name else mx.float32 if on_cpu() else mx.float16
