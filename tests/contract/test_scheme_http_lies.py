"""Web servers that lie, stall, or speak no HTTP: the file is right, or there is an error, soon and in words."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import ipaddress
import itertools
import os
import pathlib
import threading
import time
from collections.abc import Iterator

import pytest

from tes_server import errors
from tes_server.filer import transfer
from tes_server.filer.control import Control
from tes_server.filer.manifest import Access
from tes_server.plan import guard
from tes_server.plan.steps import Fetch, StageIn
from tests.contract import web_server
from tests.contract.test_scheme_http import ACCESS, DATA, get, refused
from tests.contract.web_server import Answer, Request, WebServer, ranged
from tests.guards import LOOPBACK


@pytest.fixture
def server() -> Iterator[WebServer]:
    with web_server.serving() as running:
        yield running


def chunked(data: bytes, *, last: bytes = b"0\r\n\r\n") -> bytes:
    pieces = [data[start : start + 70_000] for start in range(0, len(data), 70_000)]
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + last


# -- what is no HTTP, or hardly -------------------------------------------------------------------------------------

GARBAGE = {
    "nothing": b"",
    "no status": b"HTTP/1.1\r\n\r\n",
    "words for a status": b"HTTP/1.1 fine OK\r\n\r\n",
    "a status beyond all": b"HTTP/1.1 99999 OK\r\n\r\n",
    "another protocol": b"220 welcome to ftp\r\n",
    "bytes": os.urandom(1000),
    "a huge header": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
    "a chunk of no size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nwhat\r\n",
    "a chunk that ends early": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nxx",
    "chunks without an end": chunked(b"x" * 100_000, last=b""),
    "cut in the headers": b"HTTP/1.1 200 OK\r\nContent-Le",
}


@pytest.mark.parametrize("raw", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_is_tried_again_and_then_an_error(server: WebServer, raw: bytes) -> None:
    server.script = lambda request: Answer(raw=raw) if request.number == 0 else ranged(b"yes", request)
    assert get(server.url) == b"yes"
    server.requests.clear()
    server.script = lambda _: Answer(raw=raw)
    error = refused(server.url)
    assert (error.code, error.transient, len(server.requests)) == ("INPUT_ERROR", True, ACCESS.tries)


@pytest.mark.parametrize("length", ["abc", "-5", "9" * 5000, "1e3", "\u0665", ""])
def test_a_length_that_is_none(server: WebServer, length: str) -> None:
    """Nothing is known of the length then; what comes until the end of the connection is the file."""
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n".encode()
    server.script = lambda _: Answer(raw=head + b"bytes")
    assert get(server.url) == b"bytes"


@pytest.mark.parametrize("stated", ["bytes 0-9/" + "9" * 5000, "bytes \u0660-\u0669/10", "bytes 0-9/10, 20-29/40", "bytes=0-9/10"])
def test_a_range_that_is_none(server: WebServer, stated: str) -> None:
    head = f"HTTP/1.1 206 Partial\r\nContent-Length: 10\r\nContent-Range: {stated}\r\nConnection: close\r\n\r\n".encode()
    server.script = lambda request: Answer(200, b"whole") if request.span is None else Answer(raw=head + b"0123456789")
    assert get(server.url) == b"whole"


def test_chunks_without_a_length(server: WebServer) -> None:
    server.script = lambda _: Answer(raw=chunked(DATA))
    assert get(server.url) == DATA


def test_a_longer_body_than_its_length(server: WebServer) -> None:
    server.script = lambda _: Answer(200, DATA, {"Connection": "close"}, length=1000)
    assert get(server.url) == DATA[:1000]


def test_bytes_are_kept_as_they_are_sent(server: WebServer) -> None:
    """We ask for no encoding. What comes with one is a compressed file more often than a compressing server."""
    packed = gzip.compress(DATA)
    server.script = lambda request: (answer := ranged(packed, request))._replace(headers={**answer.headers, "Content-Encoding": "gzip"})
    assert get(server.url) == packed
    assert {request.headers["accept-encoding"] for request in server.requests} == {"identity"}


@pytest.mark.parametrize("after", ["999999999999", "9" * 5000, "-1", "1e9", "inf", "nan", "Fri, 31 Dec 9999 23:59:59 GMT", "soon"])
def test_an_absurd_wish_to_wait(server: WebServer, after: str) -> None:
    server.script = lambda request: Answer(503, b"", {"Retry-After": after}) if request.number == 0 else ranged(b"yes", request)
    began = time.monotonic()
    assert get(server.url) == b"yes"
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("status", [100, 101, 201, 207, 300, 304, 305, 399, 418, 451, 600, 999])
def test_statuses_that_make_no_sense(server: WebServer, status: int) -> None:
    """100 is passed over by the library, as it should be, and then nothing comes."""
    server.script = lambda _: Answer(raw=f"HTTP/1.1 {status} \r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
    error = refused(server.url)
    assert error.code == "INPUT_ERROR"


def test_the_reason_of_a_refusal_and_nothing_else_of_its_words(server: WebServer) -> None:
    words = b"<?xml?><Error><Code>ExpiredToken</Code><Message>hunter2</Message><Token>hunter2</Token></Error>"
    server.script = lambda _: Answer(403, words)
    assert refused(f"{server.url}/x?sig=hunter2").public == "the server answered 403 (Forbidden): ExpiredToken"


# -- endless and slow -----------------------------------------------------------------------------------------------


def endless() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    yield from itertools.repeat(b"x" * 100_000)


def drip() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"
    for _ in range(1000):
        time.sleep(0.01)
        yield b"x"


def hundreds() -> Iterator[bytes]:
    yield from itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


@pytest.mark.parametrize("body", [endless, drip, hundreds])
def test_what_never_ends_can_be_stopped(server: WebServer, tmp_path: pathlib.Path, body: object) -> None:
    server.script = lambda _: Answer(raw=body())  # type: ignore[operator]
    (tmp_path / "volume").mkdir()
    step = StageIn(directories=(), inputs=(Fetch(path="/work/x", url=server.url, field="/inputs/0"),))
    asked = time.monotonic()

    def stopped() -> bool:
        return bool(server.requests) and time.monotonic() - asked > 0.3

    with pytest.raises(errors.Canceled):
        transfer.stage_in(step, tmp_path / "volume", ACCESS, stopped)
    assert time.monotonic() - asked < 3


def test_a_server_that_says_nothing_is_given_up(server: WebServer) -> None:
    silence = threading.Event()
    server.script = lambda _: Answer(200, b"", length=10, hold=silence)
    try:
        error = refused(server.url, Access(guard=LOOPBACK, tries=2, first_delay=0.001, read_timeout=0.1))
    finally:
        silence.set()
    assert (error.public, error.transient) == ("the server did not answer in time, 2 times in a row", True)


# -- checksums ------------------------------------------------------------------------------------------------------


def sums(data: bytes) -> dict[str, tuple[str, str]]:
    md5, sha = base64.b64encode(hashlib.md5(data).digest()).decode(), base64.b64encode(hashlib.sha256(data).digest()).decode()
    strong = base64.b64encode(hashlib.sha512(data).digest()).decode()
    return {
        "Content-MD5": ("Content-MD5", md5),
        "Digest": ("Digest", f"adler32=03da0195, SHA-256={sha}"),
        "Digest MD5": ("Digest", f"MD5={md5}"),
        "Repr-Digest": ("Repr-Digest", f"crc32c=:AAAAAA==:, sha-512=:{strong}:, sha-256=:{sha}:"),
    }


@pytest.mark.parametrize("kind", sums(b""))
def test_checksums(server: WebServer, kind: str) -> None:
    name, value = sums(DATA)[kind]
    server.script = lambda _: Answer(200, DATA, {name: value})
    assert get(server.url) == DATA
    server.script = lambda _: Answer(200, DATA[:-1] + b"x", {name: value})
    error = refused(server.url)
    assert (error.code, error.transient) == ("INPUT_ERROR", True)
    assert "checksum that its server states" in error.public


@pytest.mark.parametrize("kind", ["Digest", "Repr-Digest"])
def test_checksums_of_a_file_in_parts(server: WebServer, kind: str) -> None:
    name, value = sums(DATA)[kind]

    def honest(request: Request, data: bytes = DATA) -> Answer:
        answer = ranged(data, request)
        return answer._replace(headers={**answer.headers, name: value})

    server.script = honest
    assert get(server.url) == DATA
    server.script = lambda request: honest(request, DATA[:-1] + b"x")
    assert "checksum" in refused(server.url).public


def test_a_checksum_of_one_part_says_nothing_of_the_file(server: WebServer) -> None:
    def honest(request: Request) -> Answer:
        answer = ranged(DATA, request)
        return answer._replace(headers={**answer.headers, "Content-MD5": sums(answer.body)["Content-MD5"][1]})

    server.script = honest
    assert get(server.url) == DATA


@pytest.mark.parametrize(
    "stated", [{"Content-MD5": "what"}, {"Content-MD5": "AAAA"}, {"Digest": "sha-256"}, {"Repr-Digest": "sha-256=:!:, x"}, {"Digest": "UNIXsum=1"}]
)
def test_checksums_that_are_none(server: WebServer, stated: dict[str, str]) -> None:
    server.script = lambda _: Answer(200, b"data", stated)
    assert get(server.url) == b"data"


# -- sent elsewhere -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def two(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[WebServer, WebServer]]:
    """A server elsewhere, and one on what stands for this machine's loopback."""
    monkeypatch.setattr(guard, "OWN", (ipaddress.ip_network("127.0.0.2/32"),))
    with web_server.serving() as elsewhere, web_server.serving(host="127.0.0.2") as own:
        own.script = lambda request: ranged(b"secret", request)
        yield elsewhere, own


def test_a_redirect_from_elsewhere_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with two(monkeypatch) as (elsewhere, own):
        elsewhere.script = lambda _: Answer(302, b"", {"Location": own.url})
        assert refused(elsewhere.url).code == "INPUT_DENIED"
        assert own.requests == []


def test_a_redirect_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with two(monkeypatch) as (_, own):
        own.script = lambda request: ranged(b"there", request) if request.path == "/there" else Answer(302, b"", {"Location": "/there"})
        assert get(own.url + "/here") == b"there"


def test_a_redirect_out_and_back_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with two(monkeypatch) as (elsewhere, own):
        elsewhere.script = lambda _: Answer(302, b"", {"Location": own.url + "/secret"})
        own.script = lambda request: ranged(b"secret", request) if request.path == "/secret" else Answer(302, b"", {"Location": elsewhere.url})
        assert refused(own.url).code == "INPUT_DENIED"
        assert own.paths() == ["/"]


def test_the_step_ends_with_its_control(server: WebServer) -> None:
    control = Control(lambda: False)
    control.end()
    with pytest.raises(errors.Canceled):
        get(server.url, ACCESS, control)
