"""HTTP clients that cost little processor time: many at once in one process of their own, on asyncio's streams alone.

python fast_client.py URL CLIENTS EACH < bodies (a JSON list of CLIENTS * EACH requests); prints {"tokens", "seconds", "errors"}.
"""

import asyncio
import json
import sys
import time
from urllib.parse import urlsplit


async def ask(reader, writer, path, host, body):
    """(status, bytes of the answer's body) of one POST on an open connection; chunked answers are put together."""
    data = json.dumps(body).encode()
    writer.write(f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status = int(head.split(" ", 2)[1])
    if "transfer-encoding: chunked" in head:
        parts = []
        while size := int(await reader.readline(), 16):
            parts.append(await reader.readexactly(size))
            await reader.readexactly(2)
        await reader.readexactly(2)
        return status, b"".join(parts)
    return status, await reader.readexactly(int(head.partition("content-length:")[2].split("\r\n")[0]))


def tokens_of(answer):
    """Completion tokens of an answer, whole or as events."""
    if answer.startswith(b"data: "):
        at = answer.rindex(b'"usage":{')
        return json.loads(answer[at + 8:answer.index(b"}\n", at)].split(b"}")[0] + b"}}")["completion_tokens"]
    return json.loads(answer)["usage"]["completion_tokens"]


async def main(url, clients, each, bodies):
    parts, errors, tokens = urlsplit(url), [], 0

    async def one(number):
        nonlocal tokens
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 24)
        for body in bodies[number * each:(number + 1) * each]:
            status, answer = await ask(reader, writer, "/v1/completions", parts.netloc, body)
            if status != 200:
                errors.append(answer.decode(errors="replace")[:200])
            else:
                tokens += tokens_of(answer)
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(one(i) for i in range(clients)))
    print(json.dumps({"tokens": tokens, "seconds": time.perf_counter() - began, "errors": errors}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.load(sys.stdin)))
