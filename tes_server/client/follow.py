"""Following the output of one task: what is new in each look, though servers keep only a head and a tail of it.

Must never print by itself: text goes to `emit`, remarks to `notice`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Literal

from tes_server.client import polling
from tes_server.client.answers import ExecutorLog, Task

StreamName = Literal["stdout", "stderr"]
Emit = Callable[[StreamName, str], None]

_LEFT_OUT = re.compile(r"\n?[^\n]*?(\d+) bytes[^\n]*(?:left out|omitted|truncated)[^\n]*\n?")
"""The line that a server puts where it left something out: ours, and what others are known to write."""

_ANCHOR = 1024
"""Characters by which a place is recognised where the server does not say how much it left out."""


class Stream:
    """One stream of one executor: turns snapshots of it into what was not shown before.

    Places are counted in bytes of the whole stream, which is how servers tell what they left out.
    """

    def __init__(self) -> None:
        self._last = ""
        self._end = 0

    def goes_on(self, text: str) -> bool:
        """False if this snapshot cannot be of the same stream, as its beginning is another one."""
        before, head = _head(self._last), _head(text)
        return head.startswith(before) or (head != text and before.startswith(head))

    def news(self, text: str) -> tuple[int | None, str]:
        """What to show for this snapshot: bytes lost since the last one (0 = none, None = some, not known how many), then text."""
        last, self._last = self._last, text
        if text == last:
            return 0, ""
        marker = _LEFT_OUT.search(text, _line_at(text, _common(last, text)))
        if text.startswith(last) and not (marker and marker.start() < len(last)):  # else the end of `last` was the marker's first line break
            new = text[len(last) :]
            self._end = _size(text[: marker.start()]) + int(marker[1]) + _size(text[marker.end() :]) if marker else self._end + _size(new)
            return 0, new
        if marker:
            tail_at = _size(text[: marker.start()]) + int(marker[1])
            tail = _bytes(text[marker.end() :])
            shown, self._end = self._end - tail_at, tail_at + len(tail)
            return max(0, -shown), tail[max(0, shown) :].decode(errors="replace")
        anchor = last[-_ANCHOR:]
        at = text.rfind(anchor)
        return (0, text[at + len(anchor) :]) if at >= 0 else (None, text)


class Follower:
    """One task's output so far. `run` may be called again after an interruption and goes on where it was."""

    def __init__(
        self, look: Callable[[], Task], emit: Emit, notice: Callable[[str], None], sleep: Callable[[float], None] = time.sleep, executor: int | None = None
    ) -> None:
        """`look` gets the task with its output (view FULL). `executor`: only that one's streams, counted from 0."""
        self._look = look
        self._emit = emit
        self._notice = notice
        self._sleep = sleep
        self._executor = executor
        self._attempt: tuple[int, str | None] = (0, None)
        self._streams: dict[tuple[int, StreamName], Stream] = {}

    def run(self) -> Task:
        """Emit what comes until the task has ended; returns the ended task."""
        pace = polling.Pace(longest=3.0)
        state = None
        while True:
            task = self._look()
            changed = self.show(task) or task.state != state
            state = task.state
            if task.ended:
                return task
            self._sleep(pace.delay(changed))

    def show(self, task: Task) -> bool:
        """Emit what is new in this look; True if there was something."""
        log = task.last_log
        attempt = (len(task.logs or []), log.start_time)
        if attempt[0] != self._attempt[0]:
            self._streams.clear()  # a new attempt writes its output from the start
        elif self._attempt[1] and attempt[1] != self._attempt[1] and not self._goes_on(log.logs or []):
            self._streams.clear()  # so does one that a server shows in place of the one before
        self._attempt = attempt
        shown = False
        for index, executor in enumerate(log.logs or []):
            if self._executor in (None, index):
                shown |= self._update(index, "stdout", executor.stdout)
                shown |= self._update(index, "stderr", executor.stderr)
        return shown

    def _goes_on(self, logs: list[ExecutorLog]) -> bool:
        """True if every stream begins as before: the same attempt, of which the server knows now when it really started."""
        texts = {(index, name): getattr(executor, name) or "" for index, executor in enumerate(logs) for name in ("stdout", "stderr")}
        return all(stream.goes_on(texts.get(place, "")) for place, stream in self._streams.items())

    def _update(self, index: int, name: StreamName, text: str | None) -> bool:
        lost, new = self._streams.setdefault((index, name), Stream()).news(text or "")
        if lost is None or lost > 0:
            self._notice(f"{f'{lost} bytes' if lost else 'some'} of {name} left out here: the server keeps only its head and tail")
        if new:
            self._emit(name, new)
        return bool(new)


def _head(text: str) -> str:
    """What stands before the server's remark on what it left out."""
    marker = _LEFT_OUT.search(text)
    return text[: marker.start()] if marker else text


def _common(one: str, other: str) -> int:
    """Length of the common beginning."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _line_at(text: str, at: int) -> int:
    """The line break before the line that holds `at`: the figures of two markers may begin alike."""
    return max(0, text.rfind("\n", 0, at))


def _size(text: str) -> int:
    return len(_bytes(text))


def _bytes(text: str) -> bytes:
    """What the server counted: a character that it cut in two came as one replacement for each byte that was left of it."""
    return text.encode(errors="replace").replace("\ufffd".encode(), b"\xff")
