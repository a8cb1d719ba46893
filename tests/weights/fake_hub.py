"""A Hugging Face hub on the loopback: the few routes that a download uses, and a record of what was asked."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "a" * 40


class FakeHub:
    """repos: "owner/name" -> {path: bytes}. `requests` holds (method, path, Authorization header) of all requests.

    gated, private: names that need `token`. broken: answer everything with that status.
    """

    def __init__(self, repos, token="hf_right", gated=(), private=()):
        self.repos, self.token, self.gated, self.private = repos, token, gated, private
        self.broken, self.requests = None, []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def downloaded(self):
        """Paths of the files whose contents were fetched."""
        return sorted(path.partition(f"/resolve/{COMMIT}/")[2] or path.partition("/resolve/main/")[2]
                      for method, path, _ in self.requests if method == "GET" and "/resolve/" in path)

    def answer(self, request):
        path = unquote(urlsplit(request.path).path)
        self.requests.append((request.command, path, request.headers.get("Authorization")))
        if self.broken:
            return self.send(request, self.broken, b"{}")
        repo, rest = self.split(path)
        if repo is None:
            return self.send(request, 404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if repo in self.private and not self.allowed(request):
            return self.send(request, 401, b"{}", {"X-Error-Code": "RepoNotFound"})
        if path.startswith("/api/"):
            return self.api(request, repo, rest)
        if repo in self.gated and not self.allowed(request):
            return self.send(request, 403, b"{}", {"X-Error-Code": "GatedRepo"})
        _, revision, file = rest.split("/", 2)
        if revision not in ("main", COMMIT):
            return self.send(request, 404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if file not in self.repos[repo]:
            return self.send(request, 404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        content = self.repos[repo][file]
        etag = hashlib.sha256(content).hexdigest()
        return self.send(request, 200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT,
                                             "Accept-Ranges": "bytes"})

    def split(self, path):
        """(repository, what follows its name) of a path; (None, "") for what is no repository here."""
        name = path.removeprefix("/api/models/").lstrip("/")
        for repo in self.repos:
            if name == repo or name.startswith(repo + "/"):
                return repo, name[len(repo):].lstrip("/")
        return None, ""

    def allowed(self, request):
        return request.headers.get("Authorization") == f"Bearer {self.token}"

    def api(self, request, repo, rest):
        kind, _, revision = rest.partition("/")
        if revision.split("/")[0] not in ("", "main", COMMIT):
            return self.send(request, 404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        files = self.repos[repo]
        if kind == "tree":
            entries = [{"type": "file", "oid": hashlib.sha1(c).hexdigest(), "size": len(c), "path": p}
                       for p, c in files.items()]
            return self.send(request, 200, json.dumps(entries).encode())
        info = {"id": repo, "modelId": repo, "sha": COMMIT, "private": repo in self.private, "tags": [], "downloads": 0,
                "siblings": [{"rfilename": p} for p in files]}
        return self.send(request, 200, json.dumps(info).encode())

    def send(self, request, status, body, headers=()):
        parts = parse_qs(urlsplit(request.path).query)
        assert "token" not in parts  # a token belongs in a header
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.send_header("Content-Type", "application/json" if body[:1] in b"{[" else "application/octet-stream")
        for key, value in dict(headers).items():
            request.send_header(key, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body)
