"""`mlxr inspect`: what is in a model, read from its headers, without loading its weights."""

import json

from . import options, show

HELP = "show a model's architecture, sizes, quantization and KV cache, without loading it"
EXAMPLES = """examples:
  mlxr inspect ./model.gguf
  mlxr inspect mlx-community/Qwen3-0.6B-4bit --json
"""


def arguments(parser):
    options.add_model(parser)
    parser.add_argument("--tensors", action="store_true", help="list every tensor")
    parser.add_argument("--kv", metavar="FORMAT", default="f16", help="page format to count with (default: f16)")
    parser.add_argument("--page-size", type=int, default=64, metavar="N", help="tokens in a page (default: 64)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args):
    from ..inspection import inspect_model           # late: it needs mlx

    facts = inspect_model(args.model_option or args.model, args.kv, args.page_size)
    if args.json:
        print(json.dumps(facts, ensure_ascii=False, indent=2))
    else:
        print(*_lines(facts, args.tensors), sep="\n")
    return 0


def _lines(f, tensors):
    yield f"{f['path']}  ({f['kind']})"
    yield f"architecture     {f['architecture']}, runs {f['mode']}" + (f": {f['note']}" if f["note"] else "")
    yield (f"parameters       {f['parameters'] / 1e6:.1f} M in {f['tensor_count']} tensors, "
           f"{show.bytes_text(f['weights_bytes'])}, {f['bits_per_weight']:.2f} bits a weight")
    types = sorted(f["types"].items(), key=lambda x: -x[1])
    yield "stored types     " + ", ".join(f"{t} {show.bytes_text(n)}" for t, n in types)
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
    if tensors:
        for t in f["tensors"]:
            shape = "x".join(map(str, t["shape"]))
            yield f"  {t['name']:60s} {t['type']:8s} {shape:>16s} {show.bytes_text(t['bytes'])}"
