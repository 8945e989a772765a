"""The wish to end an attempt, and the waits that it cuts short.

Uttered from any thread, never taken back. A time-out still wants the outputs; a cancel, or a stop from outside (LOST), does without them and
beats it. This module must never know what is waited for, nor end anything itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from tes_server import errors
from tes_server.model.run import Reason

T = TypeVar("T")


class Halt:
    """`reason` is None until somebody wants the attempt to end. Thread-safe."""

    def __init__(self, reason: Reason | None = None) -> None:
        self.reason = reason
        self._changed = threading.Condition()

    def wish(self, reason: Reason) -> None:
        """End the attempt, for `reason`."""
        with self._changed:
            if self.reason in (None, Reason.TIMEOUT):
                self.reason = reason
            self._changed.notify_all()

    def pause(self, seconds: float) -> None:
        """Sleep. Raises `errors.Canceled` as soon as the wish is there."""
        with self._changed:
            if self._changed.wait_for(lambda: self.reason is not None, seconds):
                raise errors.Canceled("stopped")

    def unless(self, call: Callable[[], T]) -> T:
        """The result of `call`, which gets a thread of its own. Raises `errors.Canceled` as soon as the wish is there.

        The call then goes on by itself and nobody hears of its end: only for what does no harm when it comes late.
        """
        done = Future[T]()

        def work() -> None:
            try:
                done.set_result(call())
            except BaseException as cause:  # noqa: BLE001 raised again by whoever waits
                done.set_exception(cause)
            with self._changed:
                self._changed.notify_all()

        threading.Thread(target=work, name="aside", daemon=True).start()
        with self._changed:
            self._changed.wait_for(lambda: done.done() or self.reason is not None)
        if not done.done():
            raise errors.Canceled("stopped")
        return done.result()
