"""Clients that no library would be: bytes on a socket, at their own pace."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterable, Iterator

import msgspec

HOST = b"Host: localhost\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\n" + HOST
CREATE = b"POST /v1/tasks HTTP/1.1\r\n" + HOST
CLOSE = b"Connection: close\r\n\r\n"

PATIENCE = 60.0
"""Seconds for what takes one on an idle machine."""

Address = tuple[str, int]


def exchange(address: Address, parts: Iterable[bytes], context: ssl.SSLContext | None = None) -> bytes:
    """Everything that comes back for these bytes until the server closes, or resets the connection."""
    with connected(address, context) as client:
        with contextlib.suppress(OSError):  # told to go while it still sends
            for part in parts:
                client.sendall(part)
        got = b""
        with contextlib.suppress(ConnectionError):
            while data := client.recv(65536):
                got += data
        return got


@contextlib.contextmanager
def connected(address: Address, context: ssl.SSLContext | None = None) -> Iterator[socket.socket]:
    with socket.create_connection(address, timeout=PATIENCE) as plain:
        if context is None:
            yield plain
        else:
            with context.wrap_socket(plain, server_hostname="localhost") as secure:
                yield secure


def status(answer: bytes) -> int:
    """Of the first answer; 0 where there is none."""
    return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0


class Slow(msgspec.Struct, eq=False):
    """Sends `first`, then `each` again and again; `ended` holds what it had got when it was closed."""

    name: str
    first: bytes
    each: bytes
    plain: socket.socket
    got: bytes = b""
    ended: bool = False

    def step(self) -> None:
        if self.ended:
            return
        try:
            if self.each:
                self.plain.send(self.each)
            self._read()
        except BlockingIOError:
            pass
        except OSError:
            with contextlib.suppress(OSError):
                self._read()
            self.ended = True

    def _read(self) -> None:
        while True:
            data = self.plain.recv(65536)
            if not data:
                self.ended = True
                return
            self.got += data


def crowd(address: Address, kinds: Iterable[tuple[str, bytes, bytes]], each: int) -> list[Slow]:
    """So many slow clients of each kind, connected."""
    made = []
    for name, first, again in kinds:
        for _ in range(each):
            plain = socket.create_connection(address, timeout=PATIENCE)
            plain.sendall(first)
            plain.setblocking(False)
            made.append(Slow(name, first, again, plain))
    return made


def asked(address: Address, context: ssl.SSLContext | None = None) -> float:
    """Seconds that an honest request takes, connecting included."""
    began = time.monotonic()
    assert status(exchange(address, [HEALTH + CLOSE], context)) == 200
    return time.monotonic() - began
