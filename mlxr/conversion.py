"""Convert models: a Hugging Face folder or a GGUF file to a folder in MLX's format, with another dtype or quantized.

A folder is made beside its place, under a hidden name, a file of weights at a time, and renamed when all is there: what was
killed leaves nothing half done at the place itself, and the next run goes on where it stopped.
"""

import fnmatch
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .caldera.compress import Compression, windows_of
from .caldera.settings import Caldera
from .errors import ConfigError, UnsupportedModel, WeightsError
from .home import locked
from .models import build
from .models.own_weights import own_weights
from .models.quantization import quantize_layers
from .tokenizer import load_tokenizer
from .tokenizer.export import export_gguf
from .weights.checkpoint import open_checkpoint
from .weights.gguf_split import parts
from .weights.locate import locate

BITS, GROUPS = (2, 3, 4, 5, 6, 8), (32, 64, 128)
SHARD = 1 << 30                            # bytes of a file of weights
_PLAN, _LOCK, _COMPRESSED = "plan.json", "lock", "caldera"
BESIDE_CALDERA = 6                         # bits of embeddings and what else is not compressed, where none are given
_BESIDE = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
           "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json", "generation_config.json")


@dataclass(frozen=True)
class Options:
    """dtype: of plain weights, or None: as stored, and float16 for GGUF. bits, group_size: of MLX's affine format, or bits
    None for no quantization. mix: ((name pattern, bits or None), ...): the first that fits a layer's name decides.
    caldera: how linear layers of the blocks are compressed, except where mix decides; bits is then for all others."""

    dtype: str | None = None
    bits: int | None = None
    group_size: int = 64
    mix: tuple = ()
    caldera: Caldera | None = None

    def __post_init__(self):
        if self.dtype is not None and self.dtype not in build.DTYPES:
            raise ConfigError(f"dtype {self.dtype!r} is not one of {', '.join(build.DTYPES)}")
        for bits in (self.bits, *(bits for _, bits in self.mix)):
            if bits is not None and bits not in BITS:
                raise ConfigError(f"{bits} bits: MLX's affine format has {', '.join(map(str, BITS))}")
        if self.group_size not in GROUPS:
            raise ConfigError(f"a group of {self.group_size}: MLX's affine format has {', '.join(map(str, GROUPS))}")

    @property
    def quantizes(self):
        return bool(self.bits or self.mix or self.caldera)

    @property
    def base_bits(self):
        """Bits of what no pattern names, or None."""
        return self.bits or (BESIDE_CALDERA if self.caldera else None)

    def mixed(self, path):
        """Whether a pattern names the layer."""
        return any(fnmatch.fnmatchcase(path, pattern) for pattern, _ in self.mix)

    def bits_of(self, path):
        """Bits of a layer by its name, or None where it stays plain."""
        return next((bits for pattern, bits in self.mix if fnmatch.fnmatchcase(path, pattern)), self.base_bits)


def convert(model, out, options, report=None, progress=None):
    """Write the folder `out`; returns facts: path, bytes, layers quantized, layers kept plain for their shape; with caldera
    also layers compressed, blocks with more bits, and the weighted error that is left, relative to that of Q alone.

    model: anything that weights.locate takes. report: called as report(bytes done, bytes in all); progress: as
    progress(what, done, in all) while layers are compressed.
    Raises ConfigError when `out` exists or options make no sense, and what reading the model raises.
    """
    out = Path(out)
    if out.exists() or out.is_symlink():
        raise ConfigError(f"{out} exists already; give another place, or remove it first")
    source = locate(model, progress=report is not None)
    checkpoint = open_checkpoint(source)
    job = _Job(checkpoint, options)
    partial = out.with_name(f".{out.name}.partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with locked(partial / _LOCK):
            _begin(partial, {"source": _identity(checkpoint), "options": asdict(options), "shards": job.shards})
            if options.caldera:
                job.compress(partial / _COMPRESSED, load_tokenizer(source), progress or (lambda *_: None))
            _write_shards(partial, job, report or (lambda done, total: None))
            _write_rest(partial, job, source)
            for name in (_PLAN, _LOCK):
                (partial / name).unlink()
            shutil.rmtree(partial / _COMPRESSED, ignore_errors=True)
            os.rename(partial, out)
    except OSError as e:
        raise WeightsError(f"cannot write {out}: {e.strerror or e}; what was done is kept in {partial.name}") from e
    return {"path": str(out), "bytes": sum(f.stat().st_size for f in out.glob("*.safetensors")),
            "quantized": len(job.how), "kept": job.kept, **job.facts}


class _Job:
    """What becomes of each parameter. `shards`: lists of their names; `how`: layer -> {bits, group_size} of those that are
    quantized; `kept`: layers that stay plain because their rows are no whole groups."""

    def __init__(self, checkpoint, options):
        self.checkpoint, self.options = checkpoint, options
        gguf = checkpoint.kind == "gguf"
        self.model = build.gguf_model(checkpoint) if gguf else build.make_model(checkpoint.config)
        self.dtype = build.DTYPES[options.dtype] if options.dtype else mx.float16 if gguf else None
        self.casts = getattr(self.model, "cast_predicate", None) or (lambda name: True)
        self.weights = None if gguf else self._safetensors()
        shapes = {t.name: t.shape for t in checkpoint.tensors.values()} if gguf else {
            n: w.shape for n, w in self.weights.items()}
        build.check_fit(self.model, shapes, checkpoint)
        if gguf:
            _check_rope(checkpoint)
        self.how, self.kept, self.compression, self.facts = {}, [], None, {}
        self._choose(shapes)
        self.shards = self._shards(shapes)

    def _safetensors(self):
        config = self.checkpoint.config
        weights = build.sanitized(self.model, build.lazy_arrays(self.checkpoint))
        quantized = any(name.endswith(".scales") for name in weights)
        if quantized and self.options.quantizes:
            raise UnsupportedModel(f"{self.checkpoint.path.name} is quantized already; convert the original model")
        if config.get("quantization_config") and not config.get("quantization"):
            raise UnsupportedModel(f"{self.checkpoint.path.name} is quantized in another format than MLX's; convert the "
                                   "original model")
        quantize_layers(self.model, config, weights)
        return weights

    def _choose(self, shapes):
        if not self.options.quantizes:
            return
        predicate = getattr(self.model, "quant_predicate", None) or (lambda path, module: True)
        for path, module in self.model.named_modules():
            bits, asked = self.options.bits_of(path), hasattr(module, "to_quantized") and predicate(path, module)
            if not asked or bits is None:
                continue
            how = {"bits": bits, "group_size": self.options.group_size}
            if isinstance(asked, dict):          # what mlx-lm keeps at more bits for this architecture
                how = {"bits": max(bits, asked["bits"]), "group_size": asked["group_size"]}
            if shapes[f"{path}.weight"][-1] % how["group_size"]:
                self.kept.append(path)
            else:
                self.how[path] = how

    def _shards(self, shapes):
        shards, room = [], 0
        for name in sorted(shapes):
            size = 4 * int(np.prod(shapes[name], dtype=np.int64))       # at most
            if size > room or not shards:
                shards.append([])
                room = SHARD
            shards[-1].append(name)
            room -= size
        return shards

    def compress(self, folder, tokenizer, progress):
        """Compress linear layers of the blocks; what is done lies in `folder`."""
        settings, own = self.options.caldera, own_weights(self.model)
        modules = {p: m for p, m in self.model.named_modules() if type(m) is nn.Linear and re.search(r"\.\d+\.", p)
                   and not self.options.mixed(p) and p.rpartition(".")[2] not in own}
        tokens = tokenizer.encode(settings.text)
        model = build.load_model(self.checkpoint)
        work = Compression(settings, self.options.group_size, model, {p: m.weight.shape for p, m in modules.items()},
                           lambda p: np.array(self._peek(f"{p}.weight").astype(mx.float32)), folder, progress)
        work.run(windows_of(tokens, settings.tokens))
        self.compression = work
        for path, bits in work.bits.items():
            self.how.pop(path, None)
            self.how[f"{path}.layer"] = {"bits": bits, "group_size": self.options.group_size}
        self.kept = [p for p in self.kept if p not in work.owners]
        self.facts = {"compressed": len(work.owners), "protected": work.protected}

    def arrays(self, name):
        """{name in the file: array} of one parameter, as it will be written."""
        path, _, kind = name.rpartition(".")
        compressed = self.compression and path in self.compression.owners
        if compressed and kind == "weight":
            return self.compression.arrays(path)
        array = self._plain(name)
        if compressed:
            name = f"{path}.layer.{kind}"
        floating = mx.issubdtype(array.dtype, mx.floating)
        if self.dtype is not None and floating and self.casts(name):
            array = array.astype(self.dtype)
        if kind != "weight" or path not in self.how:
            return {name: array}
        codes, scales, biases = mx.quantize(array, **self.how[path])
        return {name: codes, f"{path}.scales": scales, f"{path}.biases": biases}

    def _plain(self, name):
        return self._peek(name) if self.weights is None else self.weights.pop(name)

    def _peek(self, name):
        if self.weights is not None:
            return self.weights[name]
        c = self.checkpoint
        return build.float_array(c, c.tensor(name), c.block_type(name), None)

    def config(self):
        config = dict(self.checkpoint.config)
        if self.dtype is not None:
            config["torch_dtype"] = str(self.dtype).removeprefix("mlx.core.")
        if self.how:
            base = {"group_size": self.options.group_size, "bits": self.options.base_bits or min(h["bits"] for h in self.how.values()),
                    "mode": "affine"}
            others = {p: h for p, h in self.how.items() if h != {k: base[k] for k in h}}
            ours = self.compression.owners if self.compression else ()
            plain = {p: False for p, m in self.model.named_modules() if hasattr(m, "to_quantized") and p not in self.how
                     and p not in ours}
            config["quantization"] = config["quantization_config"] = {**base, **others, **plain}
        if self.compression:
            config["caldera"] = self.compression.describe()
        return config


def _check_rope(checkpoint):
    """A folder has Llama 3's factors only by the numbers they are made of: those must give what the file has."""
    factors = checkpoint.rope_factors()
    if factors is None:
        return
    model = build.gguf_model(checkpoint)
    tables = [m._freqs for _, m in model.named_modules() if "_freqs" in m]
    dims = checkpoint.config["head_dim"]
    wanted = checkpoint.config["rope_theta"] ** (np.arange(0, dims, 2) / dims) * factors
    if not tables or not np.allclose(np.array(tables[0]), wanted, rtol=1e-3):
        raise UnsupportedModel(f"{checkpoint.path.name}: its rope factors are not made as Llama 3's are, and a folder cannot "
                               "hold others")


def _identity(checkpoint):
    files = parts(checkpoint.path) if checkpoint.kind == "gguf" else checkpoint.files
    return [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files]


def _begin(partial, plan):
    """Keep what an earlier run of the same plan did; forget any other."""
    plan = json.loads(json.dumps(plan))
    file = partial / _PLAN
    if file.exists() and _read(file) == plan:
        return
    for old in partial.iterdir():
        if old.name != _LOCK:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    _write(file, json.dumps(plan).encode())


def _read(file):
    try:
        return json.loads(file.read_text())
    except ValueError:
        return None


def _write(file, content):
    scratch = file.with_name(file.name + ".tmp")
    scratch.write_bytes(content)
    os.replace(scratch, file)


def shard_name(index, count):
    return "model.safetensors" if count == 1 else f"model-{index + 1:05d}-of-{count:05d}.safetensors"


def _write_shards(partial, job, report):
    total = sum(t.nbytes for t in job.checkpoint.tensors.values())
    sizes, done = {t.name: t.nbytes for t in job.checkpoint.tensors.values()}, 0
    for index, names in enumerate(job.shards):
        file = partial / shard_name(index, len(job.shards))
        arrays = {}
        for name in names:
            if not file.exists():
                for key, array in job.arrays(name).items():
                    mx.eval(array)
                    arrays[key] = array
                job.checkpoint.release()
            done += sizes.get(name, 0)
            report(min(done, total), total)
        if not file.exists():
            scratch = file.with_name("writing.safetensors")
            mx.save_safetensors(str(scratch), arrays, {"format": "mlx"})
            os.replace(scratch, file)
    report(total, total)


def _write_rest(partial, job, source):
    """config.json, the tokenizer, and the index of several files of weights."""
    if len(job.shards) > 1:
        owners = {}
        for index in range(len(job.shards)):
            file = partial / shard_name(index, len(job.shards))
            owners |= dict.fromkeys(mx.load(str(file)), file.name)
        index = {"metadata": {"total_size": sum(f.stat().st_size for f in partial.glob("model-*.safetensors"))},
                 "weight_map": dict(sorted(owners.items()))}
        _write(partial / "model.safetensors.index.json", json.dumps(index, indent=1).encode())
    if job.checkpoint.kind == "gguf":
        export_gguf(source, partial)
    else:
        for name in _BESIDE:
            if (source / name).is_file():
                shutil.copyfile(source / name, partial / name)
        if (source / "additional_chat_templates").is_dir():
            shutil.copytree(source / "additional_chat_templates", partial / "additional_chat_templates", dirs_exist_ok=True)
    _write(partial / "config.json", json.dumps(job.config(), indent=1, ensure_ascii=False).encode())
