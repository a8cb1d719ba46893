"""Bodies in, JSON and event streams out; and what ends a request whose client has gone."""

import asyncio
import json
import logging

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, StreamingResponse

from .errors import ApiError, as_api_error

log = logging.getLogger("mlxr.server")


async def read_body(request, config):
    """The bytes of a JSON body. Raises ApiError: wrong type, too large, too slow, not UTF-8."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Also what keeps other sites' pages out: a browser asks first before it sends this type.
        raise ApiError(415, f"send the body as application/json, not {kind[:60] or 'without a content type'}")
    try:
        body = await asyncio.wait_for(_all_of(request, config.max_body, request.app.state.bodies), config.body_timeout)
    except asyncio.TimeoutError:
        raise ApiError(408, f"the body did not arrive within {config.body_timeout:g} seconds",
                       headers={"Connection": "close"}) from None
    except ClientDisconnect:                 # nobody is there to read this
        raise ApiError(400, "the client went away before the body was complete") from None
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as e:
        raise ApiError(400, f"the body is not UTF-8 text (byte {e.start})", code="invalid_json") from None
    return body


async def _all_of(request, limit, bodies):
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise ApiError(413, f"the body is larger than {limit} bytes", headers={"Connection": "close"})
            parts.append(part)
            bodies.grown(request, size)
        return b"".join(parts)
    finally:
        bodies.done(request)


class Bodies:
    """Bytes of large bodies that are arriving, all together: `most`, so that many at once take no more memory than planned."""

    SMALL = 64 << 10                     # bodies up to this size always come in

    def __init__(self, most):
        self.most, self._sizes = most, {}

    def grown(self, request, size):
        """A request's body has that many bytes by now. Raises ApiError when there is no room for it."""
        if size > self.SMALL:
            self._sizes[id(request)] = size
            if len(self._sizes) > 1 and sum(self._sizes.values()) > self.most:
                raise ApiError(503, "other large requests are arriving; try again", code="busy",
                               headers={"Retry-After": "1", "Connection": "close"})

    def done(self, request):
        """It is complete, or was given up."""
        self._sizes.pop(id(request), None)


async def while_connected(request, work, job):
    """await work, which uses a job; end both when the client goes away. The job is closed in any case.

    Raises ClientDisconnect when it has gone.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        job.close()
        for t in (task, gone):
            t.cancel()


async def _gone(request):
    while (await request.receive())["type"] != "http.disconnect":
        pass


def event(data, name=None):
    """The bytes of one server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return ((f"event: {name}\n" if name else "") + f"data: {text}\n\n").encode("utf-8", "replace")


PING = b": still working\n\n"


class EventStream(StreamingResponse):
    """Sends what an async generator of bytes gives; ends it, and closes the job, when the client goes away.

    failed: failed(ApiError) gives the bytes with which a stream ends that cannot go on.
    """

    def __init__(self, events, job, failed):
        super().__init__(self._all(events, failed), media_type="text/event-stream",
                         headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self.job = job

    async def _all(self, events, failed):
        try:
            async for data in events:
                yield data
        except Exception as e:
            error = as_api_error(e)
            if error is not e and error.status == 500:
                log.exception("a stream failed")
            yield failed(error)

    async def __call__(self, scope, receive, send):
        stream = asyncio.ensure_future(self.stream_response(send))
        gone = asyncio.ensure_future(self.listen_for_disconnect(receive))
        try:
            await asyncio.wait({stream, gone}, return_when=asyncio.FIRST_COMPLETED)
            if stream.done():
                stream.result()
        except OSError:
            pass                             # the client went away while something was sent
        finally:
            self.job.close()
            for task in (stream, gone):
                task.cancel()
            await asyncio.gather(stream, gone, return_exceptions=True)


def json_response(data, status=200, headers=None):
    return JSONResponse(data, status, headers)
