"""When it is worth looking at the waiting tasks again, on a site that is full.

Every create wakes the reconciler. While nothing can start, reading the queue each time would cost the creates themselves the
machine's second core. Must never keep a task from starting for longer than `RELOOK`.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping

from tes_server.model.run import Room

RELOOK = datetime.timedelta(seconds=0.25)
"""A new task may be smaller than those before it, and pass them: it is seen after this at the latest, room or no room."""

Rooms = Mapping[str, Room | None]
"""What may start now, by backend; None = the platform queues by itself."""


class Congestion:
    """Remembers the last look at the queue. In memory only: forgetting it costs one look."""

    def __init__(self) -> None:
        self._rooms: Rooms = {}
        self._until: datetime.datetime | None = None

    def lasts(self, rooms: Rooms, now: datetime.datetime) -> bool:
        """True if the last look started nothing, a moment ago, and nothing has ended since. Never by a clock that has been set back."""
        return self._until is not None and self._until - RELOOK <= now < self._until and rooms == self._rooms

    def looked(self, rooms: Rooms, started: int, waiting: int, now: datetime.datetime) -> None:
        """The queue was read: `waiting` tasks were there, `started` of them were started in `rooms`."""
        self._rooms = rooms
        self._until = now + RELOOK if waiting and not started else None

    def sleep(self, longest: float, now: datetime.datetime) -> float:
        """Seconds until the next look is due, `longest` at most."""
        if self._until is None or self._until <= now:
            return longest
        return min(longest, (self._until - now).total_seconds())
