"""A memory plan in Python: what of a model fits into a Mac, before anything is loaded. `mlxr plan` is the command for it.

    python examples/memory_plan.py llama-3-8b --bits 4.5 --memory 16
"""

import argparse

from mlxr import EngineConfig
from mlxr.planning.model import from_name
from mlxr.planning.plan import make_plan

parser = argparse.ArgumentParser()
parser.add_argument("model", nargs="?", default="llama-3-8b")
parser.add_argument("--bits", type=float, default=4.5, help="bits of a weight, scales counted")
parser.add_argument("--memory", type=int, default=16, help="GB of the Macs to look at")
args = parser.parse_args()

plan = make_plan(from_name(args.model, args.bits), EngineConfig())
print(f"{args.model}: {plan['parameters'] / 1e9:.2f} B parameters, {plan['weights_bytes'] / 2**30:.1f} GiB at {args.bits:g} bits")
if not any(mac["memory_gb"] == args.memory for mac in plan["macs"]):
    raise SystemExit(f"no Mac has {args.memory} GB; there are {sorted({mac['memory_gb'] for mac in plan['macs']})}")
for mac in plan["macs"]:
    if mac["memory_gb"] != args.memory:
        continue
    for kv in ("f16", "q8", "q4"):
        fit = mac["formats"][kv]
        speed = f"at most {fit['decode_tps_8k']:.0f} tokens/s at 8k" if fit["decode_tps_8k"] else "8k tokens do not fit"
        print(f"{mac['chip']:8s} {kv:4s} {plan['bytes_per_token'][kv]:>8,} bytes a token, context up to {fit['tokens']:>9,} tokens, "
              f"{fit['users_8k']} users of 8k; {speed}")
