import contextlib
import json
import pathlib
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from tes_server.client import connection
from tes_server.client.address import Address
from tes_server.client.connection import Refused, Server, Unreachable
from tests.tls_files import Authority


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
def server(httpserver: HTTPServer, notices: list[str]) -> Iterator[Server]:
    made = Server(Address(httpserver.url_for("/v1").rstrip("/")), notices.append)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _not_found(httpserver: HTTPServer) -> None:
    httpserver.no_handler_status_code = 404


def at(url: str) -> Server:
    return Server(Address(url.rstrip("/"), "Bearer secret"), print)


@pytest.mark.parametrize("root", ["/ga4gh/tes/v1", "/v1", ""])
def test_the_api_is_found_below_the_address_and_remembered(httpserver: HTTPServer, root: str) -> None:
    httpserver.expect_request(f"{root}/service-info").respond_with_json({"name": "x"})
    httpserver.expect_request(f"{root}/tasks/t").respond_with_json({"id": "t", "state": "QUEUED"})
    server = at(httpserver.url_for(""))
    assert server.get("t", "MINIMAL")["id"] == "t"
    asked = len(httpserver.log)
    server.get("t", "MINIMAL")
    assert len(httpserver.log) == asked + 1
    server.close()


def test_a_web_page_is_no_service_info(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/ga4gh/tes/v1/service-info").respond_with_data("<html>", content_type="text/html")
    httpserver.expect_request("/v1/service-info").respond_with_json({"name": "x"})
    server = at(httpserver.url_for(""))
    assert server.service_info() == {"name": "x"}
    server.close()


def test_a_server_of_1_0_days_is_found_below_tasks(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/v1/tasks/service-info").respond_with_json({"name": "old"})
    httpserver.expect_request("/v1/tasks/t").respond_with_json({"id": "t", "state": "QUEUED"})
    server = at(httpserver.url_for(""))
    assert server.service_info() == {"name": "old"}
    assert server.get("t", "FULL")["id"] == "t"
    server.close()


def test_no_tes_server_there(httpserver: HTTPServer) -> None:
    server = at(httpserver.url_for(""))
    with pytest.raises(Unreachable, match=r"no TES server at .*check --url or TES_URL"):
        server.get("t", "FULL")
    server.close()


def test_a_missing_sign_in_ends_the_search(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/ga4gh/tes/v1/service-info").respond_with_json({"title": "Unauthorized", "status": 401}, status=401)
    server = at(httpserver.url_for(""))
    with pytest.raises(Refused, match="TES_TOKEN") as caught:
        server.service_info()
    assert caught.value.status == 401
    assert "secret" not in str(caught.value)
    server.close()


def test_requests_are_signed_and_ids_quoted(httpserver: HTTPServer) -> None:
    seen = []

    def handler(request: Request) -> Response:
        seen.append((request.path, request.headers["Authorization"], request.query_string.decode()))
        return Response(json.dumps({"id": "a/b?"}), content_type="application/json")

    httpserver.expect_request("/v1/tasks/a/b?").respond_with_handler(handler)
    server = at(httpserver.url_for("/v1"))
    server.get("a/b?", "FULL")
    assert seen == [("/v1/tasks/a/b?", "Bearer secret", "view=FULL")]
    server.close()


def test_pages_are_walked_until_the_last(httpserver: HTTPServer, server: Server) -> None:
    pages = {"": {"tasks": [{"id": "1"}, {"id": "2"}], "next_page_token": "p2"}, "p2": {"tasks": [{"id": "3"}], "next_page_token": ""}}
    sizes = []

    def handler(request: Request) -> Response:
        sizes.append(request.args["page_size"])
        assert request.args.getlist("tag_key") == ["a", "b"]
        assert request.args.getlist("tag_value") == ["1", ""]
        return Response(json.dumps(pages[request.args.get("page_token", "")]), content_type="application/json")

    httpserver.expect_request("/v1/tasks").respond_with_handler(handler)
    filters = [("tag_key", "a"), ("tag_value", "1"), ("tag_key", "b"), ("tag_value", "")]
    assert [task["id"] for task in server.tasks(filters, "BASIC", None)] == ["1", "2", "3"]
    assert [task["id"] for task in server.tasks(filters, "BASIC", 1)] == ["1"]
    assert sizes == ["256", "256", "1"]


def test_a_page_token_that_repeats_does_not_turn_for_ever(httpserver: HTTPServer, server: Server) -> None:
    httpserver.expect_request("/v1/tasks").respond_with_json({"tasks": [{"id": "1"}], "next_page_token": "same"})
    assert len(list(server.tasks([], "MINIMAL", None))) == 2


def test_a_busy_server_is_asked_again(httpserver: HTTPServer, server: Server) -> None:
    httpserver.expect_ordered_request("/v1/tasks/t").respond_with_data("", status=503, headers={"Retry-After": "0"})
    httpserver.expect_ordered_request("/v1/tasks/t").respond_with_data("", status=502)
    httpserver.expect_ordered_request("/v1/tasks/t").respond_with_json({"id": "t"})
    assert server.get("t", "FULL") == {"id": "t"}


def test_a_server_that_stays_busy_is_given_up(httpserver: HTTPServer, server: Server, notices: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PATIENCE", 2.0)
    httpserver.expect_request("/v1/tasks/t").respond_with_data("", status=503)
    with pytest.raises(Refused, match="503 Service Unavailable"):
        server.get("t", "FULL")
    assert notices == []


def test_a_wait_longer_than_our_patience_is_not_begun(httpserver: HTTPServer, server: Server) -> None:
    httpserver.expect_oneshot_request("/v1/tasks/t").respond_with_data("", status=429, headers={"Retry-After": "3600"})
    with pytest.raises(Refused, match="429 Too Many Requests"):
        server.get("t", "FULL")


def test_an_ordinary_error_is_not_asked_again(httpserver: HTTPServer, server: Server) -> None:
    httpserver.expect_oneshot_request("/v1/tasks/t").respond_with_json({"title": "Not Found", "detail": "no such\ntask", "status": 404}, status=404)
    with pytest.raises(Refused, match=r"^no such task \(404 Not Found\)$"):
        server.get("t", "FULL")
    assert len(httpserver.log) == 1


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ('{"detail": "is empty", "pointer": "/executors/0/image"}', "/executors/0/image: is empty (400 Bad Request)"),
        ('{"detail": "/name: is long", "pointer": "/name"}', "/name: is long (400 Bad Request)"),
        ('{"title": "Bad Request"}', "Bad Request (400 Bad Request)"),
        ('{"error": "rpc failed", "code": 3}', "rpc failed (400 Bad Request)"),
        ("<html>secret</html>", "…/tasks answered 400 Bad Request"),
        ('["x"]', "…/tasks answered 400 Bad Request"),
    ],
)
def test_errors_of_many_servers_become_one_line(httpserver: HTTPServer, server: Server, body: str, line: str) -> None:
    httpserver.expect_request("/v1/tasks").respond_with_data(body, status=400)
    with pytest.raises(Refused) as caught:
        server.create({})
    assert str(caught.value) == (line if line[0] != "…" else server._address.url + line[1:])


def test_a_create_that_is_sent_again_bears_the_same_key(httpserver: HTTPServer, server: Server) -> None:
    keys = []

    def handler(request: Request) -> Response:
        keys.append(request.headers["Idempotency-Key"])
        return Response("", status=503) if len(keys) < 2 else Response('{"id": "t"}', content_type="application/json")

    httpserver.expect_request("/v1/tasks", method="POST").respond_with_handler(handler)
    assert server.create({"executors": []}) == "t"
    assert server.create({"executors": []}) == "t"
    assert keys[0] == keys[1] != keys[2]


def test_a_create_whose_answer_is_late_is_not_sent_again(httpserver: HTTPServer, server: Server) -> None:
    httpserver.expect_request("/v1/tasks", method="POST").respond_with_data("", status=504)
    with pytest.raises(Refused, match="504"):
        server.create({})
    assert len(httpserver.log) == 1


def test_a_create_without_an_id_is_an_error(httpserver: HTTPServer, server: Server) -> None:
    httpserver.expect_request("/v1/tasks", method="POST").respond_with_json({})
    with pytest.raises(Refused, match="without an id"):
        server.create({})


@pytest.mark.parametrize("body", ["{}", "", "null"])
def test_cancel_takes_any_good_answer(httpserver: HTTPServer, server: Server, body: str) -> None:
    httpserver.expect_request("/v1/tasks/t:cancel", method="POST").respond_with_data(body)
    server.cancel("t")


def test_a_connection_that_breaks_is_made_anew() -> None:
    """The first connection is closed without an answer, the second is served."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        broken, _ = listener.accept()
        broken.recv(65536)
        broken.close()
        good, _ = listener.accept()
        good.recv(65536)
        good.sendall(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"id": "t"}')
        good.close()

    thread = threading.Thread(target=serve)
    thread.start()
    server = at(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
    try:
        assert server.get("t", "FULL") == {"id": "t"}
    finally:
        server.close()
        thread.join()
        listener.close()


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    server = at(f"http://127.0.0.1:{port}")
    with pytest.raises(Unreachable, match=rf"cannot reach http://127.0.0.1:{port}: connection refused; start it"):
        server.service_info()
    server.close()


def test_close_ends_the_patience_of_a_waiting_request(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    httpserver.expect_request("/v1/tasks/t").respond_with_data("", status=503, headers={"Retry-After": "50"})
    server = at(httpserver.url_for("/v1"))
    wait = server._closed.wait

    def close_meanwhile(seconds: float) -> bool:
        server.close()
        return wait(seconds)

    monkeypatch.setattr(server._closed, "wait", close_meanwhile)
    with pytest.raises(Refused):
        server.get("t", "FULL")


def test_a_server_that_is_away_is_told_once(httpserver: HTTPServer, server: Server, notices: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server._closed, "wait", lambda seconds: False)
    monkeypatch.setattr(connection, "PATIENCE", 10.0)
    answers = iter([503] * 6 + [200] + [503] * 6 + [200])

    def handler(request: Request) -> Response:
        return Response('{"id": "t"}', status=next(answers), content_type="application/json")

    httpserver.expect_request("/v1/tasks/t").respond_with_handler(handler)
    server.get("t", "FULL")
    assert len(notices) == 1
    assert "answers 503; trying again" in notices[0]
    server.get("t", "FULL")
    assert len(notices) == 2


@pytest.mark.parametrize(("name", "trusted", "advice"), [("localhost", False, "set SSL_CERT_FILE"), ("127.0.0.2", True, "look at --url")])
def test_a_certificate_that_is_not_trusted(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str, trusted: bool, advice: str) -> None:
    authority = Authority()
    files = authority.write(tmp_path)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file(tmp_path)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    with socket.create_server(("", 0)) as listener:

        def answer() -> None:
            peer, _ = listener.accept()
            with peer, contextlib.suppress(OSError), context.wrap_socket(peer, server_side=True) as secure:
                secure.recv(1)

        thread = threading.Thread(target=answer)
        thread.start()
        server = at(f"https://{name}:{listener.getsockname()[1]}/v1")
        try:
            with pytest.raises(Unreachable, match=rf"TLS: .*certificate verify failed.*; .*{advice}"):
                server.get("t", "FULL")
        finally:
            server.close()
            thread.join()
