"""Structured output: an answer that is JSON of a given schema, whatever the model would rather say.

    mlxr serve --port 8080 &
    python examples/structured_output.py "Describe a cat." --url http://127.0.0.1:8080
"""

import argparse
import json
import urllib.request

SCHEMA = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 20}, "legs": {"type": "integer", "minimum": 0, "maximum": 8},
                                           "kind": {"enum": ["animal", "plant", "thing"]}},
          "required": ["name", "legs", "kind"], "additionalProperties": False}

parser = argparse.ArgumentParser()
parser.add_argument("prompt")
parser.add_argument("--url", default="http://127.0.0.1:8080")
args = parser.parse_args()

body = {"messages": [{"role": "user", "content": args.prompt}], "max_tokens": 120,
        "response_format": {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True}}}
request = urllib.request.Request(args.url + "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
try:
    reply = urllib.request.urlopen(request)
except OSError as e:
    raise SystemExit(f"{args.url}: {e}; `mlxr serve` has to run there") from None
with reply as answer:
    thing = json.loads(json.load(answer)["choices"][0]["message"]["content"])
print(f"{thing['name']} is a {thing['kind']} with {thing['legs']} legs")
