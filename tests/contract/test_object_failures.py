"""What goes wrong with object stores: each has its code and words, what was begun is gone on with or taken back, no secret is told."""

from __future__ import annotations

import contextlib
import functools
import http.server
import itertools
import os
import pathlib
import socket
import socketserver
import threading
import urllib.parse
from collections.abc import Callable, Iterator

import msgspec
import pytest

from tes_server import errors
from tes_server.filer import objects, store_check
from tes_server.filer.control import Control
from tes_server.filer.manifest import Access, Storage
from tes_server.filer.wording import INPUT, OUTPUT, Side, failure
from tes_server.plan import objects as urls
from tests.contract import object_servers
from tests.contract.object_servers import S3, Server
from tests.contract.scheme_contract import SECRET, fetched, local_file

MIB = 1024 * 1024


def never() -> bool:
    return False


def opened(store: Storage, control: Control) -> objects.Objects:
    access = Access(stores=(store,), part_bytes=8 * MIB, first_delay=0.001, longest_delay=0.01, tries=3, connect_timeout=5, read_timeout=5)
    return objects.Objects(access, control)


def read(store: Storage, url: str) -> bytes:
    control = Control(never)
    [file] = opened(store, control).source(url)
    assert isinstance(file, objects.ObjectFile)
    return fetched(file, control)


# -- answers of a store --------------------------------------------------------------------------------------------


class Answering(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """A store that answers every request in the same way."""

    daemon_threads = True
    block_on_close = True
    status = 200
    body = b""
    asked = 0


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Answering

    def do_GET(self) -> None:
        self.server.asked += 1
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.server.body)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815 - the library's names

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[Answering]:
    monkeypatch.setenv("TEST_KEY", "AKIAEXAMPLE")
    monkeypatch.setenv("TEST_SECRET", SECRET)
    server = Answering(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def settings(server: Answering) -> Storage:
    port = server.socket.getsockname()[1]
    given = {"url": "s3://bucket", "write": True, "endpoint": f"http://127.0.0.1:{port}", "key_variable": "TEST_KEY", "secret_variable": "TEST_SECRET"}
    return msgspec.convert(given, Storage)


def xml(code: str, more: str = "") -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>for {SECRET}</Message>{more}</Error>".encode()


@pytest.mark.parametrize(
    ("status", "body", "code", "words"),
    [
        (403, xml("AccessDenied"), "INPUT_DENIED", "used: the environment variables TEST_KEY, TEST_SECRET"),
        (403, xml("InvalidObjectState"), "INPUT_ARCHIVED", "restore-object"),
        (403, xml("SignatureDoesNotMatch"), "STORAGE_CREDENTIALS", "TEST_SECRET"),
        (400, xml("ExpiredToken"), "STORAGE_CREDENTIALS", "expired"),
        (401, b"", "STORAGE_CREDENTIALS", "TEST_KEY"),
        (404, xml("NoSuchKey"), "INPUT_NOT_FOUND", "no such object"),
        (404, xml("NoSuchBucket"), "STORAGE_NOT_FOUND", "no such bucket"),
        (400, xml("AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>"), "STORAGE_REGION", "region eu-west-1"),
        (301, xml("PermanentRedirect"), "STORAGE_REGION", "another region"),
        (403, xml("UserProjectMissing"), "STORAGE_REQUESTER_PAYS", "requester_pays"),
        (400, xml("Whatever"), "INPUT_ERROR", "400 (Whatever)"),
    ],
)
def test_inputs(answering: Answering, status: int, body: bytes, code: str, words: str) -> None:
    answering.status, answering.body = status, body
    error = told(lambda: read(settings(answering), "s3://bucket/x"), INPUT)
    assert (error.code, error.transient, words in error.public) == (code, False, True), error.public
    assert SECRET not in error.public


@pytest.mark.parametrize(
    ("status", "body", "code", "words"),
    [
        (403, xml("AccessDenied"), "OUTPUT_DENIED", "403 (AccessDenied)"),
        (400, xml("EntityTooLarge"), "OUTPUT_TOO_LARGE", "too large"),
        (413, xml("RequestBodyTooLarge"), "OUTPUT_TOO_LARGE", "too large"),
        (400, xml("XMinioStorageFull"), "DISK_FULL", "the store is full"),
        (404, xml("NoSuchBucket"), "STORAGE_NOT_FOUND", "no such bucket"),
    ],
)
def test_outputs(answering: Answering, tmp_path: pathlib.Path, status: int, body: bytes, code: str, words: str) -> None:
    answering.status, answering.body = status, body
    target = opened(settings(answering), Control(never)).target("s3://bucket/x")
    error = told(lambda: target.put("y", local_file(tmp_path / "y", b"y")), OUTPUT)
    assert (error.code, error.transient, words in error.public) == (code, False, True), error.public
    assert SECRET not in error.public


def test_a_store_that_is_busy_is_asked_again(answering: Answering) -> None:
    answering.status, answering.body = 503, xml("SlowDown")
    error = told(lambda: read(settings(answering), "s3://bucket/x"), INPUT)
    assert (error.code, error.transient) == ("INPUT_ERROR", True)
    assert answering.asked >= 3


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    store = Storage(url="s3://bucket", endpoint=f"http://127.0.0.1:{port}", credentials="anonymous")
    error = told(lambda: read(store, "s3://bucket/x"), INPUT)
    assert (error.code, error.transient, "cannot be reached" in error.public) == ("INPUT_ERROR", True, True), error.public


def test_a_variable_that_is_not_set() -> None:
    store = Storage(url="s3://bucket", endpoint="http://127.0.0.1:1", key_variable="TEST_NO_SUCH", secret_variable="TEST_NO_SUCH")
    error = told(lambda: read(store, "s3://bucket/x"), INPUT)
    assert (error.code, "TEST_NO_SUCH is not set" in error.public) == ("STORAGE_CREDENTIALS", True)


@pytest.mark.parametrize(
    ("store", "secret", "words"),
    [
        (Storage(url="s3://bucket", key_variable="TEST_KEY", secret_variable="TEST_KEY"), "secret\n", "TEST_KEY holds a line break"),
        (Storage(url="az://account/container", secret_variable="TEST_KEY"), "no base64!", "TEST_KEY: missing or malformed"),
        (Storage(url="gs://bucket", file="/no/such/file.json"), "x", "file of the settings: missing or malformed"),
    ],
)
def test_credentials_that_cannot_be(monkeypatch: pytest.MonkeyPatch, store: Storage, secret: str, words: str) -> None:
    monkeypatch.setenv("TEST_KEY", secret)
    error = told(lambda: store_check.credentials(store, Access(stores=(store,))), INPUT)
    assert (error.code, words in error.public, secret.strip() in error.public and secret != "x") == ("STORAGE_CREDENTIALS", True, False), error.public


def test_an_endpoint_of_the_environment_may_be_plain_http(answering: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{answering.server_port}")
    answering.status, answering.body = 403, b"<Error><Code>AccessDenied</Code></Error>"
    error = told(lambda: read(Storage(url="s3://bucket", credentials="anonymous"), "s3://bucket/x"), INPUT)
    assert (error.code, answering.asked > 0) == ("INPUT_DENIED", True), error.public


def told(work: Callable[[], object], side: Side) -> errors.StagingError:
    with pytest.raises((errors.StagingError, OSError)) as caught:
        work()
    assert isinstance(caught.value, errors.StagingError | OSError)
    return failure(caught.value, side, "/inputs/0", "")


# -- real servers --------------------------------------------------------------------------------------------------


@pytest.fixture(
    params=[pytest.param(object_servers.s3, id="s3", marks=pytest.mark.s3), pytest.param(object_servers.azurite, id="azurite", marks=pytest.mark.azurite)]
)
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with request.param() as made:
        for name, value in made.variables.items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.mark.azurite
def test_archived_blobs(monkeypatch: pytest.MonkeyPatch) -> None:
    with object_servers.azurite() as server:
        monkeypatch.setenv("TEST_AZURE_KEY", object_servers.AZURITE_KEY)
        server.put("ice", b"x")
        server.client.get_blob_client("ice").set_standard_blob_tier("Archive")
        error = told(lambda: read(server.settings, f"{server.url}/ice"), INPUT)
        assert (error.code, error.transient, "set its tier to Hot or Cool" in error.public) == ("INPUT_ARCHIVED", False, True), error.public


def test_no_such_bucket(server: Server) -> None:
    whole = "s3://" if isinstance(server, S3) else f"az://{object_servers.ACCOUNT}"
    store = msgspec.structs.replace(server.settings, url=whole)
    error = told(lambda: read(store, f"{server.url}-not/x"), INPUT)
    assert error.code == "STORAGE_NOT_FOUND", error.public


def test_wrong_keys(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.put("x", b"x")
    name = server.settings.secret_variable
    wrong = "d3Jvbmcga2V5IHdyb25nIGtleSB3cm9uZyBrZXkgd3JvbmcgIQ=="
    monkeypatch.setenv("TEST_WRONG", wrong)
    store = msgspec.structs.replace(server.settings, secret_variable="TEST_WRONG")
    error = told(lambda: read(store, f"{server.url}/x"), INPUT)
    # Azurite says AuthorizationFailure, which Azure says of networks that may not.
    code = "STORAGE_CREDENTIALS" if isinstance(server, S3) else "INPUT_DENIED"
    assert (error.code, "TEST_WRONG" in error.public, name in error.public) == (code, True, False), error.public
    assert wrong not in error.public


def test_a_look_at_the_settings_before_any_task(server: Server) -> None:
    assert store_check.ask(server.settings, Access(stores=(server.settings,))) == "answers, may be written to"
    place = urls.place_of(server.url)
    assert place is not None
    elsewhere = msgspec.structs.replace(server.settings, url=f"{server.url}-not")
    error = told(lambda: store_check.ask(elsewhere, Access(stores=(elsewhere,))), INPUT)
    assert error.code == "STORAGE_NOT_FOUND", error.public
    whole = msgspec.structs.replace(server.settings, url=f"{place.kind}://")
    assert store_check.ask(whole, Access(stores=(whole,))) == "not asked: no bucket is named"
    for store in (server.settings, whole):
        unset = msgspec.structs.replace(store, secret_variable="TEST_NO_SUCH")
        error = told(functools.partial(store_check.ask, unset, Access(stores=(unset,))), INPUT)
        assert (error.code, "TEST_NO_SUCH is not set" in error.public) == ("STORAGE_CREDENTIALS", True), error.public


@pytest.mark.parametrize("size", [10_000, 20 * MIB])
def test_full_disk(server: Server, size: int) -> None:
    server.put("x", bytes(size))
    control = Control(never)
    [file] = opened(server.settings, control).source(f"{server.url}/x")
    assert isinstance(file, objects.ObjectFile)
    with pathlib.Path("/dev/full").open("wb") as full:
        error = told(lambda: file.fill(full.fileno(), control), INPUT)
    assert error.code == "DISK_FULL"


@pytest.mark.parametrize("size", [10_000, 20 * MIB])
def test_changed_under_way(server: Server, size: int) -> None:
    server.put("x", b"a" * size)
    control = Control(never)
    [file] = opened(server.settings, control).source(f"{server.url}/x")
    assert isinstance(file, objects.ObjectFile)
    server.put("x", b"b" * (size + (1 if size < MIB else 0)))  # a large one is known by its ETag, of whatever size
    error = told(lambda: fetched(file, control), INPUT)
    assert (error.code, error.transient, "was changed" in error.public) == ("INPUT_ERROR", True, True), error.public


def test_a_stopped_upload_is_taken_back(server: Server, tmp_path: pathlib.Path) -> None:
    """S3 keeps parts, which cost money, until they are aborted; Azure forgets blocks by itself, after a week."""
    looks = itertools.count()
    target = opened(server.settings, Control(lambda: next(looks) > 10)).target(f"{server.url}/unfinished")
    with pytest.raises(errors.Canceled):
        target.put("large", local_file(tmp_path / "large", bytes(64 * MIB)))
    assert server.objects("unfinished") == {}
    if isinstance(server, S3):
        assert server.unfinished() == []


def test_a_file_that_grows_is_no_object(server: Server, tmp_path: pathlib.Path) -> None:
    file = local_file(tmp_path / "large", bytes(20 * MIB))
    looks = itertools.count()

    def stopped() -> bool:
        if next(looks) == 2:
            with (tmp_path / "large").open("ab") as more:
                more.write(b"x")
        return False

    target = opened(server.settings, Control(stopped)).target(f"{server.url}/unfinished")
    error = told(lambda: target.put("large", file), OUTPUT)
    assert (error.code, error.transient, "was changed" in error.public) == ("OUTPUT_ERROR", True, True), error.public
    assert server.objects("unfinished") == {}
    if isinstance(server, S3):
        assert server.unfinished() == []


# -- connections that break ----------------------------------------------------------------------------------------


class Cutting(socketserver.ThreadingTCPServer):
    """In front of a server: every connection ends after `after` bytes of answers."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, server: str, after: int) -> None:
        parts = urllib.parse.urlsplit(server)
        self.behind = (parts.hostname or "", parts.port or 80)
        self.after = after
        self.passed = 0
        super().__init__(("127.0.0.1", 0), _Cut)


class _Cut(socketserver.BaseRequestHandler):
    server: Cutting

    def handle(self) -> None:
        with socket.create_connection(self.server.behind) as behind:
            asking = threading.Thread(target=self._ask, args=(behind,), daemon=True)
            asking.start()
            left = self.server.after
            with contextlib.suppress(OSError):
                while left and (data := behind.recv(min(65536, left))):
                    left -= len(data)
                    self.server.passed += len(data)
                    self.request.sendall(data)
            for end in (behind, self.request):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            asking.join()

    def _ask(self, behind: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := self.request.recv(65536):
                behind.sendall(data)


@contextlib.contextmanager
def cutting(server: str, after: int) -> Iterator[Cutting]:
    proxy = Cutting(server, after)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()


def test_downloads_go_on_where_they_broke(server: Server) -> None:
    data = os.urandom(20 * MIB + 7)
    server.put("large", data)
    parts = urllib.parse.urlsplit(server.settings.endpoint)
    with cutting(server.settings.endpoint, 3 * MIB) as proxy:
        endpoint = parts._replace(netloc="{}:{}".format(*proxy.server_address)).geturl()
        assert read(msgspec.structs.replace(server.settings, endpoint=endpoint), f"{server.url}/large") == data
        assert proxy.passed < 1.5 * len(data)
