"""The assembled application: methods, slashes, probes, documentation, failures, threads, figures."""

from __future__ import annotations

import asyncio
import logging
import os
import pathlib
import subprocess
import sys
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import prometheus_client
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tes_server import metrics_files, settings
from tes_server.api import application, body
from tests.unit.api import asgi
from tests.unit.api.service import TASK, MemoryService


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/tasks", "GET, HEAD, POST"),
        ("DELETE", "/v1/tasks", "GET, HEAD, POST"),
        ("OPTIONS", "/v1/tasks", "GET, HEAD, POST"),
        ("POST", "/v1/tasks/x", "GET, HEAD"),
        ("DELETE", "/ga4gh/tes/v1/tasks/x", "GET, HEAD"),
        ("PUT", "/v1/tasks/x:cancel", "GET, HEAD, POST"),
        ("POST", "/v1/service-info", "GET, HEAD"),
        ("POST", "/v1/tasks/service-info", "GET, HEAD"),
        ("POST", "/healthz", "GET, HEAD"),
        ("POST", "/", "GET, HEAD"),
        ("PATCH", "/v1/tasks/", "GET, HEAD, POST"),
    ],
)
def test_a_known_path_names_its_methods(app: ASGIApp, method: str, path: str, allowed: str) -> None:
    answer = asgi.request(app, method, path)
    assert answer is not None
    assert (answer.status, answer.headers["allow"]) == (405, allowed)
    assert answer.json == {"status": 405, "title": "Method Not Allowed", "detail": "this path does not take this method"}


def test_a_trailing_slash_is_the_same_resource(app: ASGIApp) -> None:
    task_id = asgi.post(app, "/v1/tasks/", TASK).json["id"]
    assert asgi.get(app, f"/v1/tasks/{task_id}/").json["id"] == task_id
    assert len(asgi.get(app, "/v1/tasks/?page_size=1").json["tasks"]) == 1
    assert asgi.get(app, "/healthz/").status == 200


def test_head_is_get(app: ASGIApp, task_id: str) -> None:
    for path in (f"/v1/tasks/{task_id}", "/v1/tasks", "/v1/service-info", "/healthz", "/openapi.json"):
        head = asgi.request(app, "HEAD", path)
        assert head is not None
        assert (head.status, head.headers) == (200, asgi.get(app, path).headers)


@pytest.mark.parametrize(("key", "status"), [("a", 200), ("x" * 255, 200), ("a b", 200), ("", 400), ("x" * 256, 400), ("a\tb", 400), ("é", 400)])
def test_idempotency_key(app: ASGIApp, service: MemoryService, key: str, status: int) -> None:
    answer = asgi.post(app, "/v1/tasks", TASK, headers={**asgi.LOOPBACK, "idempotency-key": key})
    assert answer.status == status
    assert service.keys == ([key] if status == 200 else [])
    if status == 400:
        assert answer.json["parameter"] == "Idempotency-Key"


def test_a_conflict_comes_through_the_future(app: ASGIApp) -> None:
    answer = asgi.post(app, "/v1/tasks", TASK, headers={**asgi.LOOPBACK, "idempotency-key": "conflict"})
    assert answer.json == {"status": 409, "title": "Conflict", "detail": "this Idempotency-Key was used for another task"}


def test_a_refusal_of_the_service_keeps_its_pointer(app: ASGIApp) -> None:
    answer = asgi.post(app, "/v1/tasks", b'{"executors":[]}')
    assert answer.json == {"status": 400, "title": "Bad Request", "detail": "needs at least one executor", "pointer": "/executors"}


def test_a_failure_is_logged_and_not_shown(app: ASGIApp, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "tes_server.api"):
        answer = asgi.get(app, "/v1/tasks/breaks")
    assert (answer.status, b"secret" in answer.body) == (500, False)
    (record,) = caplog.records
    assert record.message == "request.failed"
    assert "secret detail" in record.fields["exception"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("blocking", [True, False])
def test_reads_leave_the_event_loop_only_where_they_block(app: ASGIApp, service: MemoryService, task_id: str, blocking: bool) -> None:
    service.blocking = blocking
    service.threads.clear()
    asgi.get(app, f"/v1/tasks/{task_id}")
    asgi.get(app, "/v1/tasks")
    assert [thread != "MainThread" for thread in service.threads] == [blocking, blocking]


@pytest.mark.parametrize(("view", "away"), [("MINIMAL", False), ("BASIC", True), ("FULL", True)])
def test_whole_tasks_are_listed_off_the_event_loop(app: ASGIApp, service: MemoryService, view: str, away: bool) -> None:
    assert asgi.get(app, f"/v1/tasks?view={view}").status == 200
    assert [thread != "MainThread" for thread in service.threads] == [away]


@pytest.mark.parametrize(("size", "away"), [(body.SMALL, False), (body.SMALL + 1, True)])
def test_a_large_task_is_checked_off_the_event_loop(app: ASGIApp, service: MemoryService, size: int, away: bool) -> None:
    assert asgi.post(app, "/v1/tasks", TASK.ljust(size)).status == 200
    assert [thread != "MainThread" for thread in service.threads] == [away]


def test_readyz_asks_the_service(app: ASGIApp, service: MemoryService) -> None:
    assert asgi.get(app, "/readyz").json == {"status": "ok"}
    service.down = True
    answer = asgi.get(app, "/readyz")
    assert answer.json == {"status": 503, "title": "Service Unavailable", "detail": "the store does not answer"}
    assert answer.headers["retry-after"] == "3"
    assert asgi.get(app, "/healthz").json == {"status": "ok"}


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_probes_are_answered_while_every_thread_waits_for_the_store(app: ASGIApp, path: str) -> None:
    async def crowded(scope: Scope, receive: Receive, send: Send) -> None:
        threads = anyio.to_thread.current_default_thread_limiter()
        for _ in range(int(threads.total_tokens)):
            threads.acquire_on_behalf_of_nowait(object())
        with anyio.fail_after(10):
            await app(scope, receive, send)

    assert asgi.get(crowded, path).status == 200


def count(operation: str, status: str) -> float:
    return prometheus_client.REGISTRY.get_sample_value("tes_requests_total", {"operation": operation, "status": status}) or 0


def test_every_operation_is_counted_by_status(app: ASGIApp, task_id: str) -> None:
    before = [count("GetTask", status) for status in ("200", "400", "404", "500")]
    for target in (task_id, f"{task_id}?view=x", "unknown", "breaks"):
        asgi.get(app, f"/v1/tasks/{target}")
    assert [count("GetTask", status) for status in ("200", "400", "404", "500")] == [value + 1 for value in before]
    shown = asgi.get(app, "/metrics")
    assert shown.headers["content-type"].startswith("text/plain")
    assert b'tes_request_seconds_count{operation="GetTask"}' in shown.body


FIGURES = """
from tes_server import telemetry
from tes_server.api import site
telemetry.REQUESTS.labels("GetTask", "200").inc()
print(site.figures().decode())
"""


def test_figures_of_all_processes_of_a_server(tmp_path: pathlib.Path) -> None:
    # prometheus_client looks at the variable when it is imported, so each of the two is a process of its own.
    environment = {**os.environ, metrics_files.VARIABLE: str(tmp_path)}
    shown = [subprocess.run([sys.executable, "-c", FIGURES], env=environment, check=True, capture_output=True, text=True).stdout for _ in range(2)]
    assert [f'tes_requests_total{{operation="GetTask",status="200"}} {count}' in text for count, text in zip(("1.0", "2.0"), shown, strict=True)] == [
        True,
        True,
    ]


def test_the_description_is_the_file_and_names_both_bases(app: ASGIApp) -> None:
    document = asgi.get(app, "/openapi.json").json
    assert document["openapi"] == "3.0.1"
    assert [server["url"] for server in document["servers"]] == list(application.BASE_PATHS)
    assert {operation["operationId"] for path in document["paths"].values() for operation in path.values()} == {
        "GetServiceInfo",
        "ListTasks",
        "CreateTask",
        "GetTask",
        "CancelTask",
    }


def test_the_documentation_loads_nothing_from_elsewhere(app: ASGIApp) -> None:
    page = asgi.get(app, "/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert b"//" not in page.body.replace(b"<!doctype html>", b"")
    for name in ("swagger-ui.css", "swagger-ui-bundle.js", "start.js"):
        assert f'"/docs/{name}"'.encode() in page.body
        assert asgi.get(app, f"/docs/{name}").status == 200
    assert asgi.get(app, "/docs/index.html").status == 404
    assert asgi.get(app, "/docs/..%2Findex.html").status == 404


def test_lifespan_closes_what_it_was_given() -> None:
    closed: list[str] = []
    app = application.build(MemoryService(), settings.Settings(), closing=[lambda: closed.append("store"), lambda: closed.append("log")])
    incoming: list[Message] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[Any] = []

    async def receive() -> Message:
        assert closed == []
        return incoming.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send))  # type: ignore[arg-type]  # ASGI says Awaitable
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert closed == ["store", "log"]


def test_the_first_request_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    app = application.build(MemoryService(), settings.Settings())
    assert msgspec.json.decode(asgi.get(app, "/v1/tasks").body) == {"tasks": []}
