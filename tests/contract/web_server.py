"""A web server on loopback that says what a test tells it to: honest ranges, or any lie."""

from __future__ import annotations

import contextlib
import http.server
import re
import ssl
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class Request(NamedTuple):
    path: str
    headers: dict[str, str]
    number: int
    """how many requests came before"""
    method: str = "GET"
    body: bytes = b""

    @property
    def span(self) -> tuple[int, int | None] | None:
        """The range asked for: first byte, and last byte or None."""
        found = RANGE.fullmatch(self.headers.get("range", ""))
        return (int(found[1]), int(found[2]) if found[2] else None) if found else None


class Answer(NamedTuple):
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = types.MappingProxyType({})
    length: int | None = None
    """what Content-Length claims; None = the truth, -1 = nothing is claimed"""
    raw: bytes | Iterator[bytes] | None = None
    """what is sent instead of an answer, to the letter; the connection then ends"""
    unread: bool = False
    """a PUT is answered before its body is read, and the connection ends"""
    hold: threading.Event | None = None
    """after the body the connection stays open until this is set"""


def ranged(data: bytes, request: Request, etag: str = '"one"') -> Answer:
    """What an honest server answers."""
    if request.span is None:
        return Answer(200, data, {"ETag": etag, "Accept-Ranges": "bytes"})
    first, last = request.span
    if first >= len(data):
        return Answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
    end = len(data) if last is None else min(last + 1, len(data))
    return Answer(206, data[first:end], {"ETag": etag, "Content-Range": f"bytes {first}-{end - 1}/{len(data)}"})


class WebServer:
    """Answers each request with what `script` makes of it; `requests` are those that came."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[Request] = []
        self.script: Callable[[Request], Answer] = lambda _: Answer(404)

    def paths(self) -> list[str]:
        return [request.path for request in self.requests]


class _Quiet(http.server.ThreadingHTTPServer):
    block_on_close = True
    request_queue_size = 128  # many come at once, and nobody is to come again a second later
    daemon_threads = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients of these tests hang up in the middle."""


@contextlib.contextmanager
def serving(tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0) -> Iterator[WebServer]:
    """A running server, with https if `tls` is given; gone with all its threads afterwards."""

    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = 20

        def do_GET(self) -> None:
            request = Request(self.path, {name.lower(): value for name, value in self.headers.items()}, len(server.requests), self.command)
            if self.command == "PUT":
                self.close_connection = True
            if self.command != "PUT" or not server.script(request).unread:
                request = request._replace(body=self.rfile.read(int(request.headers.get("content-length", 0))))
            server.requests.append(request)
            answer = server.script(request)
            if answer.raw is not None:
                self.close_connection = True
                self.connection.settimeout(1.0)  # whoever hung up may leave us writing for ever
                with contextlib.suppress(OSError):
                    for piece in [answer.raw] if isinstance(answer.raw, bytes) else answer.raw:
                        self.wfile.write(piece)
                return
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.length != -1:
                self.send_header("Content-Length", str(len(answer.body) if answer.length is None else answer.length))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(b"" if self.command == "HEAD" else answer.body)
                self.wfile.flush()
            if answer.hold is not None:
                answer.hold.wait(20)

        do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 - names of http.server

        def log_message(self, *_: object) -> None:
            """Nothing: the test looks at `requests`."""

    with _Quiet((host, port), Handler) as listener:
        if tls is not None:
            listener.socket = tls.wrap_socket(listener.socket, server_side=True)
        server = WebServer(f"{'http' if tls is None else 'https'}://{host}:{listener.server_address[1]}")
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown()
            thread.join()
