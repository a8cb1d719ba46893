"""What stands before every endpoint: keys, hosts, request ids, the log, CORS, and errors in the right shape."""

import hashlib
import hmac
import json
import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from .errors import ApiError, as_api_error

log = logging.getLogger("mlxr.server")
OPEN = frozenset(["/health", "/ready", "/", "/favicon.ico"])      # need no key: they tell nothing and change nothing
_ID = re.compile(r"[A-Za-z0-9_.-]{1,100}")


def _same(given, wanted):
    """Whether a header's value is the key, in a time that does not depend on where they differ or how long they are."""
    pair = given.encode("latin-1"), wanted.encode("utf-8")           # as headers are decoded, and as clients write them
    return hmac.compare_digest(*(hashlib.sha256(k).digest() for k in pair))


class Doors:
    """ASGI middleware."""

    def __init__(self, app, models, metrics):
        self.app, self.config, self.metrics = app, models.config, metrics

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers, began = Headers(scope=scope), time.perf_counter()
        given = headers.get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        state = scope.setdefault("state", {})
        state["request_id"], seen = request_id, {"status": 0}
        origin = headers.get("origin")
        allowed = origin if origin and (origin in self.config.cors or "*" in self.config.cors) else None

        async def labelled(message):
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
                out = MutableHeaders(scope=message)
                out["x-request-id"] = out["request-id"] = request_id
                if allowed:
                    out["access-control-allow-origin"] = allowed
                    out.add_vary_header("Origin")
            await send(message)
        try:
            answer = self._answer_here(scope, headers, allowed)
            await (answer or self.app)(scope, receive, labelled)
        except ClientDisconnect:
            pass                                         # nobody is there to be answered
        except ApiError as e:
            await error_response(scope["path"], e, request_id)(scope, receive, labelled)
        except Exception as e:
            error = as_api_error(e)
            if error.status == 500:
                log.exception("request %s failed", request_id)
            if not seen["status"]:
                await error_response(scope["path"], error, request_id)(scope, receive, labelled)
        finally:
            self._note(scope, state, seen["status"], began)

    def _answer_here(self, scope, headers, allowed):
        """A response for what goes no further: a preflight. Raises ApiError for a wrong host or key."""
        if self.config.hosts is not None and _host(headers.get("host", "")) not in self.config.hosts:
            # A page of another site whose name was made to point here would come with that name.
            raise ApiError(403, "this server answers to its own address alone; see --allowed-hosts", code="wrong_host")
        if scope["method"] == "OPTIONS" and allowed and "access-control-request-method" in headers:
            return JSONResponse({}, headers={"Access-Control-Allow-Methods": "GET, POST, OPTIONS", "Access-Control-Max-Age": "600",
                                             "Access-Control-Allow-Headers":
                                                 headers.get("access-control-request-headers", "authorization, content-type")})
        if self.config.api_key and scope["path"] not in OPEN:
            kind, _, key = headers.get("authorization", "").partition(" ")
            key = key.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
            if not _same(key, self.config.api_key):
                raise ApiError(401, "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'",
                               code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        return None

    def _note(self, scope, state, status, began):
        path = getattr(scope.get("route"), "path", None) or "other"
        self.metrics.requests.labels(path, str(status or "gone")).inc()
        if path in ("/health", "/ready", "/metrics") and status == 200:
            return
        line = {"event": "request", "id": state["request_id"], "method": scope["method"], "path": path, "status": status or "gone",
                "seconds": round(time.perf_counter() - began, 4)}
        job = state.get("job")
        if job and job.requests:
            usage = job.usage()
            line.update(model=job.service.name, prompt_tokens=usage.prompt, cached_tokens=usage.cached, generated_tokens=usage.generated,
                        first_token=round(job.first - job.began, 4) if job.first else None,
                        finish=[r.sequence.finish_reason for r in job.requests])
            if self.config.log_prompts:
                line["prompts"] = [job.tokenizer.decode(r.sequence.tokens[:r.sequence.num_prompt]) for r in job.requests]
        log.info(json.dumps(line, ensure_ascii=False))


def _host(value):
    """The name in a Host header, without the port."""
    return (value.rpartition(":")[0] if re.search(r":\d*$", value) else value).strip("[]").lower()


def error_response(path, error, request_id):
    body = error.anthropic(request_id) if path.startswith("/v1/messages") else error.openai()
    return JSONResponse(body, error.status, error.headers)
