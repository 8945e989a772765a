"""The way to services whose addresses are not ours to have: an HTTP proxy that leads connections for their names (CONNECT) to a server of the emulator's."""

from __future__ import annotations

import contextlib
import fnmatch
import socket
import socketserver
import threading
from collections.abc import Iterable

CHUNK = 1 << 16
HEAD = 1 << 14
"""bytes of a request that asks for a connection"""


class Tunnel:
    """`names`: of hosts, `*.vault.azure.net`; for all others it is 403. Listens from its making, answers from `start`."""

    def __init__(self, names: Iterable[str], target: tuple[str, int]) -> None:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.names, self._server.target = tuple(names), target
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="tunnel")

    @property
    def refused(self) -> list[str]:
        """Hosts that somebody wanted to reach, and must not."""
        return self._server.refused

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Also of what was never started."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    names: tuple[str, ...]
    target: tuple[str, int]

    def __init__(self, *given: object) -> None:
        super().__init__(*given)  # type: ignore[arg-type]
        self.refused: list[str] = []


class _Handler(socketserver.BaseRequestHandler):
    request: socket.socket
    server: _Server

    def handle(self) -> None:
        method, place = self._asked()
        host, _, port = place.rpartition(":")
        if method != "CONNECT" or port != "443" or not any(fnmatch.fnmatchcase(host, name) for name in self.server.names):
            self.server.refused.append(place)
            self.request.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            return
        with socket.create_connection(self.server.target) as inner:
            self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_pour, args=(inner, self.request), daemon=True)
            back.start()
            _pour(self.request, inner)
            back.join()

    def _asked(self) -> tuple[str, str]:
        head = b""
        while b"\r\n\r\n" not in head and len(head) < HEAD and (data := self.request.recv(CHUNK)):
            head += data
        words = head.decode("latin-1").split()
        return (words[0], words[1]) if len(words) > 1 else ("", "")


def _pour(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(CHUNK):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
