"""A streaming client of `mlxr serve` with Python's standard library alone: server-sent events over HTTP.

    mlxr serve --port 8080 &
    python examples/stream_client.py "Why is the sky blue?" --url http://127.0.0.1:8080

Any client of OpenAI's interface works as well: OpenAI(base_url="http://127.0.0.1:8080/v1", api_key="none").
"""

import argparse
import json
import urllib.request

parser = argparse.ArgumentParser()
parser.add_argument("prompt")
parser.add_argument("--url", default="http://127.0.0.1:8080")
parser.add_argument("--max-tokens", type=int, default=60)
args = parser.parse_args()

body = {"messages": [{"role": "user", "content": args.prompt}], "max_tokens": args.max_tokens, "stream": True,
        "stream_options": {"include_usage": True}}
request = urllib.request.Request(args.url + "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
try:
    reply = urllib.request.urlopen(request)
except OSError as e:
    raise SystemExit(f"{args.url}: {e}; `mlxr serve` has to run there") from None
with reply as events:
    for line in events:
        data = line.decode().strip().removeprefix("data: ")
        if not data or data == "[DONE]":
            continue
        event = json.loads(data)
        for choice in event["choices"]:
            print(choice["delta"].get("content") or "", end="", flush=True)
        if event.get("usage"):
            print(f"\n[{event['usage']['prompt_tokens']} tokens read, {event['usage']['completion_tokens']} written]")
