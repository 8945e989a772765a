"""The client of the benchmarks: a task that does not end as it should is not counted as done."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from benchmarks import memory, noop, server


@pytest.fixture
def states(httpserver: HTTPServer) -> list[str]:
    """What each GET of a task answers next; the last one stays."""
    answers: list[str] = []

    def answer(_: Any) -> Any:
        from werkzeug import Response

        state = answers.pop(0) if len(answers) > 1 else answers[0]
        return Response(f'{{"id": "a", "state": "{state}", "logs": []}}', content_type="application/json")

    httpserver.expect_request("/v1/tasks", method="POST").respond_with_json({"id": "a"})
    httpserver.expect_request("/v1/tasks/a").respond_with_handler(answer)
    return answers


@pytest.fixture
def client(httpserver: HTTPServer) -> server.Server:
    with subprocess.Popen(["true"], text=True) as nobody:
        return server.Server(nobody, httpserver.port)


def test_all_tasks_are_seen_to_their_end(client: server.Server, states: list[str]) -> None:
    states += ["QUEUED", "RUNNING", "COMPLETE"]
    assert noop.through(client, "host", 3) > 0
    assert states == ["COMPLETE"]


def test_a_task_that_fails_ends_the_benchmark(client: server.Server, states: list[str]) -> None:
    states += ["RUNNING", "EXECUTOR_ERROR"]
    with pytest.raises(SystemExit, match="a ended with EXECUTOR_ERROR"):
        noop.through(client, "host", 1)


def test_a_refusal_ends_the_benchmark(client: server.Server, httpserver: HTTPServer) -> None:
    httpserver.expect_request("/v1/tasks/b").respond_with_data("no such task", status=404)
    with pytest.raises(SystemExit, match="404: no such task"):
        client.state("b")


def test_a_connection_that_was_idle_is_opened_anew(client: server.Server, states: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    states += ["QUEUED"]
    assert client.state("a") == "QUEUED"
    monkeypatch.setattr(server, "IDLE", -1.0)
    assert client.state("a") == "QUEUED"


def test_memory_is_that_of_the_processes() -> None:
    one = memory.pss([os.getpid()])
    assert one > 1
    assert memory.pss([os.getpid()] * 2) > 1.5 * one
