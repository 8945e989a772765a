"""Live output of a pod's executors, as lines of stage-out's log: whoever reads along takes the last one.

Costs a look at small files now and then, and a line where something is new; the longer a task runs, the rarer.
"""

from __future__ import annotations

import os
import pathlib
import threading
import time
from collections.abc import Callable, Sequence

import msgspec

from tes_server import errors
from tes_server.model.run import Tails
from tes_server.model.task import ExecutorLog
from tes_server.runner import records

SHORTEST, LONGEST = 0.5, 5.0
"""Seconds between two looks: a twentieth of the time so far, within these."""


class Teller:
    """Tells by `tell` (whole lines) in a thread of its own, from `start` to `stop`. `steps`: the record directories, in order."""

    def __init__(self, attempt: int, steps: Sequence[pathlib.Path], keep: int, tell: Callable[[bytes], None]) -> None:
        self._attempt = attempt
        self._steps = steps
        self._keep = keep
        self._tell = tell
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="tails", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; nothing is told after it."""
        self._stopped.set()
        self._thread.join()

    def _loop(self) -> None:
        began, told = time.monotonic(), b""
        while not self._stopped.wait(min(LONGEST, max(SHORTEST, (time.monotonic() - began) / 20))):
            now = self._look()
            if now and now != told:
                told = now
                self._tell(now + b"\n")

    def _look(self) -> bytes:
        """What there is to tell, b"" if no executor was started or one spoiled its record: that is told at the end."""
        logs: list[ExecutorLog] = []
        try:
            for record in self._steps:
                if not os.path.lexists(record / "start"):
                    break
                out, err = records.streams(record, self._keep)
                logs.append(ExecutorLog(stdout=out, stderr=err))
        except (errors.EngineError, OSError):
            return b""
        return msgspec.json.encode(Tails(self._attempt, tuple(logs))) if logs else b""
