"""The small endpoints: models, tokenize, embeddings, health, readiness, metrics, and the chat page."""

import base64
from importlib.resources import files

import numpy as np
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from ..sequence import Handling, SamplingParams
from .asking import tokenize as ids_of
from .errors import ApiError, unfinished
from .fields import EmbeddingRequest, TokenizeRequest, parse
from .wire import json_response, read_body, while_connected


def _entry(models, name):
    entry = {"id": name, "object": "model", "created": int(models.started), "owned_by": "mlxr", "loaded": name in models.loaded}
    if entry["loaded"]:
        info = models.loaded[name].info
        entry.update(context_length=info["context"], architecture=info["architecture"], page_format=info["page_format"])
    return entry


async def models(request):
    served = request.app.state.models
    return json_response({"object": "list", "data": [_entry(served, name) for name in served.names]})


async def model(request):
    served = request.app.state.models
    return json_response(_entry(served, served.check(request.path_params["name"])))


async def tokenize(request):
    served = request.app.state.models
    fields = parse(TokenizeRequest, await read_body(request, served.config))
    async with served.use(fields.model) as service:
        ids = await service.off_thread(ids_of, service, fields)
    return json_response({"tokens": ids, "count": len(ids), "max_model_len": service.info["context"]})


async def embeddings(request):
    served = request.app.state.models
    fields = parse(EmbeddingRequest, await read_body(request, served.config))
    async with served.use(fields.model) as service:
        prompts = await service.off_thread(_inputs, service, fields.input)
        params, handling = SamplingParams(max_tokens=1, ignore_eos=True), Handling(timeout=service.config.timeout, embed=True)
        job = await service.start(prompts, [params] * len(prompts), handling, request.url.path, streamed=False)
    request.state.job = job
    return json_response(await while_connected(request, _embedded(service, job, fields), job))


def _inputs(service, given):
    """Token ids of each text."""
    several = isinstance(given, list) and not isinstance(given[0], int)
    return [service.tokenizer.encode(x) if isinstance(x, str) else x for x in (given if several else [given])]


async def _embedded(service, job, fields):
    """OpenAI's answer: the last hidden state of each text's last token, of length 1."""
    vectors = [None] * job.n
    async for i, chunk in job:
        if chunk:
            error = unfinished(chunk.finish_reason)
            if error:
                raise error
            vectors[i] = chunk.hidden
    if any(v is None for v in vectors):
        raise ApiError(400, f"{service.name} does not show the hidden states that embeddings are made of", param="model",
                       code="model_cannot_embed")
    if fields.dimensions not in (None, len(vectors[0])):
        raise ApiError(400, f"this model's embeddings have {len(vectors[0])} dimensions, and cannot be shortened", param="dimensions")
    data = []
    for i, v in enumerate(vectors):
        v = v / max(float(np.linalg.norm(v)), 1e-12)
        value = base64.b64encode(v.astype("<f4").tobytes()).decode() if fields.encoding_format == "base64" else v.tolist()
        data.append({"object": "embedding", "index": i, "embedding": value})
    tokens = job.usage().prompt
    return {"object": "list", "data": data, "model": service.name, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


async def health(request):
    if request.app.state.models.failed:
        raise ApiError(503, "the engine has failed; restart the server", code="engine_failed")
    return json_response({"status": "ok"})


async def ready(request):
    served = request.app.state.models
    if not served.ready:
        raise ApiError(503, "the server is stopping" if served.draining else "the engine has failed", code="unavailable")
    return json_response({"status": "ready", "model": served.default})


async def stats(request):
    """What the chat page's gauge shows, of ?model=NAME or the default; all 0 while it is not loaded."""
    served = request.app.state.models
    name = served.check(request.query_params.get("model"))
    service = served.loaded.get(name)
    now = service.engine.stats() if service else {}
    names = ("pages", "pages_free", "pages_used", "pages_cached", "running", "waiting", "preemptions", "disk_pages", "disk_read")
    return json_response({**{n: now.get(n, 0) for n in names}, "page_size": service.info["page_size"] if service else 0,
                          "model": name, "loaded": service is not None})


async def metrics(request):
    return PlainTextResponse(request.app.state.metrics.text(), media_type="text/plain; version=0.0.4")


async def page(request):
    """The chat page may load nothing from elsewhere, nor be put into another site's frame."""
    text = files("mlxr.server").joinpath("page", "index.html").read_text(encoding="utf-8")
    return HTMLResponse(text, headers={
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
                                   "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"})


async def favicon(request):
    return Response(status_code=204)
