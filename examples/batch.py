"""Many prompts as one batch: they share each step's read of the weights, and a new one starts as soon as another ends.

    python examples/batch.py
    python examples/batch.py "First prompt" "Second prompt" --max-tokens 100
"""

import argparse
import time

from mlxr import LLM, SamplingParams

parser = argparse.ArgumentParser()
parser.add_argument("prompts", nargs="*", default=["The capital of France is", "Two plus two is", "Water boils at", "The sun is a"])
parser.add_argument("--model")
parser.add_argument("--max-tokens", type=int, default=24)
args = parser.parse_args()

with LLM(args.model, context=512, max_batch=8) as llm:
    params = SamplingParams(max_tokens=args.max_tokens)
    llm.generate(args.prompts[0], params)                # what is compiled or read for the first time is not timed
    start = time.perf_counter()
    one_by_one = [llm.generate(p, params) for p in args.prompts]
    middle = time.perf_counter()
    together = llm.generate(args.prompts, params)
    end = time.perf_counter()

for prompt, output in zip(args.prompts, together):
    print(f"{prompt}|{output.text!r}")
tokens = sum(len(o.token_ids) for o in together)
print(f"[one by one {tokens / (middle - start):.0f} tokens/s, together {tokens / (end - middle):.0f} tokens/s]")
