"""`mlxr convert`: a model as a folder in MLX's format, or a GGUF file with other block types."""

import argparse
import json
from pathlib import Path

from . import options, show

HELP = "write a model as a folder in MLX's format, or a GGUF file in other block types"
EXAMPLES = """examples:
  mlxr convert ./model.gguf ./folder                                 GGUF to a folder, in float16
  mlxr convert Qwen/Qwen3-0.6B ./folder --bits 4 --group-size 64     MLX's affine format
  mlxr convert ./folder ./small --bits 4 --mix '*.mlp.down_proj=8' --mix 'lm_head=none'
  mlxr convert ./folder ./small --caldera bits=3,rank=64,factor-bits=4      few bits, and a correction of low rank
  mlxr convert ./model.gguf ./other.gguf --type Q8_0 --mix 'blk.*.ffn_down.weight=Q5_1'
"""


def arguments(parser):
    parser.add_argument("model", metavar="MODEL", help="folder, .gguf file, Hugging Face repo id or alias")
    parser.add_argument("out", metavar="OUT", help="a folder to make, or a file ending in .gguf; it must not exist")
    folder = parser.add_argument_group("to a folder")
    folder.add_argument("--dtype", choices=("float32", "float16", "bfloat16"),
                        help="of weights that are not quantized (default: as stored; float16 for GGUF)")
    folder.add_argument("--bits", type=int, metavar="N", help="quantize: 2, 3, 4, 5, 6 or 8 bits (default: no)")
    folder.add_argument("--group-size", type=int, default=64, metavar="N", help="weights that share a scale (default: 64)")
    folder.add_argument("--caldera", metavar="SETTINGS",
                        help="compress the blocks' linear layers, W ~ Q + L R, by what they are given when the model reads text: "
                             "bits=3,rank=64,factor-bits=4 and, where wanted, protect=BLOCKS with one more bit, tokens=N of "
                             "text; --bits is then for embeddings and all else (default: 6)")
    folder.add_argument("--calibrate", metavar="FILE", help="text for --caldera, such as the model will see (default: the "
                                                            "English text that mlxr validate reads)")
    parser.add_argument_group("to a GGUF file").add_argument(
        "--type", metavar="TYPE", help="block type of its matrices, such as Q8_0 (default: as they are)")
    parser.add_argument("--mix", action="append", default=[], type=_pair, metavar="PATTERN=BITS",
                        help="other bits (or none), or another type, where names match; the first that fits decides")
    parser.add_argument("--json", action="store_true", help="print one JSON object about what was written")


def _pair(text):
    pattern, equals, value = text.rpartition("=")
    if not (equals and pattern and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form PATTERN=BITS or PATTERN=TYPE")
    return pattern, value


def run(args):
    report = None if args.json else show.load_progress()
    facts = _to_gguf(args, report) if args.out.endswith(".gguf") else _to_folder(args, report)
    if args.json:
        print(json.dumps(facts, indent=2))
        return 0
    print(f"{facts['path']}: {show.bytes_text(facts['bytes'])}")
    for kind, count in facts.get("types", {}).items():
        print(f"  {kind:8s} {count} tensors")
    if facts.get("compressed"):
        print(f"  {facts['compressed']} layers compressed, with more bits in {', '.join(facts['protected']) or 'no block'}")
    if facts.get("quantized"):
        print(f"  {facts['quantized']} layers quantized")
    if facts.get("kept"):
        show.warn(f"{len(facts['kept'])} layers stay plain, as their rows are no whole groups: {', '.join(facts['kept'][:3])}")
    return 0


def _to_folder(args, report):
    from ..caldera.settings import parse
    from ..conversion import Options, convert            # late: it needs mlx
    from ..errors import ConfigError
    from ..quality.texts import shipped_text

    if args.type:
        raise ConfigError("--type is for GGUF files; for a folder give --bits")
    mix = []
    for pattern, bits in args.mix:
        if bits != "none" and not bits.isdecimal():
            raise ConfigError(f"--mix {pattern}={bits}: for a folder give bits, or none")
        mix.append((pattern, None if bits == "none" else int(bits)))
    settings = None
    if args.caldera is not None:
        text = shipped_text().content if args.calibrate is None else options.read_text(args.calibrate, "--calibrate")
        settings = parse(args.caldera, text=text)
    elif args.calibrate is not None:
        raise ConfigError("--calibrate is for --caldera")
    wanted = Options(args.dtype, args.bits, args.group_size, tuple(mix), settings)
    return convert(args.model, args.out, wanted, report, show.steps_progress() if report else None)


def _to_gguf(args, report):
    from ..errors import ConfigError, UnsupportedModel
    from ..weights.gguf_requantize import requantize
    from ..weights.locate import locate

    if args.bits or args.dtype or args.caldera is not None or args.calibrate is not None:
        raise ConfigError("--bits, --dtype, --caldera and --calibrate are for folders; for a GGUF file give --type")
    path = locate(args.model, progress=report is not None)
    if path.is_dir():
        raise UnsupportedModel("a folder is not written as GGUF here: use llama.cpp's convert_hf_to_gguf.py, then "
                               "`mlxr convert` for the block types")
    types = requantize(path, args.out, args.type, tuple(args.mix), report)
    return {"path": args.out, "bytes": Path(args.out).stat().st_size, "types": types}
