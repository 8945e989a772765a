"""The API over real HTTP: what in-process tests cannot see, because a server stands between."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration import api_server
from tests.integration.api_server import BODY_LIMIT
from tests.unit.api.service import TASK


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    with api_server.running() as address:
        yield address


def exchange(address: tuple[str, int], method: str, target: str, **options: Any) -> tuple[int, bytes, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection(*address, timeout=10)
    try:
        connection.request(method, target, **options)
        response = connection.getresponse()
        return response.status, response.read(), response.headers
    finally:
        connection.close()


def raw(address: tuple[str, int], request: bytes) -> bytes:
    """Everything that comes back for these bytes until the server closes."""
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(65536), b""))


def test_create_get_cancel(address: tuple[str, int]) -> None:
    task_id = json.loads(exchange(address, "POST", "/v1/tasks", body=TASK)[1])["id"]
    assert json.loads(exchange(address, "GET", f"/v1/tasks/{task_id}")[1]) == {"id": task_id, "state": "QUEUED"}
    for separator in (":", "%3A"):
        assert exchange(address, "POST", f"/v1/tasks/{task_id}{separator}cancel")[:2] == (200, b"{}")
    assert json.loads(exchange(address, "GET", f"/v1/tasks/{task_id}/")[1])["state"] == "CANCELED"


def test_a_chunked_body(address: tuple[str, int]) -> None:
    parts = (TASK[index : index + 7] for index in range(0, len(TASK), 7))
    assert exchange(address, "POST", "/v1/tasks", body=parts, encode_chunked=True, headers={"Transfer-Encoding": "chunked"})[0] == 200


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_over_the_limit_is_answered_and_the_connection_lives_on(address: tuple[str, int], chunked: bool) -> None:
    body = b" " * (3 * BODY_LIMIT)
    connection = http.client.HTTPConnection(*address, timeout=10)
    if chunked:
        connection.request("POST", "/v1/tasks", body=iter([body]), encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
    else:
        connection.request("POST", "/v1/tasks", body=body)
    response = connection.getresponse()
    assert (response.status, response.headers["content-type"], json.loads(response.read())["status"]) == (413, "application/json", 413)
    connection.request("GET", "/healthz")
    assert connection.getresponse().read() == b'{"status":"ok"}'
    connection.close()


def test_head_has_the_length_and_no_body(address: tuple[str, int]) -> None:
    status, body, headers = exchange(address, "HEAD", "/v1/service-info")
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) == len(exchange(address, "GET", "/v1/service-info")[1])


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /v1/tasks HTTP/1.0\r\n\r\n", b"403"),
        (b"GET /v1/tasks HTTP/1.1\r\nConnection: close\r\n\r\n", b"403"),
        (b"GET /v1/tasks HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"403"),
        (b"GET http://evil.example/v1/tasks HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", b"403"),
        (b"GET /healthz HTTP/1.0\r\n\r\n", b"200"),
        (b"GET /v1/tasks?name_prefix=\xc3\xa9 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"400"),
        (b"GET /ui?name_prefix=%c3%a9%ff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"200"),
        (b"GET /v1/tasks/%ff%fe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"404"),
        (b"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n", b"400"),
        (b"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nConnection: close\r\n\r\nfalse", b"400"),
    ],
)
def test_requests_that_no_library_sends(address: tuple[str, int], request_: bytes, status: bytes) -> None:
    assert raw(address, request_).split(b" ", 2)[1] == status


def test_a_client_that_says_no_more_has_its_answer(address: tuple[str, int]) -> None:
    """A shutdown of its half of the connection is no end of its request (RFC 9112, 9.6)."""
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(b"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(TASK), TASK))
        client.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer
