"""Waiting on a node for what may be away: bounded, and cut short when the platform ends the runner. This module must never know what is asked."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from tes_server import errors, telemetry

logger = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0
"""Seconds between two tries: doubled each time up to the second."""

POLL = 0.1
"""Seconds between two tries of what is free in a moment, and of all once the end is near."""


class Wait:
    """`patience` seconds from now on, but once `stop` is set only `farewell` more."""

    def __init__(self, stop: threading.Event, patience: float, farewell: float = 0.0) -> None:
        self._stop = stop
        self._farewell = farewell
        self._end = time.monotonic() + patience
        self._heard = False

    def over(self) -> bool:
        """No more waiting."""
        now = time.monotonic()
        if self._stop.is_set() and not self._heard:
            self._heard = True
            self._end = min(self._end, now + self._farewell)
        return now >= self._end

    def ask(self, call: Callable[[], T]) -> T:
        """The answer of a service that may be away. Raises its last `errors.Unavailable` when the wait is over."""
        delay = FIRST_DELAY
        while True:
            try:
                return call()
            except errors.Unavailable as cause:
                if self.over():
                    raise
                if delay == FIRST_DELAY:  # once, however long it takes
                    telemetry.log(logger, logging.WARNING, "node.spool.away", error=cause.public)
            self._pause(delay)
            delay = min(2 * delay, LONGEST_DELAY)

    def until(self, call: Callable[[], T | None], what: str) -> T:
        """The first answer that is not None. Raises `errors.Unavailable`, naming `what`, when the wait is over."""
        while (found := call()) is None:
            if self.over():
                raise errors.Unavailable(what)
            self._pause(POLL)
        return found

    def _pause(self, seconds: float) -> None:
        if self._heard:
            time.sleep(POLL)
        else:
            self._stop.wait(seconds)
