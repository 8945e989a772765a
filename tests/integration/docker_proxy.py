"""A Docker daemon that comes and goes: a socket before the real one that can be cut and restored, and counts requests."""

from __future__ import annotations

import contextlib
import pathlib
import socket
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self


class Proxy:
    """Forwards bytes both ways, one thread a direction. `cut` is what a killed daemon looks like, `restore` its return."""

    def __init__(self, path: pathlib.Path, target: pathlib.Path) -> None:
        self.url = f"unix://{path}"
        self._path = path
        self._target = target
        self._lock = threading.Lock()
        self._requests: list[bytes] = []
        self._fatal: bytes | None = None
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self.restore()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.cut()
        for thread in self._threads:
            thread.join(10)

    def asked(self, what: str) -> int:
        """How many requests had `what` in their first line."""
        with self._lock:
            return sum(what.encode() in request for request in self._requests)

    def cut_at(self, what: str) -> None:
        """Pass the next request with `what` in its first line on, and be cut before its answer."""
        self._fatal = what.encode()

    def _strikes(self) -> bool:
        """It is time to be cut, once: another connection's answer must not cut what is restored by then."""
        with self._lock:
            fatal = self._fatal
            if fatal is None or not any(fatal in request for request in self._requests):
                return False
            self._fatal = None
            return True

    def cut(self) -> None:
        """Drop all connections and take no new ones."""
        self._path.unlink(missing_ok=True)
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def restore(self) -> None:
        """Take connections (again)."""
        self._fatal = None
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self._path))
        listener.listen()
        self._run(self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        with self._owned(listener), contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(self._target))
                self._run(self._forward, client, server, True)
                self._run(self._forward, server.dup(), client.dup(), False)

    def _forward(self, source: socket.socket, sink: socket.socket, requests: bool) -> None:
        with self._owned(source), self._owned(sink), contextlib.suppress(OSError):
            while data := source.recv(65536):
                line = data.partition(b"\r\n")[0]
                if requests and b" HTTP/" in line:
                    with self._lock:
                        self._requests.append(line)
                if not requests and self._strikes():
                    self.cut()
                    return
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    @contextlib.contextmanager
    def _owned(self, one: socket.socket) -> Iterator[None]:
        with self._lock:
            self._open.add(one)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(one)
            one.close()

    def _run(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()
