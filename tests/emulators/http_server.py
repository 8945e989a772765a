"""An HTTP server for whatever an emulator answers: its endpoint, over TLS or not, and the services of a host."""

from __future__ import annotations

import contextlib
import http.server
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """None in place of one: the connection is cut."""

    status: int
    body: bytes
    headers: Mapping[str, str]


Reply = Callable[[str, str, Mapping[str, str], bytes], Answer | None]
"""of method, path with query, headers by their names in lower case, body"""


class Server:
    """Listens from its making, answers from `start`, and ends all connections in `close`."""

    def __init__(self, listener: socket.socket, reply: Reply, tls: ssl.SSLContext | None = None) -> None:
        self._server = _Server(listener, reply, tls)
        self.port: int = listener.getsockname()[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="http")

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Also of what was never started."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.hang_up()
        self._server.server_close()


def loopback(port: int = 0) -> socket.socket:
    """A listener on this machine's loopback; 0 = a free port."""
    return socket.create_server(("127.0.0.1", port), backlog=128)


class _Server(http.server.ThreadingHTTPServer):
    """Clients keep connections; `hang_up` ends them."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, reply: Reply, tls: ssl.SSLContext | None) -> None:
        super().__init__(listener.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.reply = reply
        self._tls = tls
        self._open: set[socket.socket] = set()

    def get_request(self) -> tuple[socket.socket, Any]:
        """The handshake is left to the connection's own thread."""
        connection, address = super().get_request()
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = self.server.reply(self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        if answer is None:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", **answer.headers}.items():
            self.send_header(name, value)
        if "Content-Length" not in answer.headers:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_PATCH = do_POST  # noqa: N815 - names of http.server

    def log_message(self, *_: object) -> None:
        """Nothing: emulators count their calls."""
