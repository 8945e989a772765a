"""How often each owner may ask: token buckets, one an owner. Pure but for its own counts: times are arguments.

Each process counts for itself. Must never hold anybody up: it says how long to wait, and the caller does.
"""

from __future__ import annotations

import collections
import threading

MOST = 10_000
"""Owners that are remembered; the one heard of longest ago begins anew, with all it may ask for."""


class Rates:
    """So many a minute for each owner; a minute's worth may come at once. Safe from any thread."""

    def __init__(self, per_minute: float) -> None:
        self._per_minute = per_minute
        self._lock = threading.Lock()
        self._left: collections.OrderedDict[str, tuple[float, float]] = collections.OrderedDict()

    def take(self, owner: str, now: float) -> float:
        """Take one: 0 if it was there, else the seconds until it will be. `now` is `time.monotonic`."""
        with self._lock:
            left, at = self._left.pop(owner, (self._per_minute, now))
            left = min(self._per_minute, left + max(0.0, now - at) * self._per_minute / 60)
            taken = left >= 1
            self._left[owner] = (left - 1 if taken else left, now)
            if len(self._left) > MOST:
                self._left.popitem(last=False)
            return 0.0 if taken else (1 - left) * 60 / self._per_minute
