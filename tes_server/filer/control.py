"""Stopping a transfer, and how far it is: one object that every long loop asks and tells, and that wakes threads which wait for a socket.

It must never decide why work stops; the caller's `stopped` does.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from tes_server import errors

POLL = 0.1
"""Seconds between two looks at `stopped`, which is a plain function: it cannot wake anybody."""


class Control:
    """The stop signal of one stage step, or of a part of one (`below`). Thread-safe. `moved`: call it with the number of bytes that passed."""

    def __init__(self, stopped: Callable[[], bool], moved: Callable[[int], None] = lambda _: None) -> None:
        self._stopped = stopped
        self.moved = moved
        self._ended = False
        self._lock = threading.Lock()
        self._actions: list[Callable[[], None]] = []
        self._over = threading.Event()
        self._over.set()  # until the block of `watched`
        self._watcher: threading.Thread | None = None

    def below(self) -> Control:
        """A control for a part of the work: it stops with this one, but stopping it leaves this one alone."""
        return Control(self.stopped, self.moved)

    def stopped(self) -> bool:
        """True once the work should end."""
        return self._ended or self._stopped()

    def check(self) -> None:
        """Raise `errors.Canceled` once the work should end. Cheap; call it at least every few MiB."""
        if self.stopped():
            raise errors.Canceled("the transfer was stopped")

    def pause(self, seconds: float) -> None:
        """Sleep, unless the work should end: then raise `errors.Canceled` within `POLL` seconds."""
        until = time.monotonic() + seconds
        self.check()
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(POLL, left))
            self.check()

    def on_end(self, action: Callable[[], None]) -> None:
        """Let `end` call `action`, from another thread: it must make waits fail that do not look at the control. May not raise."""
        with self._lock:
            self._actions.append(action)
            if self._watcher is None and not self._over.is_set():  # without an action there is nobody to wake: most steps need no thread for it
                self._watcher = threading.Thread(target=self._watch, name="tes-stop", daemon=True)
                self._watcher.start()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Within the block `end` follows soon when `stopped` says so, also while this very thread waits for a socket."""
        self._over = threading.Event()
        try:
            yield
        finally:
            with self._lock:
                self._over.set()
                watcher, self._watcher = self._watcher, None
            if watcher is not None:
                watcher.join()

    def _watch(self) -> None:
        while not self._over.wait(POLL):
            if self.stopped():
                self.end()
                return

    def end(self) -> None:
        """Stop the work: `stopped` is true from now on, and what waits is woken. Idempotent."""
        self._ended = True
        with self._lock:
            for action in self._actions:
                action()
