"""The small endpoints: models, tokenize, embeddings (refused), health, readiness, metrics, and the chat page."""

from importlib.resources import files

from starlette.responses import HTMLResponse, PlainTextResponse, Response

from .asking import tokenize as ids_of
from .errors import ApiError
from .fields import EmbeddingRequest, TokenizeRequest, parse
from .wire import json_response, read_body


def _entry(service):
    info = service.info
    return {"id": service.config.name, "object": "model", "created": int(service.started), "owned_by": "mlxr",
            "context_length": info["context"], "architecture": info["architecture"], "page_format": info["page_format"]}


async def models(request):
    return json_response({"object": "list", "data": [_entry(request.app.state.service)]})


async def model(request):
    service = request.app.state.service
    service.check_model(request.path_params["name"])
    return json_response(_entry(service))


async def tokenize(request):
    service = request.app.state.service
    fields = parse(TokenizeRequest, await read_body(request, service.config))
    service.check_model(fields.model)
    ids = await service.off_thread(ids_of, service, fields)
    return json_response({"tokens": ids, "count": len(ids), "max_model_len": service.info["context"]})


async def embeddings(request):
    service = request.app.state.service
    fields = parse(EmbeddingRequest, await read_body(request, service.config))
    service.check_model(fields.model)
    raise ApiError(400, f"{service.config.name} was made to generate text: it has no embeddings to give", param="model",
                   code="model_cannot_embed")


async def health(request):
    service = request.app.state.service
    if service.thread.failed:
        raise ApiError(503, "the engine has failed; restart the server", code="engine_failed")
    return json_response({"status": "ok"})


async def ready(request):
    service = request.app.state.service
    if not service.ready:
        raise ApiError(503, "the server is stopping" if service.draining else "the engine has failed", code="unavailable")
    return json_response({"status": "ready", "model": service.config.name})


async def stats(request):
    """What the chat page's gauge shows."""
    service = request.app.state.service
    now = service.engine.stats()
    names = ("pages_free", "pages_used", "pages_cached", "running", "waiting", "preemptions")
    return json_response({**{n: now[n] for n in names}, "pages": service.info["pages"], "page_size": service.info["page_size"]})


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
