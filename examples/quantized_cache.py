"""The KV cache in several page formats: bytes of a token, what fits into the same pool, and whether the text stays the same.

    python examples/quantized_cache.py
    python examples/quantized_cache.py --model Qwen/Qwen3-0.6B --kv f16 q8 k8v4 q4

`mlxr validate` measures what a format costs in quality; --kv auto takes the smallest that it accepted.
"""

import argparse

from mlxr import LLM, SamplingParams

parser = argparse.ArgumentParser()
parser.add_argument("--model")
parser.add_argument("--kv", nargs="+", default=["f16", "q8", "q4"])
parser.add_argument("--max-tokens", type=int, default=24)
args = parser.parse_args()

PROMPT = "A cache of keys and values keeps what attention computed for earlier tokens. " * 12 + "In one sentence, a cache"
first = None
for kv in args.kv:
    with LLM(args.model, kv=kv, pool_bytes=64 << 20) as llm:
        output = llm.generate(PROMPT, SamplingParams(max_tokens=args.max_tokens))
        info = llm.info
    first = first or output
    same = next((i for i, (a, b) in enumerate(zip(first.token_ids, output.token_ids)) if a != b), len(output.token_ids))
    print(f"{kv:6s} {info['kv_bits']:5.2f} bits an element, {info['kv_bytes_per_token']:8.0f} bytes a token, "
          f"{info['pages'] * info['page_size']:7d} tokens in 64 MiB; first {same} tokens as with {args.kv[0]}")
print(first.text)
