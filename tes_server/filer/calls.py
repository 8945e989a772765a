"""Calls of an asynchronous SDK from threads that must be able to stop.

A calling thread runs an event loop for as long as its call takes, so that no call waits for another's, and none is handed
from thread to thread. A call that is stopped is cancelled, its connection closed. This module must never know what is called.
"""

from __future__ import annotations

import asyncio
import atexit
import collections
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from tes_server import errors
from tes_server.filer.control import POLL, Control

Answer = TypeVar("Answer")

_idle: collections.deque[asyncio.AbstractEventLoop] = collections.deque()
"""Loops that nobody runs now: each has a few descriptors, and making one costs more than a small call."""

SETTLING = 0.1
"""Seconds before the interpreter's end in which threads of the SDK give back what their last calls left."""


def run(call: Coroutine[Any, Any, Answer], control: Control, farewell: float = 0.0) -> Answer:
    """The answer of a call, or its error. Raises `errors.Canceled` soon after the control stops; the call is cancelled then.

    `farewell`: seconds that the call has before, if it knows by itself that it is to end.
    """
    try:
        loop = _idle.pop()
    except IndexError:
        loop = asyncio.new_event_loop()
    task = loop.create_task(call)
    watch = _Watch(loop, task, control, farewell)
    try:
        return loop.run_until_complete(task)
    except asyncio.CancelledError:
        raise errors.Canceled("the transfer was stopped") from None
    finally:
        watch.end()
        if task.done():
            _idle.append(loop)
        else:  # the thread was interrupted, by a signal: what is left of the call ends with its loop
            loop.close()


class _Watch:
    """Cancels a task soon after the control stops. Holds nothing once it has ended: answers are large, and cycles live on for a while."""

    def __init__(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any], control: Control, farewell: float) -> None:
        self._loop = loop
        self._task = task
        self._control = control
        self._farewell = farewell
        self._next = loop.call_later(POLL, self._look)

    def _look(self) -> None:
        stopped = self._control.stopped()
        self._next = self._loop.call_later(self._farewell, self._task.cancel) if stopped else self._loop.call_later(POLL, self._look)

    def end(self) -> None:
        """Look no more."""
        self._next.cancel()


@atexit.register
def _settle() -> None:
    """A thread of the SDK that meets the interpreter's end aborts the process (https://github.com/PyO3/pyo3-async-runtimes/issues/40)."""
    if _idle:
        time.sleep(SETTLING)
