"""Errors as clients see them: a status, a type, a message, and the field that was wrong; in OpenAI's and Anthropic's shape."""

from ..errors import EngineClosed, MlxrError, PromptTooLong, RequestError, TokenizerError

# status -> (OpenAI's error type, Anthropic's)
_KINDS = {
    400: ("invalid_request_error", "invalid_request_error"), 401: ("authentication_error", "authentication_error"),
    403: ("permission_error", "permission_error"), 404: ("invalid_request_error", "not_found_error"),
    405: ("invalid_request_error", "invalid_request_error"), 408: ("invalid_request_error", "invalid_request_error"),
    413: ("invalid_request_error", "request_too_large"), 415: ("invalid_request_error", "invalid_request_error"),
    429: ("rate_limit_error", "rate_limit_error"), 500: ("server_error", "api_error"),
    503: ("server_error", "overloaded_error"), 504: ("server_error", "timeout_error"),
}


class ApiError(Exception):
    """An answer that is an error. param: the field that was wrong; code: a word for programs; headers: to send with it."""

    def __init__(self, status, message, param=None, code=None, headers=None):
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers or {}

    def openai(self):
        return {"error": {"message": self.message, "type": _KINDS[self.status][0], "param": self.param, "code": self.code}}

    def anthropic(self, request_id=None):
        message = f"{self.param}: {self.message}" if self.param else self.message
        return {"type": "error", "error": {"type": _KINDS[self.status][1], "message": message}, "request_id": request_id}


def as_api_error(error):
    """The ApiError that an exception of mlxr stands for; what is not mlxr's is a 500 without details."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, PromptTooLong):
        return ApiError(400, str(error), code="context_length_exceeded")
    if isinstance(error, (RequestError, TokenizerError)):
        return ApiError(400, str(error))
    if isinstance(error, EngineClosed):
        return ApiError(503, str(error), code="engine_closed")
    if isinstance(error, MlxrError):
        return ApiError(500, str(error))
    return ApiError(500, "an error inside the server; its log says more")


# finish reasons of the engine that are no answer -> the error they become
def unfinished(reason):
    """The ApiError for a request that was ended before its answer was complete, or None."""
    if reason == "timeout":
        return ApiError(504, "the request's time was over before the answer was complete", code="timeout")
    if reason == "grammar":
        return ApiError(400, "the grammar became too complex to go on with; make the schema simpler", code="grammar_too_complex")
    if reason == "cancelled":
        return ApiError(503, "the server is stopping", code="server_stopping")
    return None
