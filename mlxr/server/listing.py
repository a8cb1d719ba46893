"""The small endpoints: models, tokenize, embeddings (refused), health, readiness, metrics, and the chat page."""

from importlib.resources import files

from starlette.responses import HTMLResponse, PlainTextResponse, Response

from .asking import tokenize as ids_of
from .errors import ApiError
from .fields import EmbeddingRequest, TokenizeRequest, parse
from .wire import json_response, read_body


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
    raise ApiError(400, f"{served.check(fields.model)} was made to generate text: it has no embeddings to give", param="model",
                   code="model_cannot_embed")


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
