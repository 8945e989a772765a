"""What tes-step tells of an executor that nobody else in its pod waits for (`--tell`, step/tell.c). Pure.

A line is as far to be trusted as the executor, which may write to the same places: it can lie about itself, and about nothing else.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from tes_server.runner import records
from tes_server.runner.engine import Exit
from tes_server.runner.pod_end import Ending

Nanoseconds = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
"""since 1970"""


class Kept(msgspec.Struct, frozen=True):
    """What is kept of a stream: its first and its last bytes, and how many lay between them."""

    left_out: Annotated[int, msgspec.Meta(ge=0)]
    head: str
    tail: str

    @property
    def text(self) -> str:
        """As in a log of the task."""
        return self.head + records.gap(self.left_out) + self.tail


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """One line. `end` None: the command runs."""

    tes_step: Literal[1]
    start: Nanoseconds
    end: Nanoseconds | None = None
    code: Annotated[int, msgspec.Meta(ge=0, le=255)] = 0
    signal: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    failed: bool = False
    cut: bool = False
    late: bool = False
    oom: bool = False
    stdout: Kept
    stderr: Kept

    @property
    def whole(self) -> bool:
        """True if nothing of its streams is left out."""
        return not self.stdout.left_out and not self.stderr.left_out

    @property
    def ending(self) -> Ending:
        """For `pod_end.judge`."""
        begun = records.time_of(self.start)
        ended = None
        if self.end is not None:
            oom = self.oom and self.code != 0
            ended = Exit(code=self.code, signal=self.signal, start_time=begun, end_time=records.time_of(self.end), oom=oom)
        return Ending(stdout=self.stdout.text, stderr=self.stderr.text, start_time=begun, ended=ended, failed=self.failed, cut=self.cut, late=self.late)


def read(line: str | bytes) -> Told | None:
    """One line, or a termination message; None if it is none of tes-step's."""
    try:
        return msgspec.json.decode(line if isinstance(line, str) else line.decode("utf-8", "replace"), type=Told)
    except (msgspec.MsgspecError, RecursionError):
        return None


def last(log: bytes) -> Told | None:
    """What was told last in a log."""
    return next((told for line in reversed(log.splitlines()) if (told := read(line)) is not None), None)
