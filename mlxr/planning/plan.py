"""A plan as one dict of JSON types: bytes by page format, growth, this machine, every Mac, the roofline, chunked prefill.

All sizes come from the functions of memory.py and pages/ that the engine itself sizes its arrays with.
"""

import math
import os

import mlx.core as mx

from ..errors import ConfigError, UnsupportedModel
from ..memory import held_bytes, held_pages, machine_bytes, page_bytes, scratch_bytes, settled_pages, table_bytes, tail_bytes
from ..pages.format import effective_bits
from ..pages.formats import NAMES, page_format
from ..pages.pool import LayerSpec
from ..pages.spec import parse_kv
from .macs import CHIPS, GIB, SOURCES, chip_named, working_set
from .roofline import FORMULA, decode_rate, intensity

LENGTHS = tuple(1 << n for n in range(10, 21))    # tokens, 1k to 1M
USER = 8192                                       # tokens of one user's context
MAC_DTYPE = mx.float16


def kv_formats(specs, page_size, extra=None):
    """{name: [PageFormat of each layer]}: the formats of 16 bits or fewer that can store these layers, most bits first, bf16
    left out, which is as large as f16; and the --kv text `extra`."""
    found = {}
    for name in NAMES:
        formats = page_format(name)
        if name not in ("bf16", "f32") and all(formats.unfit(page_size, s.dk, s.dv) is None for s in specs):
            found[name] = [formats] * len(specs)
    if extra and extra not in found:
        found[extra] = parse_kv(extra).layers(len(specs))
    return dict(sorted(found.items(), key=lambda f: -page_bytes(specs, f[1], page_size)))


def make_plan(model, config):
    """The plan of a PlannedModel for an engine of that EngineConfig.

    Raises ConfigError for a page format that there is not or a pool that holds nothing, UnsupportedModel for a format that
    cannot store this model's heads.
    """
    specs, size = [s for s in model.specs if s], config.page_size
    if not specs:
        raise UnsupportedModel("this model has no attention layers: it has no KV cache to plan")
    for spec in specs:
        why = parse_kv(config.kv).format.unfit(size, spec.dk, spec.dv)
        if why:
            raise UnsupportedModel(f"page format {config.kv} cannot store this model's layers: {why}")
    formats = kv_formats(specs, size, config.kv)
    token = {name: page_bytes(specs, f, size) / size for name, f in formats.items()}
    wide = [LayerSpec(max(model.heads, s.kv_heads), s.dk, s.dv) for s in specs]
    return {
        "model": model.name, "source": model.source, "architecture": model.architecture, "parameters": model.parameters,
        "layers": len(specs), "heads": model.heads, "kv_heads": specs[0].kv_heads, "head_dim": specs[0].dk,
        "gqa_ratio": model.heads / specs[0].kv_heads, "vocabulary": model.vocabulary, "context": model.context,
        "recurrent": model.recurrent, "page_size": size, "weights_bytes": model.weights, "weights_bytes_mac": model.on_mac,
        "bits_per_weight": 8 * model.weights / model.parameters if model.parameters else None,
        "read_bytes_per_step": _read(model, model.weights),
        "bytes_per_token": {n: _whole(b) for n, b in token.items()},
        "bytes_per_token_without_gqa": {n: _whole(page_bytes(wide, f, size) / size) for n, f in formats.items()},
        "kv_bits": {n: round(effective_bits(specs, f, size), 3) for n, f in formats.items()},
        "growth": [{"tokens": n, "bytes": {name: -(-n // size) * page_bytes(specs, f, size) for name, f in formats.items()}}
                   for n in LENGTHS],
        "here": _here(model, specs, formats, config),
        "macs": [_mac(model, specs, formats, config, chip, gb) for chip in CHIPS for gb in chip.memory],
        "intensity": intensity(model, specs, token, config.token_budget),
        "chunked_prefill": _chunks(model, config),
        "needs_calibration": (uncalibrated := [n for n, fs in formats.items() if any(f.needs_calibration for f in fs)]),
        "formula": FORMULA, "sources": list(SOURCES), "notes": _notes(model, uncalibrated),
    }


def _whole(x):
    return int(x) if x == int(x) else round(x, 2)


def _read(model, weights, rows=1):
    return None if weights is None else int(weights * model.read_share(rows))


def _notes(model, uncalibrated):
    notes = ["decode speeds are estimates from above: memory bandwidth over the bytes that a step must read"]
    if uncalibrated:
        notes.append(f"{', '.join(uncalibrated)}: to use, calibrate the model first: mlxr calibrate MODEL")
    if model.weights is None:
        notes.append("the number of parameters is not known (--params): sizes count the KV cache alone, and no speed is estimated")
    if model.recurrent:
        notes.append("other layers keep a recurrent state, which is not counted")
    if model.expert and model.routed == 1.0:
        notes.append("how many experts a token takes was not found in the config: all are counted as read")
    return notes


def _here(model, specs, formats, config):
    """What an engine of this config makes on this machine: the very sizes that Engine allocates."""
    context = min(config.context or model.context, model.context)
    weights, chosen = model.weights or 0, parse_kv(config.kv).layers(len(specs))
    scratch = scratch_bytes(model.config, model.vocabulary, config.token_budget, config.max_batch)
    out = {"memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "usable_bytes": machine_bytes(),
           "page_format": config.kv, "dtype": str(model.dtype).removeprefix("mlx.core."), "context": context,
           "max_batch": config.max_batch, "weights_bytes": model.weights, "scratch_bytes": scratch,
           "table_bytes": (tables := table_bytes(specs, chosen, config.page_size, context)),
           "tail_bytes": tail_bytes(specs, config.page_size, 1, model.dtype),
           "tail_bytes_most": tail_bytes(specs, config.page_size, config.max_batch, model.dtype)}
    try:
        held = held_pages(specs, config, max(config.kv_sink, parse_kv(config.kv).sink), model.dtype)[-1]
        pages = settled_pages(specs, chosen, config, context, weights + tables, scratch, model.dtype, held)
        pool = (pages + 1) * page_bytes(specs, chosen, config.page_size)
        fixed = weights + tables + pool + held
        out |= {"pages": pages, "pool_bytes": pool, "held_bytes": held, "allocated_bytes": fixed + out["tail_bytes"],
                "most_bytes": fixed + out["tail_bytes_most"] + scratch, "fits": True}
    except ConfigError as e:
        if config.pool_bytes or config.memory_bytes or config.memory_share:
            raise
        out |= {"pages": 0, "pool_bytes": 0, "held_bytes": 0, "allocated_bytes": weights, "most_bytes": weights + scratch, "fits": False, "why": str(e)}
    if mx.metal.is_available():
        chip = chip_named(str(mx.device_info().get("device_name", "")), round(out["memory_bytes"] / GIB))
        out["chip"] = chip and chip.name
    out["formats"] = {name: _capacity(model, specs, f, config, out["usable_bytes"], weights, model.dtype) for name, f in formats.items()}
    return out


def _mac(model, specs, formats, config, chip, gb):
    """What fits on a Mac with `gb` GB of that chip, and how fast it can decode at best, for each page format."""
    room, weights = working_set(gb), model.on_mac or 0
    row = {"chip": chip.name, "memory_gb": gb, "bandwidth_gbps": chip.bandwidth, "tflops": chip.tflops, "tflops_estimated": chip.guessed,
           "ridge": round(chip.ridge, 1), "usable_bytes": room, "formats": {}}
    for name, f in formats.items():
        fits = _capacity(model, specs, f, config, room, weights, MAC_DTYPE)
        token = page_bytes(specs, f, config.page_size) / config.page_size
        for label, tokens in (("decode_tps", 1024), ("decode_tps_8k", USER), ("decode_tps_32k", 32768)):
            rate = decode_rate(chip.bandwidth, _read(model, model.on_mac), token, tokens) if model.on_mac else None
            fits[label] = round(rate, 1) if rate and fits["tokens"] >= tokens else None
        row["formats"][name] = fits
    row["fits"] = any(f["tokens"] for f in row["formats"].values())
    return row


def _capacity(model, specs, formats, config, room, weights, dtype):
    """Tokens of one sequence, the same within the model's context, and users of 8k tokens each, in `room` bytes."""
    size, one = config.page_size, page_bytes(specs, formats, config.page_size)
    first, _, decoded, _ = held_pages(specs, config, max(config.kv_sink, parse_kv(config.kv).sink), dtype)
    number = held_bytes(specs, size, 1, 4 if config.kv_dequant_cache and dtype == mx.float32 else 2)      # of a page as plain numbers
    fixed = (weights + one + table_bytes(specs, formats, size, model.context) + scratch_bytes(model.config, model.vocabulary, config.token_budget, 0, dtype.size)
             + (1 + decoded) * number * bool(first or decoded))                  # one: page 0
    row = tail_bytes(specs, size, 1, dtype) + 8 * model.vocabulary * 4           # a sequence's tail, and its row of logits
    left = room - fixed - row - first * number
    tokens = (left // one + first) * size if left >= 0 else 0
    user = (USER // size - first) * one + first * number + row
    return {"tokens": tokens, "context": min(tokens, model.context), "users_8k": max(0, (room - fixed) // user)}


def _chunks(model, config):
    """Scratch of a prompt at once against chunks of token_budget tokens. size 2: 16-bit activations, as on a Mac."""
    rows = []
    for tokens in (2048, USER, 32768, 131072):
        if tokens <= max(model.context, 2048):
            whole, chunk = (scratch_bytes(model.config, model.vocabulary, n, 1, 2) for n in (tokens, min(tokens, config.token_budget)))
            rows.append({"prompt": tokens, "chunk": config.token_budget, "steps": math.ceil(tokens / config.token_budget),
                         "whole_bytes": whole, "chunk_bytes": chunk, "saved_bytes": whole - chunk})
    return rows


