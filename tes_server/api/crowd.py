"""All connections of one API process: how many there may be, who has to go first, and who has been too slow.

One look a second at each of them in place of timers: what a look costs does not depend on how often clients send a byte.
Must never read a request; `connection` does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

import msgspec

from tes_server import telemetry

LOGGER = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between two looks; time limits hold to within one."""

REMIND = 60.0
"""Seconds between two lines of the log that tell of too many connections."""


class Bounds(msgspec.Struct, frozen=True):
    """What clients may take of one process. Times are in seconds, sizes in bytes."""

    connections: int = 4000
    head_size: int = 64 * 1024
    """Request line and headers together."""
    head_time: float = 20.0
    """From the first byte, or the connection, to the last byte of the headers; also for a TLS handshake."""
    idle_time: float = 75.0
    transfer_time: float = 30.0
    """For which a body that is sent, or an answer that is fetched, may stay behind `slowest`."""
    slowest: float = 1024.0
    """Bytes a second."""
    body_size: int = 16 * 1024 * 1024
    """Of what nobody reads any more, as the request has its answer; the limit of what is read is `Body`'s."""


class Guest(Protocol):
    """One connection, as the crowd sees it. Hashed by identity."""

    def overdue(self, now: float) -> str:
        """One word for what it was too slow with at `now` (`loop.time()`), or ""."""

    def dismiss(self, why: str) -> None:
        """Close it; `why` is such a word, or "crowd". Whoever deserves an answer gets one."""


class Crowd:
    """The connections of this process. For its event loop's thread alone."""

    def __init__(self, bounds: Bounds, chores: Callable[[float], None] | None = None) -> None:
        """`chores` are done at each look, after it."""
        self.bounds = bounds
        self._chores = chores
        self._all: set[Guest] = set()
        # Ordered by how long they have been so: the first goes first.
        self._waiting: dict[Guest, None] = {}
        self._sending: dict[Guest, None] = {}
        self._looking = False
        self._told = float("-inf")

    def enter(self, guest: Guest) -> None:
        """A connection that begins. Where there are too many, another one goes, or this one if all of them are being answered."""
        self._all.add(guest)
        self.waits(guest)
        if len(self._all) > self.bounds.connections:
            self._make_room()
        if not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_later(INTERVAL, self._look)

    def leave(self, guest: Guest) -> None:
        """A connection that is closed. Idempotent."""
        self._all.discard(guest)
        self._waiting.pop(guest, None)
        self._sending.pop(guest, None)

    def waits(self, guest: Guest) -> None:
        """It has no request under way, or none that is worth an answer yet."""
        self._sending.pop(guest, None)
        self._waiting[guest] = None

    def sends(self, guest: Guest) -> None:
        """It sends a body that is read."""
        self._waiting.pop(guest, None)
        self._sending[guest] = None

    def is_answered(self, guest: Guest) -> None:
        """Its request is here, and has no answer yet."""
        self._waiting.pop(guest, None)
        self._sending.pop(guest, None)

    def _make_room(self) -> None:
        # Who came last waits last: he goes only where nobody else waits or sends.
        guest = next(iter(self._waiting))
        if len(self._waiting) == 1 and self._sending:
            guest = next(iter(self._sending))
        now = asyncio.get_running_loop().time()
        if now > self._told + REMIND:
            self._told = now
            telemetry.log(LOGGER, logging.WARNING, "connections.too_many", most=self.bounds.connections)
        self.leave(guest)
        count("crowd")
        guest.dismiss("crowd")

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for guest in list(self._all):
            why = guest.overdue(now)
            if why:
                count(why)
                guest.dismiss(why)
        if self._chores is not None:
            self._chores(now)
        loop.call_later(INTERVAL, self._look)


def count(why: str) -> None:
    """Count a connection that this server ends before its client does. That one is idle for long is no news."""
    if why not in ("idle", "leaving"):
        telemetry.CONNECTIONS_ENDED.labels(why).inc()
