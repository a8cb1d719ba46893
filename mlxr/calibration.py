"""Calibration files: what `mlxr calibrate` fitted to one model, found for it, checked, and given to its page formats."""

import contextlib
import hashlib
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np

from .errors import ConfigError
from .home import cache_home, disk_errors
from .pages.format import PageFormat
from .pages.formats import fit
from .pages.formats.calibrated import BLOCKS, COUNTS, Tables
from .pages.pool import LayerSpec
from .weights.identity import identity

KIND = "mlxr calibration 5"
COMMON = "order", "frequencies", "mean", "first", "first_value", "value_mean", "value_map"         # of a layer, whatever the block; see Tables
COST = "cost"                                                 # of a layer, where it was measured
FITTED = "forward", "inverse", "variances", "levels", "span"  # of a layer and a block size


def key_of(name, model_config):
    """What a file is bound to: the digest of the model's files, or of its config where it has none (it was made in memory)."""
    path = Path(name) if name else None
    if path and path.exists():
        return identity(path)
    return hashlib.sha256(json.dumps(model_config, sort_keys=True, default=str).encode()).hexdigest()[:32]


def places(name, key):
    """Where a model's file is looked for: beside it, then in the cache folder, where `mlxr calibrate` puts it."""
    beside = [Path(str(name).rstrip("/") + ".calibration.safetensors")] if name else []
    return [*beside, cache_home() / "calibration" / f"{key}.safetensors"]


def find(name, key, given):
    """The Path of a model's calibration. Raises ConfigError: none, or `given` (a path the user named) is not there."""
    if given is not None:
        if not Path(given).is_file():
            raise ConfigError(f"there is no calibration file {given}")
        return Path(given)
    found = next((p for p in places(name, key) if p.is_file()), None)
    if found is None:
        raise ConfigError("this page format keeps K before RoPE and needs a calibration of the model; run `mlxr calibrate "
                          f"{name or 'MODEL'}`, or give a file of it with --calibration")
    return found


def load(file, key=None):
    """(arrays {name: NumPy array}, metadata) of a calibration file. key: of the model it must be of.

    Raises ConfigError for what is no calibration, and for one of another model.
    """
    try:
        arrays, metadata = mx.load(str(file), format="safetensors", return_metadata=True)
    except (RuntimeError, ValueError, OSError) as e:
        raise ConfigError(f"{file} is no calibration file: {str(e).splitlines()[0]}") from e
    if metadata.get("kind") != KIND:
        raise ConfigError(f"{file} is no calibration file of this version; run `mlxr calibrate` again")
    if key is not None and metadata.get("model") != key:
        raise ConfigError(f"{file} is the calibration of another model ({metadata.get('name') or 'unknown'}); "
                          "`mlxr calibrate` makes one of this model")
    return {n: np.array(a) for n, a in arrays.items()}, metadata


def save(file, arrays, metadata):
    """Write a calibration file, whole or not at all. Raises DownloadError (home.disk_errors) where it cannot be written."""
    file = Path(file)
    with disk_errors(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=file.parent, suffix=".safetensors")
        os.close(handle)
        try:
            mx.save_safetensors(scratch, {n: mx.array(a) for n, a in arrays.items()}, {"kind": KIND, **metadata})
            os.replace(scratch, file)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(scratch)
            raise


def require(page_format, path, given):
    """Raises ConfigError where a format needs a calibration and there is none: before a model's weights are read."""
    if page_format.needs_calibration:
        key = identity(Path(path))
        arrays, _ = load(find(path, key, given), key)
        if page_format.by_layer:
            costs(arrays)


def costs(arrays):
    """float [layers, 2]: what K and V of each layer cost in 2 bits (quality/costs.py). Raises ConfigError where that was not measured."""
    layers = sum(n.endswith(".mean") for n in arrays)
    found = [arrays.get(f"layers.{i}.{COST}") for i in range(layers)]
    if any(a is None for a in found):
        raise ConfigError("page format fit spends its bits by what each layer costs, which this calibration did not measure; run "
                          "`mlxr calibrate` again, without --costs 0")
    return np.array(found)


def fitted(formats, specs, name, model_config, config, context):
    """The formats of all layers, each with its layer's Tables where it keeps K before RoPE.

    specs: what these layers store. context: tokens of a sequence at most. Raises ConfigError, as find and load do, and
    where a calibration does not fit the layers.
    """
    key = key_of(name, model_config)
    file = find(name, key, config.calibration)
    arrays, _ = load(file, key)
    pages = context // config.page_size
    formats, out = _by_layer(formats, specs, arrays, file, config.page_size), []
    for i, (page_format, spec) in enumerate(zip(formats, specs)):
        if page_format.k.before_rope:
            why = page_format.unfit(config.page_size, spec.dk, spec.dv)
            if why is None:                  # what does not fit is told by the pool
                block = page_format.k.block_of(spec.dk)
                page_format = replace(page_format, k=replace(page_format.k, tables=Tables(
                    layer(arrays, i, block, spec, file), page_format.k.bits, config.page_size, pages)))
        out.append(page_format)
    return out


def _by_layer(formats, specs, arrays, file, page):
    """`formats`, with what a layer has in its place where that is found with the calibration."""
    own = [i for i, (f, s) in enumerate(zip(formats, specs)) if f.by_layer and f.unfit(page, s.dk, s.dv) is None]
    if not own:
        return formats
    measured, formats = costs(arrays), list(formats)
    weighed = [fit.curves(*measured[i], layer(arrays, i, blocks_of(specs[i].dk)[-1], specs[i], file)["variances"]) for i in own]
    for i, (k, v) in zip(own, fit.of_layers([(formats[i].k, formats[i].v) for i in own], [specs[i] for i in own], weighed)):
        formats[i] = PageFormat(k, v, f"k:{k.label},v:{v.label}")
    return formats


def texts_read(name, model_config, given):
    """Digests (quality.texts.Text.digest) of the texts that a model's calibration was fitted on. Raises as find and load do."""
    key = key_of(name, model_config)
    return load(find(name, key, given), key)[1].get("digest", "").split()


def made_up(page_format, kv_heads, dim, v_dim, page, pages):
    """A page format with tables that are fitted to nothing, where it needs some: for tests and timing of kernels."""
    if page_format.by_layer:
        (k, v), = fit.of_layers([(page_format.k, page_format.v)], [LayerSpec(kv_heads, dim, v_dim)], [fit.curves(1.0, 1.0, np.ones((1, dim)))])
        page_format = PageFormat(k, v, page_format.name)
    if not page_format.k.before_rope or page_format.k.tables:
        return page_format
    rng, block = np.random.default_rng(0), page_format.k.block_of(dim)
    turn, _ = np.linalg.qr(rng.standard_normal((kv_heads, dim // block, block, block)))
    scale = np.exp(-np.arange(block) / block)
    half = np.arange(dim // 2)
    fitted_ = {"order": np.stack([half, half + dim // 2], axis=1).reshape(-1), "frequencies": 10000.0 ** (-2 * half / dim),
               "mean": rng.standard_normal((kv_heads, dim)), "first": rng.standard_normal((kv_heads, dim)),
               **{n: rng.standard_normal((kv_heads, v_dim)) for n in ("first_value", "value_mean")},
               "value_map": rng.standard_normal((kv_heads, v_dim, dim)) * (0.5 / dim**0.5),
               "forward": turn.swapaxes(-1, -2) / scale[:, None], "inverse": turn * scale,
               "variances": np.tile(scale**2, (kv_heads, dim // block)) * (1 - 1e-3 * np.arange(dim)),
               "levels": np.tile(np.concatenate([np.linspace(-1, 1, n) * (1 + 0.3 * b) for b, n in enumerate(COUNTS, 1)]),
                                 (kv_heads, 1)), "span": np.full(kv_heads, 8.0)}
    return replace(page_format, k=replace(page_format.k, tables=Tables(fitted_, page_format.k.bits, page, pages)))


def layer(arrays, i, block, spec, file):
    """{name: array} of layer i for a block size, as Tables takes them."""
    names = {n: f"layers.{i}.{n}" for n in COMMON} | {n: f"layers.{i}.{block}.{n}" for n in FITTED}
    missing = next((n for n in names.values() if n not in arrays), None)
    if missing or any(arrays[names[n]].shape != (spec.kv_heads, d) for n, d in (("mean", spec.dk), ("value_mean", spec.dv))):
        raise ConfigError(f"{file} does not fit this model's layer {i}" + (f": it has no {missing}" if missing else ""))
    return {n: arrays[full] for n, full in names.items()}


def blocks_of(dim):
    """Block sizes that are fitted for heads of `dim` channels."""
    return sorted({min(b, dim) for b in BLOCKS if dim % min(b, dim) == 0})
