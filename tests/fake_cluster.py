"""A Kubernetes API server in memory, on pytest-httpserver: Jobs, pods, Secrets and events of one namespace, lists in pages, watches with versions.

It keeps to the protocol (versions, bookmarks, 409, 410, merge patches) and breaks it on demand: `fail` answers in its place, `cut` ends the watches,
`silent` lets them say nothing more, `forget` drops the history that watches are resumed from. What a cluster's controllers do, tests do by `set`.
"""

from __future__ import annotations

import collections
import copy
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

Json = dict[str, Any]

PATH = re.compile(r"/(?:api/v1|apis/batch/v1)/namespaces/tes/(jobs|pods|secrets|configmaps|events)(?:/([^/]+))?(?:/(log))?")


REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


class Fault(NamedTuple):
    """An answer in place of the cluster's. `after`: what was asked for is done nevertheless."""

    method: str
    kind: str
    status: int
    message: str
    headers: dict[str, str]
    watches: bool | None
    after: bool


class FakeCluster:
    """`url` is the API server's. Call `close` before the HTTP server is stopped."""

    def __init__(self, server: HTTPServer) -> None:
        self.url = server.url_for("")
        self.objects: dict[str, dict[str, Json]] = collections.defaultdict(dict)
        self.logs: dict[tuple[str, str], bytes] = {}
        self.requests: list[tuple[str, str]] = []
        """(method, kind) of each; a watch is WATCH, a list LIST"""
        self.queries: list[dict[str, str]] = []
        self.denied: set[tuple[str, str]] = set()
        """(verb, resource) that a review says no to"""
        self.bookmark = False
        self.silent = False
        self.garbage: list[bytes] = []
        self.created: Callable[[Json], None] = lambda _: None
        """called with each new Job"""
        self.patched: Callable[[Json], None] = lambda _: None
        """called with each object that was patched"""
        self.read_log: Callable[[str, str], bytes | None] = lambda _pod, _container: None
        """where `logs` has nothing"""
        self._history: list[tuple[int, str, str, Json]] = []
        self._version = 100
        self._oldest = 0
        self._cuts = 0
        self._closed = False
        self._faults: list[Fault] = []
        self._told = threading.Condition()
        server.expect_request(re.compile("/.*")).respond_with_handler(self._handle)

    # -- what tests do ----------------------------------------------------------------------------------------------

    def set(self, kind: str, thing: Json) -> Json:
        """Put an object there, or in place of one of that name."""
        with self._told:
            name = thing["metadata"]["name"]
            change = "MODIFIED" if name in self.objects[kind] else "ADDED"
            return self._keep(kind, change, copy.deepcopy(thing))

    def remove(self, kind: str, name: str) -> None:
        """Delete an object."""
        with self._told:
            thing = self.objects[kind].pop(name)
            self._keep(kind, "DELETED", thing)

    def remove_unseen(self, kind: str, name: str) -> None:
        """Delete an object, and forget that it was ever there: no watch can tell of it."""
        with self._told:
            del self.objects[kind][name]
            self._version += 1
            self._forget()

    def tell(self, kind: str, change: str, thing: Json) -> None:
        """Send an event that is none: late, or twice."""
        with self._told:
            self._history.append((self._version, kind, change, thing))
            self._told.notify_all()

    def fail(
        self, method: str, kind: str, status: int, message: str = "", *, times: int = 1, watches: bool | None = None, after: bool = False, **headers: str
    ) -> None:
        """Answer the next requests so. `watches`: True only watches, False none. Status 0: the connection is cut."""
        with self._told:
            self._faults += [Fault(method, kind, status, message, headers, watches, after)] * times

    def mend(self) -> None:
        """No more failures."""
        with self._told:
            self._faults.clear()

    def cut(self) -> None:
        """End all watches in the middle of a line."""
        with self._told:
            self._cuts += 1
            self._told.notify_all()

    def forget(self) -> None:
        """Watches that are resumed at any version up to now get 410."""
        with self._told:
            self._version += 1
            self._forget()

    def count(self, method: str, kind: str) -> int:
        """Requests so far."""
        return self.requests.count((method, kind))

    @property
    def writes(self) -> int:
        """Requests that changed something, or meant to."""
        return sum(method in ("POST", "PATCH", "PUT", "DELETE") for method, _ in self.requests)

    def until(self, holds: Callable[[], Any], patience: float = 20.0) -> None:
        """Wait, looking often: what is waited for happens in threads of the code under test."""
        deadline = time.monotonic() + patience
        while not holds():
            assert time.monotonic() < deadline, self.requests[-20:]
            time.sleep(0.005)

    def close(self) -> None:
        """End the watches."""
        with self._told:
            self._closed = True
            self._told.notify_all()

    # -- the server -------------------------------------------------------------------------------------------------

    def _handle(self, request: Request) -> Response:
        if request.path == REVIEWS:
            return self._review(request)
        match = PATH.fullmatch(request.path)
        assert match, request.path
        kind, name, log = match.groups()
        query = request.args.to_dict()
        method = request.method
        if method == "GET" and not name:
            method = "WATCH" if "watch" in query else "LIST"
        with self._told:
            self.requests.append((method if not log else "LOG", kind))
            self.queries.append(query)
            fault = self._fault(request.method, kind, watches=method == "WATCH")
        if fault is not None and not fault.after:
            return _failed(fault)
        answer = self._answer(request, method, kind, name, log, query)
        return _failed(fault) if fault is not None else answer

    def _answer(self, request: Request, method: str, kind: str, name: str | None, log: str | None, query: dict[str, str]) -> Response:
        if log:
            return self._log(str(name), query)
        if method == "WATCH":
            return self._watch(kind, query)
        with self._told:
            if method == "LIST":
                return self._list(kind, query)
            if method == "POST":
                return self._create(kind, json.loads(request.data), dry="dryRun" in query)
            thing = self.objects[kind].get(str(name))
            if thing is None:
                return status(404, "NotFound", f'{kind} "{name}" not found')
            if method == "PATCH":
                assert request.content_type == "application/merge-patch+json"
                thing = self._keep(kind, "MODIFIED", _merged(thing, json.loads(request.data)))
                self.patched(thing)
            elif method == "DELETE":
                self.remove(kind, str(name))
            return answer(200, thing)

    def _review(self, request: Request) -> Response:
        asked = json.loads(request.data)["spec"]["resourceAttributes"]
        assert asked["namespace"] == "tes"
        kind = f"{asked['resource']}/{asked['subresource']}" if asked["subresource"] else asked["resource"]
        return answer(201, {"kind": "SelfSubjectAccessReview", "status": {"allowed": (asked["verb"], kind) not in self.denied}})

    def _create(self, kind: str, thing: Json, *, dry: bool) -> Response:
        name = thing["metadata"]["name"]
        if name in self.objects[kind]:
            return status(409, "AlreadyExists", f'{kind} "{name}" already exists')
        if dry:
            return answer(201, thing)
        thing["metadata"].update(uid=f"uid-of-{name}", creationTimestamp=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        kept = self._keep(kind, "ADDED", thing)
        if kind == "jobs":
            self.created(kept)
        return answer(201, kept)

    def _list(self, kind: str, query: dict[str, str]) -> Response:
        things = [thing for _, thing in sorted(self.objects[kind].items()) if _selected(thing, query)]
        begin, limit = int(query.get("continue", "0")), int(query.get("limit", "1000000"))
        page = things[begin : begin + limit]
        metadata = {"resourceVersion": str(self._version), **({"continue": str(begin + limit)} if begin + limit < len(things) else {})}
        return answer(200, {"kind": "List", "metadata": metadata, "items": page})

    def _watch(self, kind: str, query: dict[str, str]) -> Response:
        version = int(query["resourceVersion"])
        if version < self._oldest:
            return status(410, "Expired", f"too old resource version: {version} ({self._oldest})")
        return Response(self._events(kind, query, version, self._cuts), mimetype="application/json")

    def _events(self, kind: str, query: dict[str, str], version: int, cuts: int) -> Iterator[bytes]:
        end = time.monotonic() + float(query["timeoutSeconds"])
        with self._told:
            seen = next((place for place, item in enumerate(self._history) if item[0] > version), len(self._history))
        yield b"\n"  # so that the head of the answer is sent
        while True:
            with self._told:
                while not self._has_news(seen, cuts) and self._told.wait(end - time.monotonic()):
                    pass
                if self._closed:
                    return
                cut = self._cuts > cuts
                fresh = [] if self.silent or cut else self._history[seen:]
                seen += len(fresh)
                garbage, self.garbage = self.garbage, []
            if cut:
                yield b'{"type": "MODIF'
                return
            yield from garbage
            for _, what, change, thing in fresh:
                if what == kind and _selected(thing, query):
                    yield json.dumps({"type": change, "object": thing}).encode() + b"\n"
            if time.monotonic() >= end:
                break
        if self.bookmark:
            with self._told:
                last = self._version if len(self._history) == seen else version
            yield json.dumps({"type": "BOOKMARK", "object": {"kind": "Any", "metadata": {"resourceVersion": str(last)}}}).encode() + b"\n"

    def _has_news(self, seen: int, cuts: int) -> bool:
        return self._closed or self._cuts > cuts or bool(self.garbage) or (len(self._history) > seen and not self.silent)

    def _log(self, pod: str, query: dict[str, str]) -> Response:
        container = query["container"]
        if pod in self.objects["pods"] and not self.objects["pods"][pod]["spec"].get("nodeName"):
            return Response(status=204)  # tried: no node has it yet
        text = self.logs.get((pod, container)) or self.read_log(pod, container)
        return status(404, "NotFound", "no such log") if text is None else Response(text, mimetype="text/plain")

    def _keep(self, kind: str, change: str, thing: Json) -> Json:
        self._version += 1
        thing = copy.deepcopy(thing)
        thing["metadata"]["resourceVersion"] = str(self._version)
        if change != "DELETED":
            self.objects[kind][thing["metadata"]["name"]] = thing
        self._history.append((self._version, kind, change, thing))
        self._told.notify_all()
        return thing

    def _forget(self) -> None:
        self._oldest = self._version
        self._history.clear()
        self._cuts += 1
        self._told.notify_all()

    def _fault(self, method: str, kind: str, *, watches: bool) -> Fault | None:
        for number, fault in enumerate(self._faults):
            if fault.method == method and fault.kind == kind and fault.watches in (None, watches):
                return self._faults.pop(number)
        return None


def answer(code: int, body: Json, **headers: str) -> Response:
    """JSON."""
    return Response(json.dumps(body), code, headers=headers, mimetype="application/json")


def status(code: int, reason: str, message: str, **headers: str) -> Response:
    """A Status object, as failures have it."""
    return answer(code, {"kind": "Status", "status": "Failure", "message": message, "reason": reason, "code": code}, **headers)


def _failed(fault: Fault) -> Response:
    if fault.status == 0:
        # More is promised than sent: the client sees its connection cut.
        return Response(iter([b"{"]), 200, headers={"Content-Length": "1000"}, mimetype="application/json")
    reasons = {403: "Forbidden", 409: "Conflict", 410: "Expired", 422: "Invalid", 429: "TooManyRequests"}
    return status(
        fault.status, reasons.get(fault.status, "InternalError"), fault.message, **{name.replace("_", "-"): text for name, text in fault.headers.items()}
    )


def _selected(thing: Json, query: dict[str, str]) -> bool:
    labels = thing["metadata"].get("labels", {})
    wanted = dict(part.split("=", 1) for part in query.get("labelSelector", "").split(",") if part)
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    return query.get("fieldSelector", "") in ("", f"type={thing.get('type', '')}")


def _merged(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged
