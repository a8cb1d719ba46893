"""The OpenAPI document, made from the models that check the requests."""

from pydantic.json_schema import models_json_schema

from .._version import __version__
from .anthropic_fields import CountRequest, MessagesRequest
from .fields import ChatRequest, CompletionRequest, EmbeddingRequest, TokenizeRequest
from .responses_fields import ResponsesRequest

_POSTS = [("/v1/chat/completions", ChatRequest, "Answer a chat", True), ("/v1/completions", CompletionRequest, "Go on with a text", True),
          ("/v1/responses", ResponsesRequest, "Answer, as items", True), ("/v1/messages", MessagesRequest, "Answer a chat, Anthropic's way", True),
          ("/v1/messages/count_tokens", CountRequest, "Count the tokens of a chat", False),
          ("/v1/embeddings", EmbeddingRequest, "Embed texts: the last hidden state of the last token, of length 1", False),
          ("/tokenize", TokenizeRequest, "The token ids of a text or chat", False)]
_GETS = [("/v1/models", "The model that is served"), ("/health", "Whether the process works"),
         ("/ready", "Whether requests are taken"), ("/stats", "Pages and sequences now")]
_ERROR = {"type": "object", "description": "An error, in the shape of the interface that was called."}


def document(config):
    """OpenAPI 3.1 of a server with this ServeConfig."""
    schemas, shared = models_json_schema([(model, "validation") for _, model, _, _ in _POSTS], ref_template="#/components/schemas/{model}")
    paths = {}
    for path, model, summary, streams in _POSTS:
        media = {"application/json": {"schema": {"type": "object"}}, **({"text/event-stream": {"schema": {"type": "string"}}} if streams else {})}
        paths[path] = {"post": {
            "summary": summary, "responses": {"200": {"description": "The answer", "content": media}, **_errors(config, True)},
            "requestBody": {"required": True, "content": {"application/json": {"schema": schemas[model, "validation"]}}}}}
    for path, summary in _GETS:
        paths[path] = {"get": {"summary": summary, "responses": {
            "200": {"description": "The answer", "content": {"application/json": {"schema": {"type": "object"}}}}, **_errors(config, False)}}}
    paths["/v1/models/{name}"] = {"get": {
        "summary": "One model", "parameters": [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}],
        "responses": {"200": {"description": "The model", "content": {"application/json": {"schema": {"type": "object"}}}},
                      **_errors(config, False)}}}
    paths["/metrics"] = {"get": {"summary": "Prometheus metrics", "responses": {
        "200": {"description": "Text", "content": {"text/plain": {"schema": {"type": "string"}}}}, **_errors(config, False)}}}
    components = {"schemas": {**shared["$defs"], "Error": _ERROR}}
    if config.api_key:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return {"openapi": "3.1.0", "info": {"title": "mlxr serve", "version": __version__}, "paths": paths, "components": components,
            **({"security": [{"key": []}]} if config.api_key else {})}


def _errors(config, post):
    """The errors that a path may answer with."""
    codes = ["400", "404", "408", "413", "415", "429", "500", "503", "504"] if post else ["400", "404", "503"]
    codes += ["403"] if config.hosts is not None else []
    codes += ["401"] if config.api_key else []
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {code: {"description": "An error", "content": content} for code in sorted(codes)}
