"""A whole server and clients that mean it harm: slow ones, crowds of them, requests of any size, and what two parsers could read differently."""

from __future__ import annotations

import http.client
import json
import os
import pathlib
import re
import resource
import socket
import time
import urllib.parse
from collections.abc import Iterator

import pytest

from tests.acceptance import raw_clients
from tests.acceptance.raw_clients import CLOSE, CREATE, HEALTH, HOST
from tests.acceptance.server import Server, served

MOST = 1500
"""Connections that the server takes."""

BODY = 200_000

SETTINGS = f"""
[server]
head_timeout = 1.5
transfer_timeout = 1.5
idle_timeout = 3.0
connections = {MOST}
body_limit = {BODY}
"""

HONEST = 10.0
"""Seconds that an honest request may take among them; some milliseconds where nobody else keeps this machine busy."""

Address = tuple[str, int]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    site = tmp_path_factory.mktemp("hostile")
    (site / "settings.toml").write_text(SETTINGS)
    with served(site / "data", "--api-only", "--config", str(site / "settings.toml")) as running:
        assert running.ask("/healthz")[0] == 200  # `worker` is there
        yield running
        assert "Traceback" not in running.log.read_text()


@pytest.fixture
def address(server: Server) -> Address:
    parts = urllib.parse.urlsplit(server.url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def ended(address: Address) -> dict[str, int]:
    """Why the server ended connections, and how many of each."""
    text = raw_clients.exchange(address, [b"GET /metrics HTTP/1.1\r\n" + HOST + CLOSE]).decode()
    return {why: int(float(count)) for why, count in re.findall(r'tes_connections_ended_total\{why="(\w+)"\} (\S+)', text)}


def worker(server: Server) -> int:
    """The process that answers: the child of gunicorn, which is the child of `serve`."""
    pid = server.pid
    while children := pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        [pid] = map(int, children)
    return pid


KINDS = [
    ("silent", b"", b""),
    ("head", HEALTH + b"X: ", b"a"),
    ("body", CREATE + b"Content-Length: 9000\r\n\r\n", b" "),
    ("chunk", CREATE + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a"),
    ("unread", b"POST /v1/nothing HTTP/1.1\r\n" + HOST + b"Content-Length: 9000\r\n\r\n", b" "),
    ("idle", HEALTH + b"\r\n", b""),
    ("next", HEALTH + b"\r\nG", b"E"),
]


def test_slow_clients_are_ended_while_others_are_answered(address: Address) -> None:
    slow = raw_clients.crowd(address, KINDS, 30)
    began = time.monotonic()
    while not all(each.ended for each in slow):
        assert time.monotonic() < began + raw_clients.PATIENCE, {each.name for each in slow if not each.ended}
        assert raw_clients.asked(address) < HONEST
        for each in slow:
            each.step()
        time.sleep(0.1)
    answers: dict[str, set[int]] = {}
    for each in slow:
        each.plain.close()
        answers.setdefault(each.name, set()).add(raw_clients.status(each.got))
    assert answers == {"silent": {0}, "head": {408}, "body": {408}, "chunk": {408}, "unread": {404}, "idle": {200}, "next": {200}}


def test_an_answer_that_nobody_fetches_is_dropped(server: Server, address: Address) -> None:
    for _ in range(100):
        server.create({"image": "a", "command": ["b"]}, inputs=[{"path": "/in", "content": "x" * (BODY - 1000)}])
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(address)
        client.sendall(b"GET /v1/tasks?view=FULL HTTP/1.1\r\n" + HOST + b"\r\n")
        deadline = time.monotonic() + raw_clients.PATIENCE
        while not ended(address).get("answer"):
            assert time.monotonic() < deadline
            client.recv(1)  # a byte now and then is not enough
            time.sleep(0.2)


def test_ten_thousand_connections_keep_nobody_out(server: Server, address: Address) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    many = min(10_000, hard - 500)
    assert many > 2 * MOST
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, many + 500), hard))
    open_ones = []
    try:
        before = ended(address)
        for number in range(many):
            open_ones.append(socket.create_connection(address, timeout=raw_clients.PATIENCE))
            if number % 1000 == 0:
                assert raw_clients.asked(address) < HONEST
        assert raw_clients.asked(address) < HONEST
        after = ended(address)
        gone = {why: after[why] - before.get(why, 0) for why in after}
        assert gone["crowd"] > MOST
        assert gone["crowd"] + gone.get("head", 0) >= many - MOST
        assert _files(worker(server)) < MOST + 200
    finally:
        for each in open_ones:
            each.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_process_without_files_left_neither_dies_nor_spins(server: Server, address: Address) -> None:
    pid = worker(server)
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    open_now = _files(pid)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_now + 5, limits[1]))
    open_ones = [socket.create_connection(address, timeout=raw_clients.PATIENCE) for _ in range(100)]
    before = _processor(pid)
    time.sleep(0.5)
    assert _processor(pid) - before < 0.3
    for each in open_ones:
        each.close()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    deadline = time.monotonic() + raw_clients.PATIENCE
    while raw_clients.status(raw_clients.exchange(address, [HEALTH + CLOSE])) != 200:
        assert time.monotonic() < deadline
    assert worker(server) == pid


def _files(pid: int) -> int:
    """Files and sockets that a process has open."""
    return len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir()))


def _processor(pid: int) -> float:
    """Seconds of processor that a process has had."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


MEGABYTE = b"a" * 1_000_000
TASK = b'{"executors": [{"image": "a", "command": ["b"]}]}'


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([HEALTH, b"X: ", b"a" * 70_000, b"\r\n\r\n"], 431),
        ([HEALTH, b"X: ", *[MEGABYTE] * 20], 431),
        ([HEALTH, *(b"X%d: 1\r\n" % number for number in range(101)), b"\r\n"], 431),
        ([b"GET /", b"a" * 20_000, b" HTTP/1.1\r\n" + HOST + b"\r\n"], 414),
        ([b"GET /", *[MEGABYTE] * 20], 414),
        ([b"\r\n" * 500_000], 431),
        ([CREATE, b"Content-Length: 99999999999\r\nExpect: 100-continue\r\n", CLOSE], 413),
        ([CREATE, b"Content-Length: 99999999999\r\n\r\n", *[MEGABYTE] * 20], 413),
        ([CREATE, b"Transfer-Encoding: chunked\r\n\r\n", *[b"f4240\r\n", MEGABYTE, b"\r\n"] * 20], 413),
        ([CREATE, b"Transfer-Encoding: chunked\r\n\r\n1;", *[MEGABYTE] * 5], 400),
        ([CREATE, b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ", *[MEGABYTE] * 5], 400),
        ([CREATE, b"Transfer-Encoding: chunked\r\n\r\n186a0\r\n", TASK.ljust(100_000), b"\r\n0\r\nX: ", *[b"a" * 100_000] * 5], 400),
        ([CREATE, b"Content-Encoding: gzip\r\nContent-Length: 4\r\n", CLOSE, b"\x1f\x8b\x08\0"], 400),
    ],
)
def test_what_is_too_large_is_refused_before_it_is_read(address: Address, parts: list[bytes], status: int) -> None:
    answer = raw_clients.exchange(address, parts)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert raw_clients.status(answer) == status
    assert json.loads(body)["status"] == status
    assert b"\r\ncontent-type: application/json" in head.lower()


TWO = b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        CREATE + TWO,
        CREATE + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        CREATE + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
        CREATE + b"Content-Length: 2, 2\r\n\r\n{}",
        CREATE + b"Content-Length: +2\r\n\r\n{}",
        CREATE + b"Content-Length : 2\r\n\r\n{}",
        CREATE + b"Content-Length: 0x2\r\n\r\n{}",
        CREATE + b"Content-Length: 18446744073709551618\r\n\r\n{}",
        CREATE + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        CREATE + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        CREATE + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        CREATE + b"Transfer-Encoding: identity\r\n\r\n{}",
        CREATE.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        CREATE + b"Transfer-Encoding: chunked\r\n\r\n2\n{}\n0\n\n",
        CREATE + b"Transfer-Encoding: chunked\r\n\r\n2 \r\n{}\r\n0\r\n\r\n",
        CREATE + b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
        b"GET /healthz HTTP/1.1\nHost: localhost\n\n",
        HEALTH + b"X: y\nZ: 1\r\n\r\n",
        HEALTH + b"X: y\rZ: 1\r\n\r\n",
        HEALTH + b"X: y\r\n folded\r\n\r\n",
        HEALTH + b"X: y\0\r\n\r\n",
        HEALTH + b"X y: z\r\n\r\n",
        HEALTH + b": z\r\n\r\n",
        b"GET /healthz\r\n\r\n",
        b"GET /healthz HTTP/1.2\r\n" + HOST + b"\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT localhost:1 HTTP/1.1\r\n" + HOST + b"\r\n",
        bytes.fromhex("1603010200010001fc0303"),
    ],
)
def test_what_two_parsers_could_read_differently_is_refused(address: Address, request_: bytes) -> None:
    """And the connection ends: what follows on it is nobody's request."""
    answer = raw_clients.exchange(address, [request_ + HEALTH + b"\r\n"])
    assert raw_clients.status(answer) in (400, 501)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answer


@pytest.mark.parametrize(
    "request_",
    [
        (HEALTH + b"\r\n") * 1000,
        HEALTH + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n" + HEALTH + b"\r\n",
        HEALTH + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_of_a_pipeline_the_first_request_is_answered(address: Address, request_: bytes) -> None:
    answer = raw_clients.exchange(address, [request_])
    assert raw_clients.status(answer) == 200
    assert answer.count(b"HTTP/1.1 ") == 1


def test_trailers_are_no_headers(server: Server, address: Address) -> None:
    """A proxy may have looked at the headers alone."""
    body = json.dumps({"executors": [{"image": "a", "command": ["b"]}]}).encode()
    chunked = CREATE + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\nIdempotency-Key: k\r\n\r\n" % (len(body), body)
    ids = {raw_clients.exchange(address, [chunked]).rpartition(b"\r\n\r\n")[2] for _ in range(2)}
    assert len(ids) == 2


def test_connections_live_on_and_name_no_software(address: Address) -> None:
    connection = http.client.HTTPConnection(*address, timeout=raw_clients.PATIENCE)
    for path, status in (("/healthz", 200), ("/v1/tasks/nothing", 404), ("/ui", 200), ("/v1/service-info", 200)):
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "server" not in answer.headers
        assert "strict-transport-security" not in answer.headers
    connection.close()


def test_it_ends_in_time_with_slow_clients(tmp_path: pathlib.Path) -> None:
    with served(tmp_path / "data", "--api-only") as server:
        parts = urllib.parse.urlsplit(server.url)
        slow = raw_clients.crowd((str(parts.hostname), int(parts.port or 0)), KINDS, 3)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 30
        for each in slow:
            each.plain.close()
    assert "Traceback" not in server.log.read_text()
