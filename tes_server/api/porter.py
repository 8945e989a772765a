"""Lets connections in. With TLS the handshake comes first, under the bounds of all connections.

uvicorn's own way to TLS hides connections that never finish their handshake from whoever counts them: here they are accepted one by one
and belong to the crowd from their first moment. Must never look into what is said.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any

import uvicorn

from tes_server import telemetry
from tes_server.api.certificate import Certificate
from tes_server.api.connection import Connection
from tes_server.api.crowd import Bounds, Crowd

LOGGER = logging.getLogger(__name__)

BURST = 64
"""Connections that are accepted before others are served again."""

REST = 0.2
"""Seconds without accepting after this machine had no room for one more: it would say so again at once, and again."""

_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Porter:
    """Makes the protocol of each connection: what uvicorn takes for its protocol class. One for each process."""

    def __init__(self, bounds: Bounds, certificate: Certificate | None = None) -> None:
        self.certificate = certificate
        self.crowd = Crowd(bounds, certificate.renew if certificate is not None else None)

    def __call__(self, **uvicorns: Any) -> Connection:
        """A protocol for one new connection; the arguments are those that uvicorn has for its own."""
        return Connection(self.crowd, **uvicorns)


class Server(uvicorn.Server):
    """uvicorn's server, with a porter at the door where there is TLS."""

    def __init__(self, config: uvicorn.Config, porter: Porter) -> None:
        super().__init__(config)
        self._porter = porter
        self._doors: list[Door] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept."""
        if self._porter.certificate is None:
            await super().startup(sockets)
            return
        await super().startup([])
        loop = asyncio.get_running_loop()

        def make() -> Connection:
            return self._porter(config=self.config, server_state=self.server_state, app_state=self.lifespan.state, _loop=loop)

        self._doors += [Door(listener, self._porter.crowd, self._porter.certificate, make) for listener in sockets or ()]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, and see everybody out."""
        for door in self._doors:
            door.close()
        await super().shutdown(sockets)


class Door:
    """One listening socket, behind which TLS is spoken."""

    def __init__(self, listener: socket.socket, crowd: Crowd, certificate: Certificate, make: Callable[[], Connection]) -> None:
        self._listener = listener
        self._crowd = crowd
        self._certificate = certificate
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._arrivals: set[Arrival] = set()
        self._closed = False
        listener.setblocking(False)
        self._open()

    def close(self) -> None:
        """Accept no more; handshakes that are under way end."""
        self._closed = True
        self._loop.remove_reader(self._listener.fileno())
        for arrival in list(self._arrivals):
            arrival.dismiss("")

    def _open(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(BURST):
            try:
                plain = self._listener.accept()[0]
            except OSError as cause:
                if cause.errno in _NO_ROOM:
                    telemetry.log(LOGGER, logging.ERROR, "connections.no_room", error=cause.strerror)
                    self._loop.remove_reader(self._listener.fileno())
                    self._loop.call_later(REST, self._open)
                if cause.errno != errno.ECONNABORTED:
                    return
            else:
                plain.setblocking(False)
                arrival = Arrival(self._crowd, plain)
                self._arrivals.add(arrival)
                self._crowd.enter(arrival)
                arrival.task = self._loop.create_task(self._greet(arrival, plain))

    async def _greet(self, arrival: Arrival, plain: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._make,
                plain,
                ssl=self._certificate.context,
                ssl_handshake_timeout=2 * self._crowd.bounds.head_time,  # the crowd is first
            )
        except (OSError, ssl.SSLError):
            plain.close()  # nobody there, no TLS, another version: TLS's own alert has told
        finally:
            self._arrivals.discard(arrival)
            self._crowd.leave(arrival)


class Arrival:
    """A connection until TLS is agreed on, when its `Connection` takes its place in the crowd. A `Guest`."""

    task: asyncio.Task[None] | None = None

    def __init__(self, crowd: Crowd, plain: socket.socket) -> None:
        self._plain = plain
        self._late = asyncio.get_running_loop().time() + crowd.bounds.head_time

    def overdue(self, now: float) -> str:
        """See `Guest`."""
        return "handshake" if now > self._late else ""

    def dismiss(self, why: str) -> None:  # noqa: ARG002 - there is no way to say it
        """See `Guest`."""
        with contextlib.suppress(OSError):
            self._plain.shutdown(socket.SHUT_RDWR)  # the handshake meets the end; canceling it would wait for a goodbye
