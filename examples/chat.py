"""A conversation that keeps its history: each turn sends all messages, and the prefix cache has computed all but the last.

    python examples/chat.py "Name a colour." "Another one?"
"""

import argparse

from mlxr import LLM, SamplingParams

parser = argparse.ArgumentParser()
parser.add_argument("turns", nargs="+", metavar="MESSAGE")
parser.add_argument("--model")
parser.add_argument("--max-tokens", type=int, default=60)
args = parser.parse_args()

messages = [{"role": "system", "content": "Answer in one short sentence."}]
with LLM(args.model, context=2048) as llm:
    for turn in args.turns:
        messages.append({"role": "user", "content": turn})
        print(f"> {turn}")
        answer = ""
        for chunk in llm.stream_chat(messages, SamplingParams(max_tokens=args.max_tokens)):
            answer += chunk.text
            print(chunk.text, end="", flush=True)
        print()
        messages.append({"role": "assistant", "content": answer})
    print(f"[{llm.stats()['pages_cached']} pages are kept for the next turn]")
