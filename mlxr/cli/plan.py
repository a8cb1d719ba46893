"""`mlxr plan MODEL`: what fits where, and how fast at best, before anything is loaded."""

import argparse
import json
import os

from ..errors import ConfigError
from . import options, show

HELP = "say what of a model fits into this machine and every Mac, before anything is loaded"
EXAMPLES = """examples:
  mlxr plan                                             the default model, this machine, every Mac
  mlxr plan Qwen3-4B --bits 4.5 --html plan.html        sizes that mlxr knows; weights of 4 bits with their scales
  mlxr plan ./model.gguf --kv q8 --max-batch 8
  mlxr plan --layers 32 --heads 32 --kv-heads 8 --head-dim 128 --params 8e9 --json

MODEL is a folder, a config.json, a .gguf file, a Hugging Face repository (of which only config.json is read), or one of
llama-3-8b, qwen3-4b, tinyllama-1.1b, smollm2-135m, smollm2-360m, smollm2-1.7b.
"""
_NUMBERS = ("layers", "heads", "kv_heads", "head_dim")


def arguments(parser):
    options.add_model(parser)
    group = parser.add_argument_group("a model in numbers, in place of MODEL")
    for name, what in (("layers", "attention layers"), ("heads", "query heads"), ("kv-heads", "KV heads"), ("head-dim", "elements of a head")):
        group.add_argument(f"--{name}", type=int, metavar="N", help=what)
    group.add_argument("--params", type=count, metavar="N", help="parameters, for example 8e9 or 8B (default: not known, KV cache alone)")
    parser.add_argument("--bits", type=float, metavar="B", help="bits of a weight with its scales, for example 4.5 (default: as stored, or 16)")
    parser.add_argument("--all", action="store_true", help="list every chip with every memory size (default: one row a chip)")
    parser.add_argument("--html", metavar="FILE", help="write the plan as one HTML page with charts")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options.add_engine(parser)


def count(text):
    """A number of parameters such as 8e9, 8B, 135M."""
    try:
        value = float(text[:-1]) * {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}[text[-1].lower()] if text[-1:].isalpha() else float(text)
        return int(value)
    except (ValueError, KeyError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of parameters; write for example 8e9 or 8B") from None


def run(args):
    show.check_page(args.html)
    from ..config import EngineConfig                    # late: `mlxr --help` must not wait for mlx
    from ..planning.model import from_name, from_numbers
    from ..planning.page import page
    from ..planning.plan import make_plan

    config = EngineConfig(**options.engine_options(args))
    name = args.model_option or args.model
    if any(getattr(args, n) is not None for n in (*_NUMBERS, "params")):
        if name is not None:
            raise ConfigError("give MODEL, or the numbers --layers, --heads, --kv-heads and --head-dim, not both")
        model = from_numbers(*(getattr(args, n) for n in _NUMBERS), args.params, args.bits)
    else:
        model = from_name(name, args.bits, args.dtype, args.cache)
    plan = make_plan(model, _settled(config, model))
    show.write_page(args.html, lambda: page(plan))
    if args.json:
        print(json.dumps(plan))
    else:
        print(*_lines(plan, args.all), sep="\n")
    return 0


def _settled(config, model):
    """The config with a page format in place of `auto`. Raises ConfigError for options that could mean nothing here."""
    from ..quality.auto import AUTO, resolve            # late: as above

    if config.calibration is not None and not os.path.isfile(config.calibration):
        raise ConfigError(f"there is no calibration file {config.calibration}")
    if config.kv == AUTO and not model.source.endswith("file headers"):
        raise ConfigError("--kv auto takes what `mlxr validate` accepted for a model's files, and there are none here: name a page format")
    return resolve(model.name, config, say=show.warn_of_auto)


def _lines(p, every):
    title = p["model"] or "a model of these numbers"
    yield f"{title}  ({', '.join(x for x in (p['architecture'], p['source']) if x)})"
    if p["parameters"]:
        yield (f"weights          {p['parameters'] / 1e9:.3g} B parameters, {show.bytes_text(p['weights_bytes'])} at {p['bits_per_weight']:.2f} bits, "
               f"of which a decode step reads {show.bytes_text(p['read_bytes_per_step'])}")
    yield (f"attention        {p['layers']} layers, {p['heads']} query heads, {p['kv_heads']} KV heads of {p['head_dim']}, GQA ratio "
           f"{p['gqa_ratio']:g}; context {p['context']} tokens")
    yield ""
    formats = list(p["bytes_per_token"])
    yield _row("KV cache", [f"{f}+" if f in p["needs_calibration"] else f for f in formats])
    yield _row("bits an element", [f"{p['kv_bits'][f]:g}" for f in formats])
    yield _row("bytes a token", [f"{p['bytes_per_token'][f]:,}" for f in formats])
    yield _row("without GQA", [f"{p['bytes_per_token_without_gqa'][f]:,}" for f in formats])
    for line in p["growth"]:
        yield _row(f"{line['tokens'] // 1024}k tokens" if line["tokens"] < 1 << 20 else "1M tokens",
                   [show.bytes_text(line["bytes"][f]) for f in formats])
    yield ""
    if p["needs_calibration"]:
        yield "(+: after `mlxr calibrate`)"
    yield from _here_lines(p["here"], formats)
    yield ""
    yield from _mac_lines(p, formats, every)
    yield ""
    yield from _roofline_lines(p)
    yield from (f"note: {n}" for n in p["notes"])
    yield f"formula: {p['formula']}"
    yield from (f"source: {s}" for s in p["sources"])


def _row(name, cells):
    return f"{name:17s}" + "".join(f"{c:>13s}" for c in cells)


def _here_lines(h, formats):
    yield (f"this machine     {show.bytes_text(h['memory_bytes'])}, of which {show.bytes_text(h['usable_bytes'])} can be used now"
           + (f" ({h['chip']})" if h.get("chip") else ""))
    if h["fits"]:
        yield (f"  an engine with --kv {h['page_format']} allocates {show.bytes_text(h['allocated_bytes'])} at start: weights "
               f"{show.bytes_text(h['weights_bytes'] or 0)}, {h['pages']} pages in {show.bytes_text(h['pool_bytes'])}, {'pages held plain ' + show.bytes_text(h['held_bytes']) + ', ' if h['held_bytes'] else ''}tail {show.bytes_text(h['tail_bytes'])}")
        yield (f"  and at most {show.bytes_text(h['most_bytes'])}, with tails of {h['max_batch']} sequences ({show.bytes_text(h['tail_bytes_most'])}) "
               f"and scratch ({show.bytes_text(h['scratch_bytes'])}, an estimate)")
    else:
        yield f"  does not fit: {h['why']}"
    yield _row("  longest context", [_tokens(h["formats"][f]) for f in formats])
    yield _row("  users with 8k", [str(h["formats"][f]["users_8k"]) for f in formats])


def _tokens(fit):
    """Tokens that fit, with a star where the model's own context is shorter."""
    return f"{fit['tokens']:,}" + ("*" if fit["tokens"] > fit["context"] else "")


def _mac_lines(p, formats, every):
    first, small = formats[0], formats[-1]
    low = small + "+" * (small in p["needs_calibration"])
    yield (f"{'Mac':20s} {'memory':>7s} {'GB/s':>6s}   {'context ' + first:>13s} {'context ' + low:>13s}   {'8k users ' + first:>13s} "
           f"{'8k users ' + low:>13s}   {'tokens/s ' + first:>14s} {'at 8k ' + first:>10s} {'at 8k ' + low:>10s}")
    seen = {}
    for m in p["macs"]:
        seen.setdefault(m["chip"], []).append(m)
    for rows in seen.values():
        for m in rows if every else [rows[-1]]:
            a, b = m["formats"][first], m["formats"][small]
            if not m["fits"]:
                yield f"{m['chip']:20s} {m['memory_gb']:4d} GB {m['bandwidth_gbps']:6g}   does not fit"
                continue
            yield (f"{m['chip']:20s} {m['memory_gb']:4d} GB {m['bandwidth_gbps']:6g}   {_tokens(a):>13s} {_tokens(b):>13s}   {a['users_8k']:13d} "
                   f"{b['users_8k']:13d}   {_rate(a['decode_tps']):>14s} {_rate(a['decode_tps_8k']):>10s} {_rate(b['decode_tps_8k']):>10s}")
    yield "(*: more than the model's own context; tokens/s: one sequence, at most)" + ("" if every else "; --all lists smaller memories too")


def _rate(x):
    return "-" if x is None else f"{x:.0f}"


def _roofline_lines(p):
    for r in p["intensity"]:
        sides = {}
        for chip, side in r["limited_by"].items():
            sides.setdefault(side, []).append(chip)
        where = "; ".join(f"by {s} on " + (f"all {len(c)} chips" if len(sides) == 1 else ", ".join(c)) for s, c in sides.items())
        what = f"decode, batch {r['batch']}" if r["what"] == "decode" else f"prefill of {r['tokens']} tokens"
        yield f"{what:26s} {r['intensity']:8.4g} operations a byte at {r['context']} tokens of context in {r['page_format']}: limited {where}"
    for c in p["chunked_prefill"]:
        yield (f"prompt of {c['prompt']} tokens     in {c['steps']} chunks of {c['chunk']}: scratch {show.bytes_text(c['chunk_bytes'])}; at once "
               f"{show.bytes_text(c['whole_bytes'])}, so chunks save {show.bytes_text(c['saved_bytes'])}")
