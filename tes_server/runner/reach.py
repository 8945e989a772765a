"""Calls of an engine that may be away for a while: a daemon that restarts, or is down until somebody looks after it.

Its absence says nothing of the executors, which may go on without it, so nothing is concluded from it. This module must
never give up by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from tes_server import errors
from tes_server.telemetry import Code

T = TypeVar("T")

FIRST_DELAY, LONGEST_DELAY = 0.5, 15.0
"""Seconds between two calls: doubled each time up to the second. A daemon's own restart takes a few seconds."""


class Reach:
    """Repeats calls. `silence` says why the engine is not reached now ("" = it is), and `changed` is called when it moves."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.silence = ""
        self._changed = changed

    def __call__(self, call: Callable[[], T], pause: Callable[[float], None] = time.sleep, *, stubborn: bool = False) -> T:
        """The result of `call`, made again after each ENGINE_UNAVAILABLE; `stubborn`: after every failure that may pass.

        Other errors are raised, and whatever `pause` raises.
        """
        delay = FIRST_DELAY
        try:
            while True:
                try:
                    return call()
                except errors.EngineError as cause:
                    if not (cause.code == Code.ENGINE_UNAVAILABLE or (stubborn and cause.transient)):
                        raise
                    self._say(cause.public)
                pause(delay)
                delay = min(2 * delay, LONGEST_DELAY)
        finally:
            self._say("")

    def _say(self, silence: str) -> None:
        if self.silence != silence:
            self.silence = silence
            self._changed()
