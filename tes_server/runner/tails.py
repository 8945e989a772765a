"""Live output of an attempt that runs, told now and then to whoever shows it: as lines of a container's log, or as an object of the spool.

Costs a look at small files, and a word where something is new; the longer a task runs, the rarer. Nothing of a task depends on it.
"""

from __future__ import annotations

import os
import pathlib
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple

from tes_server import errors
from tes_server.model.run import Tails
from tes_server.model.task import ExecutorLog
from tes_server.runner import records


class Pace(NamedTuple):
    """Seconds between two looks: a twentieth of the time so far, within these."""

    shortest: float
    longest: float


class Teller:
    """Tells by `tell` in a thread of its own, within a `with` block. `steps`: the record directories, in order.

    Where `tell` raises `errors.Unavailable`, it is told again.
    """

    def __init__(self, attempt: int, steps: Sequence[pathlib.Path], keep: int, pace: Pace, tell: Callable[[Tails], None]) -> None:
        self._attempt = attempt
        self._steps = steps
        self._keep = keep
        self._pace = pace
        self._tell = tell
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="tails", daemon=True)

    def __enter__(self) -> None:
        """Begin."""
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End; nothing is told after it."""
        self._stopped.set()
        self._thread.join()

    def _loop(self) -> None:
        began, told = time.monotonic(), None
        while not self._stopped.wait(min(self._pace.longest, max(self._pace.shortest, (time.monotonic() - began) / 20))):
            now = self._look()
            if now is None or now == told:
                continue
            try:
                self._tell(now)
            except (errors.Unavailable, errors.Canceled):
                continue
            told = now

    def _look(self) -> Tails | None:
        """What there is to tell, None if no executor was started or one spoiled its record: that is told at the end."""
        logs: list[ExecutorLog] = []
        try:
            for record in self._steps:
                if not os.path.lexists(record / "start"):
                    break
                out, err = records.streams(record, self._keep)
                logs.append(ExecutorLog(stdout=out, stderr=err))
        except (errors.EngineError, OSError):
            return None
        return Tails(self._attempt, tuple(logs)) if logs else None
