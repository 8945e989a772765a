"""The schemes `http` and `https` under the contract, and servers that lie, break off, redirect and stall."""

from __future__ import annotations

import os
import pathlib
import shutil
import ssl
import subprocess
import threading
import urllib.parse
from collections.abc import Callable, Iterator

import pytest

from tes_server import errors
from tes_server.filer import web, web_request
from tes_server.filer.control import Control
from tes_server.filer.manifest import Access
from tes_server.plan.guard import Guard
from tests.contract import scheme_contract, web_server
from tests.contract.scheme_contract import SECRET, fetched
from tests.contract.web_server import Answer, Request, WebServer, ranged
from tests.guards import LOOPBACK

ACCESS = Access(guard=LOOPBACK, part_bytes=1024 * 1024, first_delay=0.001, longest_delay=0.01, tries=3, connect_timeout=5, read_timeout=5)
DATA = os.urandom(3 * 1024 * 1024 + 17)


class TestWebReader(scheme_contract.ReaderContract):
    @pytest.fixture(autouse=True)
    def _server(self) -> Iterator[None]:
        self._made: list[web.Web] = []
        with web_server.serving() as self.server:
            self.contents: dict[str, bytes] = {}
            self.server.script = self._answer
            yield
            for made in self._made:
                made.close()

    def _answer(self, request: Request) -> Answer:
        name = urllib.parse.unquote(urllib.parse.urlsplit(request.path).path)
        if name == "/denied":
            return Answer(403)
        return ranged(self.contents[name], request) if name in self.contents else Answer(404)

    def publish(self, name: str, data: bytes) -> str:
        self.contents["/" + name] = data
        return f"{self.server.url}/{urllib.parse.quote(name)}"

    def publish_denied(self) -> str:
        return f"{self.server.url.replace('//', f'//user:{SECRET}@')}/denied?signature={SECRET}"

    def reader(self, control: Control) -> web.Web:
        self._made.append(web.Web(ACCESS, control))
        return self._made[-1]


@pytest.fixture
def server() -> Iterator[WebServer]:
    with web_server.serving() as running:
        yield running


def get(url: str, access: Access = ACCESS, control: Control | None = None) -> bytes:
    control = control or Control(lambda: False)
    reader = web.Web(access, control)
    try:
        [file] = reader.source(url)
        return fetched(file, control)
    finally:
        reader.close()


def refused(url: str, access: Access = ACCESS) -> errors.StagingError:
    with pytest.raises(errors.StagingError) as caught:
        get(url, access)
    assert SECRET not in caught.value.public
    return caught.value


# -- ranges --------------------------------------------------------------------------------------------------------


def test_large_file_comes_in_parts(server: WebServer) -> None:
    server.script = lambda request: ranged(DATA, request)
    assert get(server.url) == DATA
    assert sorted(request.span or (-1, None) for request in server.requests) == [
        (0, 1048575), (1048576, 2097151), (2097152, 3145727), (3145728, 3145744),
    ]  # fmt: skip


def test_parts_may_be_shorter_than_asked_for(server: WebServer) -> None:
    def stingy(request: Request) -> Answer:
        first, last = request.span or (0, 0)
        return ranged(DATA, request._replace(headers={"range": f"bytes={first}-{min(last or 0, first + 700_000)}"}))

    server.script = stingy
    assert get(server.url) == DATA


def test_server_without_ranges(server: WebServer) -> None:
    server.script = lambda _: Answer(200, DATA)
    assert get(server.url) == DATA
    assert len(server.requests) == 1


@pytest.mark.parametrize("stated", ["bytes 5-1048580/3145745", "bytes */3145745", "bytes 0-1048575/*", "items 0-1/2", "bytes 9-2/10", None])
def test_range_that_is_not_the_one_asked_for(server: WebServer, stated: str | None) -> None:
    def lying(request: Request) -> Answer:
        return Answer(206, DATA[: 1 << 20], {"Content-Range": stated} if stated else {}) if request.span else Answer(200, DATA)

    server.script = lying
    assert get(server.url) == DATA


def test_whole_file_for_a_later_range(server: WebServer) -> None:
    server.script = lambda request: ranged(DATA, request) if request.span in (None, (0, 1048575)) else Answer(200, DATA)
    assert get(server.url) == DATA


def test_more_bytes_than_the_range_has(server: WebServer) -> None:
    def generous(request: Request) -> Answer:
        answer = ranged(DATA, request)
        return answer if request.span is None else answer._replace(body=answer.body + b"more", headers={**answer.headers, "Connection": "close"})

    server.script = generous
    assert get(server.url) == DATA


@pytest.mark.parametrize("etags", [('"one"', '"two"'), ('W/"one"', 'W/"two"'), ("", '"two"')])
def test_file_changed_between_two_parts(server: WebServer, etags: tuple[str, str]) -> None:
    changed = DATA[::-1]

    def changing(request: Request) -> Answer:
        return ranged(changed, request, etags[1]) if request.number else ranged(DATA, request, etags[0])

    server.script = changing
    assert get(server.url) == changed


def test_if_range_is_sent_with_a_strong_etag_only(server: WebServer) -> None:
    for etag, expected in (('"one"', '"one"'), ('W/"one"', None)):
        server.requests.clear()
        server.script = lambda request, etag=etag: ranged(DATA, request, etag)  # type: ignore[misc]
        get(server.url)
        assert {request.headers.get("if-range") for request in server.requests[1:]} == {expected}


def test_part_of_a_file_for_a_plain_request(server: WebServer) -> None:
    server.script = lambda _: Answer(206, b"part", {"Content-Range": "bytes 7-10/11"})
    assert "part of the file" in refused(server.url).public


def test_range_from_elsewhere_with_as_many_bytes_as_were_asked_for(server: WebServer) -> None:
    def lying(request: Request) -> Answer:
        if request.span is None:
            return Answer(200, DATA[:100])
        if request.number == 0:
            return Answer(206, DATA[:50], {"Content-Range": "bytes 0-99/100"}, length=100)
        return Answer(206, DATA[:50], {"Content-Range": "bytes 0-99/100"})

    server.script = lying
    assert get(server.url) == DATA[:100]


def test_ranges_without_bytes(server: WebServer) -> None:
    stated = {"Content-Range": "bytes 0-99/100", "Connection": "close"}
    server.script = lambda request: Answer(206, b"", stated, length=-1) if request.number < 20 else Answer(404)
    assert refused(server.url).code == "INPUT_ERROR"


def test_file_replaced_by_a_short_one_between_two_parts(server: WebServer) -> None:
    server.script = lambda request: ranged(DATA, request) if request.number == 0 else Answer(200, b"new")
    assert get(server.url) == b"new"


# -- broken transfers ----------------------------------------------------------------------------------------------


def test_resumed_where_it_broke_off(server: WebServer) -> None:
    def cut(request: Request) -> Answer:
        answer = ranged(DATA, request)
        return answer._replace(body=answer.body[:500_000], length=len(answer.body)) if request.number == 0 else answer

    server.script = cut
    assert get(server.url) == DATA
    assert server.requests[1].span == (500_000, 1048575)


def test_whole_file_resumed_where_it_broke_off(server: WebServer) -> None:
    def cut(request: Request) -> Answer:
        return Answer(200, DATA[:900_000], {"ETag": '"one"'}, length=len(DATA)) if request.number == 0 else ranged(DATA, request)

    server.script = cut
    assert get(server.url) == DATA
    assert server.requests[1].span == (900_000, None)


def test_whole_file_started_again_without_ranges(server: WebServer) -> None:
    server.script = lambda request: Answer(200, DATA[:900_000] if request.number == 0 else DATA, length=len(DATA))
    assert get(server.url) == DATA


def test_shorter_file_after_a_break_leaves_nothing_of_the_longer_one(server: WebServer) -> None:
    server.script = lambda request: Answer(200, DATA[:900_000], length=len(DATA)) if request.number == 0 else Answer(200, b"short")
    assert get(server.url) == b"short"


def test_always_shorter_than_promised(server: WebServer) -> None:
    server.script = lambda _: Answer(200, b"short", length=100)
    error = refused(f"{server.url}/x?sig={SECRET}")
    assert (error.code, error.transient) == ("INPUT_ERROR", True)
    assert len(server.requests) == ACCESS.tries


def test_long_transfer_may_break_more_often_than_tries(server: WebServer) -> None:
    def flaky(request: Request) -> Answer:
        first = (request.span or (0, None))[0]
        return Answer(206, DATA[first : first + 300_000], {"Content-Range": f"bytes {first}-{len(DATA) - 1}/{len(DATA)}"}, length=len(DATA) - first)

    server.script = flaky
    assert get(server.url, Access(guard=LOOPBACK, part_bytes=300_000, first_delay=0.001, tries=2)) == DATA


def test_no_length_at_all(server: WebServer) -> None:
    server.script = lambda _: Answer(200, DATA, {"Connection": "close"}, length=-1)
    assert get(server.url) == DATA


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408])
def test_passing_failures_are_tried_again(server: WebServer, status: int) -> None:
    server.script = lambda request: Answer(status, b"no", {"Retry-After": "0"}) if request.number < 2 else ranged(b"yes", request)
    assert get(server.url) == b"yes"


@pytest.mark.parametrize(
    ("status", "code", "transient", "requests"),
    [(401, "INPUT_DENIED", False, 1), (403, "INPUT_DENIED", False, 1), (404, "INPUT_NOT_FOUND", False, 1), (410, "INPUT_NOT_FOUND", False, 1),
     (400, "INPUT_ERROR", False, 1), (501, "INPUT_ERROR", False, 1), (204, "INPUT_ERROR", False, 1), (500, "INPUT_ERROR", True, 3)],
)  # fmt: skip
def test_statuses(server: WebServer, status: int, code: str, transient: bool, requests: int) -> None:
    server.script = lambda _: Answer(status)
    error = refused(server.url)
    assert (error.code, error.transient, len(server.requests)) == (code, transient, requests)
    assert str(status) in error.public


def test_nobody_listens() -> None:
    with web_server.serving() as gone:
        url = f"{gone.url}/x?sig={SECRET}"
    error = refused(url)
    assert (error.code, error.transient) == ("INPUT_ERROR", True)


@pytest.mark.parametrize("url", ["http://[::1/x", "http://127.0.0.1:99999/", "http:///x", "http://" + "a" * 70 + "/x"])
def test_urls_that_are_none(url: str) -> None:
    assert (refused(url).code, refused(url).transient) == ("INPUT_ERROR", False)


# -- redirects and addresses ---------------------------------------------------------------------------------------


def redirecting(to: Callable[[Request], str], status: int = 302) -> Callable[[Request], Answer]:
    return lambda request: ranged(b"there", request) if request.path == "/there?a=1" else Answer(status, b"moved", {"Location": to(request)})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects(server: WebServer, status: int) -> None:
    server.script = redirecting(lambda _: "/there?a=1", status)
    assert get(server.url + "/here") == b"there"
    assert server.paths() == ["/here", "/there?a=1"]


def test_redirect_loop(server: WebServer) -> None:
    server.script = redirecting(lambda request: request.path)
    assert refused(server.url + "/round").public == "redirected more than 10 times"
    assert len(server.requests) == web_request.HOPS + 1


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://host/x", "gopher://x"])
def test_redirect_to_another_scheme(server: WebServer, target: str) -> None:
    server.script = redirecting(lambda _: target)
    error = refused(server.url)
    assert (error.code, error.transient) == ("INPUT_ERROR", False)
    assert "is no http(s) url" in error.public


def test_redirect_target_is_shown_without_its_query(server: WebServer) -> None:
    server.script = redirecting(lambda _: f"s3://user:{SECRET}@bucket/key?sig={SECRET}")
    assert "s3://bucket/key?..." in refused(server.url).public


def test_password_stays_with_its_host(server: WebServer) -> None:
    server.script = redirecting(lambda _: f"{server.url}/there?a=1")
    assert get(server.url.replace("//", "//user:p%40ss@") + "/here") == b"there"
    assert [request.headers.get("authorization") for request in server.requests] == ["Basic dXNlcjpwQHNz", None]


def test_query_is_sent_as_it_is(server: WebServer) -> None:
    server.script = lambda request: ranged(b"signed", request)
    get(server.url + "/a%2Fb?X-Sig=a%2Bb%3D&empty=&x=%7E#fragment")
    assert server.paths() == ["/a%2Fb?X-Sig=a%2Bb%3D&empty=&x=%7E"]


def test_closed_networks(server: WebServer) -> None:
    closed = Access(guard=Guard())
    assert refused(server.url, closed).code == "INPUT_DENIED"
    assert refused(server.url.replace("127.0.0.1", "[::ffff:127.0.0.1]"), closed).code == "INPUT_DENIED"
    assert server.requests == []


@pytest.mark.parametrize("host", ["169.254.169.254", "0.0.0.0", "[fe80::1]", "168.63.129.16", "[::]"])
def test_metadata_services_are_closed_by_default(host: str) -> None:
    assert refused(f"http://{host}/latest/meta-data/", Access()).code == "INPUT_DENIED"


def test_redirect_into_a_closed_network(server: WebServer) -> None:
    server.script = redirecting(lambda _: "http://169.254.169.254/latest/")
    error = refused(server.url, Access(tries=1))
    assert error.code == "INPUT_DENIED"


def test_switched_off() -> None:
    assert refused("http://127.0.0.1/", Access(http=False)).code == "INPUT_DENIED"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_certificate_that_nobody_trusts(tmp_path: pathlib.Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(words, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with web_server.serving(context) as server:
        error = refused(server.url)
    assert (error.code, error.transient, error.public) == ("INPUT_ERROR", False, "the server's certificate is not trusted here")


# -- stopping ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [1 << 20, 64 << 20])
def test_stalled_server_does_not_hold_up_a_stop(server: WebServer, part: int) -> None:
    hold, stop = threading.Event(), threading.Event()
    begun = threading.Event()

    def stalling(request: Request) -> Answer:
        begun.set()
        answer = ranged(DATA, request)
        return answer._replace(body=answer.body[:1000], length=len(answer.body), hold=hold)

    server.script = stalling
    control = Control(stop.is_set)
    caught: list[BaseException] = []

    def fetch() -> None:
        try:
            get(server.url, Access(guard=LOOPBACK, part_bytes=part), control)
        except errors.Canceled as cause:
            caught.append(cause)

    thread = threading.Thread(target=fetch)
    thread.start()
    try:
        assert begun.wait(5)
        stop.set()
        control.end()
        thread.join(1.0)
        assert not thread.is_alive()
        assert caught
    finally:
        hold.set()
        thread.join()
