"""How much a stage step has moved and how fast, for whoever waits for a long one, and for the metrics.

Counted where bytes pass, so that a single large file shows as it goes; what is repeated counts again. Must never slow a
transfer, nor decide anything.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Literal

from tes_server import telemetry
from tes_server.telemetry import Code

LONG = 30.0
"""Seconds from which on a transfer is worth a line."""

Direction = Literal["in", "out"]


class Progress:
    """The progress of one stage step. Thread-safe. `clock` counts seconds."""

    def __init__(self, direction: Direction, clock: Callable[[], float] = time.monotonic) -> None:
        self._direction = direction
        self._clock = clock
        self._begun = clock()
        self._lock = threading.Lock()
        self._files = 0
        self._bytes = 0

    def moved(self, count: int) -> None:
        """`count` bytes have passed."""
        with self._lock:
            self._bytes += count

    def done(self, scheme: str, files: int, size: int, seconds: float) -> None:
        """`files` of `size` bytes together have arrived, in `seconds`. For many small ones at once: a metric costs as much as to copy one."""
        with self._lock:
            self._files += files
        telemetry.TRANSFER_BYTES.labels(scheme, self._direction).inc(size)
        telemetry.TRANSFER_SECONDS.labels(scheme, self._direction).inc(seconds)

    def words(self) -> str:
        """What a long transfer has done so far: `inputs: 12 files, 3.1 GB in 95 s, 33 MB/s`; "" for a short one."""
        seconds = self._clock() - self._begun
        if seconds < LONG:
            return ""
        with self._lock:
            files, count = self._files, self._bytes
        what = "inputs" if self._direction == "in" else "outputs"
        return f"{what}: {files} {'file' if files == 1 else 'files'}, {count / 1e9:.1f} GB in {seconds:.0f} s, {count / 1e6 / seconds:.1f} MB/s"

    def lines(self) -> tuple[str, ...]:
        """The line for system_logs when it is over; none for a short one."""
        words = self.words()
        return (f"{Code.TRANSFER}: {words}",) if words else ()
