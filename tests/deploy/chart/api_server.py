"""Enough of a Kubernetes API server for Helm to look something up: the kinds that the chart renders, and some objects."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .helm import Document

__all__ = ["api_server"]


def _plural(kind: str) -> str:
    return f"{kind.lower()[:-1]}ies" if kind.endswith("y") else f"{kind.lower()}s"


def _answers(known: Iterable[Document], there: Iterable[Document]) -> dict[str, Any]:
    """What is said at each address: version, discovery, and the objects."""
    versions: defaultdict[str, set[str]] = defaultdict(set)
    for document in known:
        versions[document["apiVersion"]].add(document["kind"])
    groups = []
    answers: dict[str, Any] = {"/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"}}
    answers["/api"] = {"kind": "APIVersions", "versions": ["v1"]}
    for version, kinds in versions.items():
        named = [{"name": _plural(kind), "kind": kind, "namespaced": True, "verbs": ["get", "create"]} for kind in sorted(kinds)]
        answers[_root(version)] = {"kind": "APIResourceList", "groupVersion": version, "resources": named}
        if "/" in version:
            this = {"groupVersion": version, "version": version.partition("/")[2]}
            groups.append({"name": version.partition("/")[0], "versions": [this], "preferredVersion": this})
    answers["/apis"] = {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    for document in there:
        metadata = document["metadata"]
        place = f"namespaces/{metadata['namespace']}/{_plural(document['kind'])}/{metadata['name']}"
        answers[f"{_root(document['apiVersion'])}/{place}"] = document
    return answers


def _root(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


@contextlib.contextmanager
def api_server(known: Iterable[Document], *there: Document) -> Iterator[str]:
    """Serve discovery of the kinds of ``known`` and the objects that are ``there``; yields the address."""
    answers = _answers(known, there)
    missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answers.get(self.path.partition("?")[0])
            body = json.dumps(missing if found is None else found).encode()
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *said: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
