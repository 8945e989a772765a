"""Which places are heard of (`Backend.place`), and for how long others have been silent.

Judged by this process's own monotonic clock, and only while it listens: whoever was stopped, or cut off from the store, begins
to count anew. In memory only: forgetting it makes a lost place's tasks wait longer. Must never conclude anything about an attempt.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Collection

from tes_server import telemetry
from tes_server.model import run

logger = logging.getLogger(__name__)

TOLD_AFTER = 60.0
"""Seconds of silence before anybody is told of it: a server that is started anew is back sooner, and none of its tasks is written to for that."""


class Standing(enum.StrEnum):
    """What is to be thought of a place."""

    ALIVE = "ALIVE"  #: a reconciler has it, or had it a moment ago
    SILENT = "SILENT"  #: worth telling to those who wait for its tasks
    LOST = "LOST"  #: silent for too long: its tasks are not waited for any more


class Places:
    """`lost_after` in seconds of `monotonic`."""

    def __init__(self, lost_after: float, monotonic: Callable[[], float]) -> None:
        self._lost_after = lost_after
        self._told_after = min(TOLD_AFTER, lost_after / 2)
        self._monotonic = monotonic
        self._alive: Collection[str] = ()
        self._since: dict[str, float] = {}
        self._told: dict[str, Standing] = {}
        self._listened = monotonic()

    def listen(self, alive: Collection[str]) -> bool:
        """These are heard of now; called at every pass. False if this process did not listen for a while: others may think that it is lost."""
        now = self._monotonic()
        listening = now - self._listened < self._told_after
        self._listened = now
        self._alive = alive
        self._since = {place: since for place, since in self._since.items() if place not in alive} if listening else {}
        for place in [place for place in self._told if place in alive]:
            telemetry.log(logger, logging.INFO, "place.back", place=place, host=run.host_of(place))
            del self._told[place]
        return listening

    def standing(self, place: str) -> Standing:
        """Of a place that a record names. The first question begins the count."""
        if place in self._alive:
            return Standing.ALIVE
        silence = self._listened - self._since.setdefault(place, self._listened)
        found = Standing.LOST if silence >= self._lost_after else Standing.SILENT if silence >= self._told_after else Standing.ALIVE
        if found is not Standing.ALIVE and self._told.get(place) is not found:
            self._told[place] = found
            if found is Standing.LOST:
                telemetry.log(logger, logging.ERROR, "place.lost", place=place, host=run.host_of(place), seconds=round(silence))
            else:
                telemetry.log(logger, logging.WARNING, "place.silent", place=place, host=run.host_of(place), seconds=round(silence))
        return found
