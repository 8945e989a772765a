"""What was found out about credentials a moment ago, so that checking them does not cost each request.

Keeps no credentials, only keyed hashes of them, whose key is this process's own. Good and bad ones are kept apart: whoever
guesses cannot crowd out those who know. For one event loop; must never be asked from another thread.
"""

from __future__ import annotations

import collections
import hashlib
import secrets
from typing import Generic, TypeVar

T = TypeVar("T")

MOST = 10_000
"""Entries: more users than that at once are checked again, some milliseconds each."""


class Remembered(Generic[T]):
    """Values by credentials, each for a time of its own, the oldest forgotten first. Times are `time.monotonic`."""

    def __init__(self, most: int = MOST) -> None:
        self._entries: collections.OrderedDict[bytes, tuple[float, object, T]] = collections.OrderedDict()
        self._most = most
        self._secret = secrets.token_bytes(32)

    def get(self, credentials: bytes, version: object, now: float) -> T | None:
        """What was kept under the same version of whatever decides, if its time has not run out."""
        key = self._key(credentials)
        entry = self._entries.get(key)
        if entry is None:
            return None
        until, seen, value = entry
        if now >= until or seen != version:
            del self._entries[key]
            return None
        return value

    def put(self, credentials: bytes, version: object, value: T, until: float) -> None:
        """Keep a value until then."""
        key = self._key(credentials)
        self._entries[key] = (until, version, value)
        self._entries.move_to_end(key)
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)

    def _key(self, credentials: bytes) -> bytes:
        return hashlib.blake2b(credentials, digest_size=16, key=self._secret).digest()
