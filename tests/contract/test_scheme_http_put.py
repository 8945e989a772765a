"""Outputs by PUT under the contract, and servers that refuse, break off and send us elsewhere."""

from __future__ import annotations

import contextlib
import os
import pathlib
import urllib.parse
from collections.abc import Iterator

import pytest

from tes_server import errors
from tes_server.filer import transfer, web_upload
from tes_server.filer.control import Control
from tes_server.filer.manifest import Access, Collected
from tes_server.model.task import FileType
from tes_server.plan.guard import Guard
from tes_server.plan.steps import Collect, StageOut
from tests.contract import scheme_contract, web_server
from tests.contract.scheme_contract import SECRET
from tests.contract.web_server import Answer, Request, WebServer
from tests.guards import LOOPBACK

ACCESS = Access(guard=LOOPBACK, uploads=("http", "https"), first_delay=0.001, longest_delay=0.01, tries=3, read_timeout=5)
DATA = os.urandom(3 * 1024 * 1024 + 17)


class TestWebWriter(scheme_contract.WriterContract):
    @pytest.fixture(autouse=True)
    def _server(self) -> Iterator[None]:
        self._made: list[web_upload.WebUploads] = []
        self.kept: dict[str, bytes] = {}
        with web_server.serving() as self.server:
            self.server.script = self._answer
            yield
            for made in self._made:
                made.close()

    def _answer(self, request: Request) -> Answer:
        path = urllib.parse.unquote(request.path)
        if path.startswith("/denied"):
            return Answer(403)
        self.kept[path] = request.body
        return Answer(201)

    def writer(self) -> web_upload.WebUploads:
        self._made.append(web_upload.WebUploads(ACCESS, self.control))
        return self._made[-1]

    def url(self) -> str:
        return f"{self.server.url}/out"

    def denied_url(self) -> str:
        return f"{self.server.url}/denied"

    def arrived(self) -> dict[str, bytes]:
        return {path.removeprefix("/out/"): data for path, data in self.kept.items()}


@pytest.fixture
def server() -> Iterator[WebServer]:
    with web_server.serving() as running:
        running.script = lambda _: Answer(200)
        yield running


def out(base: pathlib.Path, url: str, data: bytes | None, access: Access = ACCESS, kind: FileType = FileType.FILE) -> Collected:
    """A stage-out of one output; data of None is a directory with a file."""
    place = base / "volume" / "work" / "x"
    place.parent.mkdir(parents=True)
    if data is None:
        place.mkdir()
        (place / "y").write_bytes(b"y")
    else:
        place.write_bytes(data)
    step = StageOut(outputs=(Collect(path="/work/x", url=url, shown=url, type=kind, field="/outputs/0"),))
    return transfer.stage_out(step, base / "volume", access, lambda: False)


def put(base: pathlib.Path, url: str, data: bytes, access: Access = ACCESS) -> errors.StagingError | None:
    found = out(base, url, data, access)
    assert found.error is None or SECRET not in found.error.public
    return found.error


def test_a_url_is_sent_as_it_came(server: WebServer, tmp_path: pathlib.Path) -> None:
    """A signature covers it."""
    path = f"/bucket/a%2Fb+c%7E(1)?X-Amz-Signature={SECRET}%2B%3D&empty="
    assert put(tmp_path, server.url + path, DATA) is None
    [request] = server.requests
    assert (request.method, request.path, request.body) == ("PUT", path, DATA)
    assert request.headers["content-length"] == str(len(DATA))
    assert "content-type" not in request.headers
    assert "transfer-encoding" not in request.headers


def test_an_empty_file(server: WebServer, tmp_path: pathlib.Path) -> None:
    assert put(tmp_path, server.url + "/x", b"") is None
    assert (server.requests[0].body, server.requests[0].headers["content-length"]) == (b"", "0")


def test_a_directory_is_a_put_for_each_file(server: WebServer, tmp_path: pathlib.Path) -> None:
    assert out(tmp_path, server.url + "/d", None, kind=FileType.DIRECTORY).error is None
    assert server.paths() == ["/d/y"]


def test_a_directory_for_a_url_of_one_file(server: WebServer, tmp_path: pathlib.Path) -> None:
    error = out(tmp_path, server.url + "/d?sig=x", None).error
    assert error is not None
    assert "a url with a query names one" in error.public
    assert server.requests == []


def test_a_password_is_sent_and_not_shown(server: WebServer, tmp_path: pathlib.Path) -> None:
    server.script = lambda _: Answer(403)
    error = put(tmp_path, server.url.replace("//", f"//user:{SECRET}@") + "/x", b"x")
    assert error is not None
    assert error.code == "OUTPUT_DENIED"
    assert server.requests[0].headers["authorization"].startswith("Basic ")


@pytest.mark.parametrize(
    ("status", "code", "transient", "requests"),
    [(401, "OUTPUT_DENIED", False, 1), (404, "OUTPUT_ERROR", False, 1), (409, "OUTPUT_ERROR", False, 1), (302, "OUTPUT_ERROR", False, 1),
     (413, "OUTPUT_ERROR", False, 1), (507, "DISK_FULL", False, 1), (503, "OUTPUT_ERROR", True, 3), (429, "OUTPUT_ERROR", True, 3)],
)  # fmt: skip
def test_statuses(server: WebServer, tmp_path: pathlib.Path, status: int, code: str, transient: bool, requests: int) -> None:
    server.script = lambda _: Answer(status, b"", {"Location": "/elsewhere"})
    error = put(tmp_path, server.url + "/x", b"x")
    assert error is not None
    assert (error.code, error.transient, len(server.requests)) == (code, transient, requests)


def test_sent_again_after_a_passing_failure(server: WebServer, tmp_path: pathlib.Path) -> None:
    server.script = lambda request: [Answer(503), Answer(raw=b""), Answer(204)][min(request.number, 2)]
    assert put(tmp_path, server.url + "/x", DATA) is None
    assert [request.body for request in server.requests] == [DATA] * 3


@pytest.mark.parametrize("status", [307, 308])
def test_sent_to_where_a_redirect_leads(server: WebServer, tmp_path: pathlib.Path, status: int) -> None:
    server.script = lambda request: Answer(200) if request.path == "/there?a=1" else Answer(status, b"", {"Location": "/there?a=1"})
    assert put(tmp_path, server.url + "/here", DATA) is None
    assert server.requests[-1].body == DATA


def test_refused_before_the_body_was_read(server: WebServer, tmp_path: pathlib.Path) -> None:
    server.script = lambda _: Answer(403, b"<Code>AccessDenied</Code>", {"Connection": "close"}, unread=True)
    error = put(tmp_path, server.url + "/x", os.urandom(1 << 20) * 16)
    assert error is not None
    # The refusal may be lost with the connection; then nothing but its end can be told.
    assert error.code in ("OUTPUT_DENIED", "OUTPUT_ERROR")


def test_closed_networks(server: WebServer, tmp_path: pathlib.Path) -> None:
    error = put(tmp_path, server.url + "/x", b"x", Access(guard=Guard(), uploads=("http",)))
    assert error is not None
    assert error.code == "OUTPUT_DENIED"
    assert server.requests == []


def test_switched_off(server: WebServer, tmp_path: pathlib.Path) -> None:
    error = put(tmp_path, server.url + "/x", b"x", Access(guard=LOOPBACK, uploads=("https",)))
    assert error is not None
    assert error.code == "OUTPUT_DENIED"
    assert server.requests == []


def test_stopped_in_the_middle(server: WebServer, tmp_path: pathlib.Path) -> None:
    looks = iter(range(1000))
    control = Control(lambda: next(looks) > 3)
    uploads = web_upload.WebUploads(ACCESS, control)
    file = scheme_contract.local_file(tmp_path / "x", DATA * 10)
    with contextlib.closing(uploads), pytest.raises(errors.Canceled):
        uploads.target(server.url).put("x", file)
    control.end()
