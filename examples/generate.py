"""Generate text: one prompt, with sampling options, and the statistics of the run.

    python examples/generate.py "Once upon a time"
    python examples/generate.py "Once upon a time" --model Qwen/Qwen3-0.6B --max-tokens 100
"""

import argparse

from mlxr import LLM, SamplingParams

parser = argparse.ArgumentParser()
parser.add_argument("prompt")
parser.add_argument("--model", help="a folder, a .gguf file, a Hugging Face repository (default: smollm2-135m)")
parser.add_argument("--max-tokens", type=int, default=40)
args = parser.parse_args()

with LLM(args.model, context=1024) as llm:
    output = llm.generate(args.prompt, SamplingParams(max_tokens=args.max_tokens, temperature=0.7, top_p=0.9, seed=1))

print(args.prompt + output.text)
print(f"[{output.finish_reason}: {len(output.token_ids)} tokens, {output.stats['generation_tps']:.0f} tokens/s]")
