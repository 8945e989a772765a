"""A TCP relay: a service that listens on 127.0.0.1 alone, on another address of this machine, where pods reach it.

It misbehaves on demand, below whatever is spoken through it, TLS too: away, frozen, cut.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

CHUNK = 1 << 16


class Relay:
    """Listens on a port of its own at `address`. `close` ends it and every connection."""

    def __init__(self, address: str, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server((address, 0))
        self.port = int(self._listener.getsockname()[1])
        self._guard = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._away = False
        self._upwards, self._downwards = threading.Event(), threading.Event()
        self._upwards.set()
        self._downwards.set()
        self._run(self._accept)

    def cut(self) -> None:
        """Every connection there is ends."""
        with self._guard:
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """The service is not there, until the end of the block."""
        self._away = True
        self.cut()
        try:
            yield
        finally:
            self._away = False

    @contextlib.contextmanager
    def frozen(self, *, requests: bool = True) -> Iterator[None]:
        """Nothing passes, or only requests do, and nobody is told; at the end of the block all of it does, also of those who have left."""
        gates = (self._upwards, self._downwards) if requests else (self._downwards,)
        for gate in gates:
            gate.clear()
        try:
            yield
        finally:
            for gate in gates:
                gate.set()

    def close(self) -> None:
        """Stop; no thread and no socket is left."""
        self._away = True
        self._upwards.set()
        self._downwards.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(10)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._away:
                    client.close()
                    continue
                try:
                    server = socket.create_connection(self._target, 5)
                except OSError:
                    client.close()
                    continue
                server.settimeout(None)
                pairs = [(client, server, self._upwards), (server.dup(), client.dup(), self._downwards)]
                with self._guard:
                    self._open.update(each for *pair, _ in pairs for each in pair)
                for pair in pairs:
                    self._run(self._forward, *pair)

    def _forward(self, source: socket.socket, sink: socket.socket, gate: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                gate.wait()
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        with self._guard:
            self._open -= {source, sink}
        source.close()
        sink.close()

    def _run(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()
