"""The ASGI application: which path is answered by whom."""

import asyncio
import contextlib

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route

from ..errors import MlxrError
from . import anthropic, listing, openai, responses
from .doors import Doors, error_response
from .errors import ApiError, as_api_error
from .metrics import Metrics
from .openapi import document
from .wire import Bodies, json_response

ROUTES = [
    ("POST", "/v1/chat/completions", openai.chat), ("POST", "/v1/completions", openai.completions),
    ("POST", "/v1/responses", responses.responses), ("POST", "/v1/messages", anthropic.messages),
    ("POST", "/v1/messages/count_tokens", anthropic.count_tokens), ("POST", "/v1/embeddings", listing.embeddings),
    ("GET", "/v1/models", listing.models), ("GET", "/v1/models/{name:path}", listing.model),
    ("POST", "/tokenize", listing.tokenize), ("GET", "/health", listing.health), ("GET", "/ready", listing.ready),
    ("GET", "/stats", listing.stats), ("GET", "/metrics", listing.metrics), ("GET", "/", listing.page),
    ("GET", "/favicon.ico", listing.favicon),
]


def build_app(models):
    """The Starlette application of some Models, with everything that stands before it."""
    metrics = Metrics(models)

    async def openapi(request):
        return json_response(document(models.config))

    async def failed(request, error):
        if isinstance(error, HTTPException):         # starlette's own: no such path, wrong method
            known = {404: "there is nothing at this path; see /openapi.json", 405: "this path takes another method"}
            error = ApiError(error.status_code if error.status_code in known else 400,
                             known.get(error.status_code, str(error.detail)), headers=dict(error.headers or {}))
        return error_response(request.url.path, as_api_error(error), request.state.request_id)

    routes = [Route(path, handler, methods=[method]) for method, path, handler in ROUTES]
    app = Starlette(routes=[*routes, Route("/openapi.json", openapi, methods=["GET"])], lifespan=_lifespan,
                    exception_handlers={ApiError: failed, MlxrError: failed, HTTPException: failed, Exception: failed})
    app.router.redirect_slashes = False
    app.state.models, app.state.metrics, app.state.bodies = models, metrics, Bodies(2 * models.config.max_body)
    return Doors(app, models, metrics)


@contextlib.asynccontextmanager
async def _lifespan(app):
    watch = asyncio.create_task(app.state.models.watch())
    yield
    watch.cancel()
    app.state.models.close()
