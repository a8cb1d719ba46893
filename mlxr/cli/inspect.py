"""`mlxr inspect`: what is in a model, read from its headers, without loading its weights."""

import argparse
import fnmatch
import json

from . import options, show

HELP = "show a model's architecture, sizes, quantization and KV cache, without loading it"
EXAMPLES = """examples:
  mlxr inspect ./model.gguf
  mlxr inspect ./model.gguf --metadata --tensors --match '*ffn_down*' --limit 5
  mlxr inspect mlx-community/Qwen3-0.6B-4bit --json
"""
_WIDTH = 100  # characters of a metadata value that are shown


def arguments(parser):
    options.add_model(parser)
    parser.add_argument("--metadata", action="store_true", help="list all metadata of a GGUF file")
    parser.add_argument("--tensors", action="store_true", help="list every tensor")
    parser.add_argument("--match", metavar="PATTERN", help="only tensors of such names (* and ? as in a shell)")
    parser.add_argument("--limit", type=_natural, metavar="N", help="at most N tensors")
    parser.add_argument("--kv", metavar="FORMAT", default="f16", help="page format to count with (default: f16)")
    parser.add_argument("--page-size", type=int, default=64, metavar="N", help="tokens in a page (default: 64)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with metadata and tensors")


def _natural(text):
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of tensors")
    return int(text)


def run(args):
    from ..inspection_gguf import inspect_file           # late: it needs mlx

    facts = inspect_file(args.model_option or args.model, args.kv, args.page_size)
    facts["tensors"] = _chosen(facts["tensors"], args.match, args.limit)
    if args.json:
        print(json.dumps(facts, ensure_ascii=False, indent=2))
    else:
        print(*_lines(facts), sep="\n")
        if args.metadata:
            print(*_metadata_lines(facts.get("metadata", {})), sep="\n")
        if args.tensors or args.match or args.limit is not None:
            print(*map(_tensor_line, facts["tensors"]), sep="\n")
    return 0


def _chosen(tensors, pattern, limit):
    if pattern:
        tensors = [t for t in tensors
                   if fnmatch.fnmatchcase(t["name"], pattern) or fnmatch.fnmatchcase(t.get("stored_name", ""), pattern)]
    return tensors[:limit]


def _lines(f):
    parts = f", {f['files']} files" if f.get("files", 1) > 1 else ""
    yield f"{f['path']}  ({f['kind']}{parts})"
    runs = f"runs {f['mode']}" if f.get("supported", True) else "cannot run"
    yield f"architecture     {f['architecture']}, {runs}" + (f": {f['note']}" if f["note"] else "")
    yield (f"parameters       {f['parameters'] / 1e6:.1f} M in {f['tensor_count']} tensors, "
           f"{show.bytes_text(f['weights_bytes'])}, {f['bits_per_weight']:.2f} bits a weight")
    types = sorted(f["types"].items(), key=lambda x: -x[1])
    yield "stored types     " + ", ".join(f"{t} {show.bytes_text(n)}" for t, n in types)
    if f.get("runs"):
        from ..inspection_gguf import WAYS

        ways = sorted(f["runs"].items(), key=lambda x: -x[1])
        yield "computed         " + "; ".join(f"{n / max(1, f['weights_bytes']):.1%} {WAYS[way]}" for way, n in ways)
    if not f.get("supported", True):
        return
    if f["quantization"]:
        yield f"quantization     {json.dumps(f['quantization'])}"
    yield f"vocabulary       {f['vocabulary']} tokens;  context {f['context']} tokens"
    if f["layers"]:
        yield (f"attention        {f['layers']} layers, {f['heads']} query heads, {f['kv_heads']} KV heads, "
               f"GQA ratio {f['gqa_ratio']:g}, head size {f['head_dim']}")
        yield (f"KV cache         {f['kv_bytes_per_token']:.0f} bytes a token in {f['page_format']} "
               f"({f['kv_bytes_per_token_mha']:.0f} without GQA), "
               f"{show.bytes_text(f['kv_bytes_per_token'] * f['context'])} at full context")
    if f["recurrent"]:
        yield "                 other layers keep a recurrent state"


def _metadata_lines(metadata):
    for key, value in metadata.items():
        if isinstance(value, dict):
            text = f"{value['length']} x {value['array']}: {json.dumps(value['first'], ensure_ascii=False)}"
        else:
            text = json.dumps(value, ensure_ascii=False)
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)    # it goes to a terminal
        yield f"  {key:42s} {text if len(text) <= _WIDTH else text[:_WIDTH - 3] + '...'}"


def _tensor_line(t):
    bits = f"{t['bits']:6.3f} bits" if "bits" in t else ""
    return (f"  {t['name']:60s} {t['type']:8s} {'x'.join(map(str, t['shape'])):>16s} {show.bytes_text(t['bytes']):>10s} "
            f"{bits} {t.get('runs') or ''}").rstrip()
