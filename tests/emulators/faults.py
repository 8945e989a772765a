"""Calls: how many there were, and which are refused, fail, or are answered into a closed connection."""

from __future__ import annotations

import collections
import dataclasses
import fnmatch
import threading
import time
from collections.abc import Callable


@dataclasses.dataclass(eq=False)
class Fault:
    """An error in place of an answer. `calls`: `batch.SubmitJob`, `tasks.*`, `*`."""

    calls: str
    error: Exception | None
    """None: what was asked for is done, and the connection is cut in place of the answer"""
    times: int = -1
    """how often; -1 = until it is mended"""
    every: int = 1
    """only each n-th call"""
    until: float = float("inf")
    """monotonic clock"""
    seen: int = 0


class Bucket:
    """A token bucket: `rate` calls a second, and as many at once."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._tokens = rate
        self._at = time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        self._tokens = min(self._rate, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Calls:
    """Safe for threads. `limit`: raises what a call is refused with that comes too soon after others."""

    def __init__(self, limit: Callable[[str], None] = lambda _: None) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._limit = limit
        self.seen: collections.Counter[str] = collections.Counter()
        """every call that came, `batch.SubmitJob` -> number"""
        self.refused: collections.Counter[str] = collections.Counter()
        """those that got an error, `batch.SubmitJob TooManyRequestsException` -> number"""

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def mend(self) -> None:
        """No more faults."""
        with self._lock:
            self._faults.clear()

    def reset(self) -> None:
        """Count from zero."""
        with self._lock:
            self.seen.clear()
            self.refused.clear()

    def begin(self, call: str) -> bool:
        """Count it; True: its answer is to be lost. What a fault or the limit raises: it is refused."""
        with self._lock:
            self.seen[call] += 1
            lost = False
            for fault in list(self._faults):
                if not fnmatch.fnmatchcase(call, fault.calls) or not self._strikes(fault):
                    continue
                if fault.error is not None:
                    raise fault.error
                lost = True
            self._limit(call)
            return lost

    def refuse(self, call: str, code: str) -> None:
        with self._lock:
            self.refused[f"{call} {code}"] += 1

    def _strikes(self, fault: Fault) -> bool:
        if fault.until < time.monotonic() or fault.times == 0:
            self._faults.remove(fault)
            return False
        fault.seen += 1
        if fault.seen % fault.every:
            return False
        fault.times -= fault.times > 0
        return True
