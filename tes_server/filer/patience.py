"""How often one transfer may fail, and how long it waits before it is tried again.

Shared by the schemes that speak their protocol themselves. It must never decide whether a failure is worth another try.
"""

from __future__ import annotations

from tes_server.errors import StagingError
from tes_server.filer.control import Control
from tes_server.filer.manifest import Access
from tes_server.telemetry import Code


class Passing(Exception):
    """Something that may go better next time, in words that may be shown. `after` is what the server asks us to wait, in seconds."""

    def __init__(self, words: str, after: float = 0.0) -> None:
        super().__init__(words)
        self.words = words
        self.after = after


class Patience:
    """The tries of one transfer, or of one part of one. Not thread-safe."""

    def __init__(self, access: Access, control: Control, code: Code, position: int = 0) -> None:
        """`code` is what the transfer fails with; `position` the byte at which it begins."""
        self._access = access
        self._control = control
        self._code = code
        self._failures = 0
        self._mark = position

    def failed(self, met: Passing, position: int = 0) -> None:
        """Wait before the next try. Raises StagingError (transient) when it is not worth one more, or Canceled.

        A transfer that got on by a whole part since failures were counted, to `position`, begins to count anew: a long one
        may break more often than a short one.
        """
        self._control.check()
        if not self._mark <= position < self._mark + self._access.part_bytes:
            self._failures = 0 if position > self._mark else self._failures
            self._mark = position
        self._failures += 1
        if self._failures >= self._access.tries:
            raise StagingError(f"{met.words}, {self._failures} times in a row", self._code, transient=True) from met
        delay = max(met.after, self._access.first_delay * 2 ** (self._failures - 1))
        self._control.pause(min(delay, self._access.longest_delay))
