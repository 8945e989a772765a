"""Calls of an asynchronous SDK from threads that must be able to stop.

A calling thread runs an event loop for as long as its call takes, so that no call waits for another's, and none is handed
from thread to thread. A call that is stopped is cancelled, its connection closed. This module must never know what is called.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Coroutine
from typing import Any, TypeVar

from tes_server import errors
from tes_server.filer.control import POLL, Control

Answer = TypeVar("Answer")

_idle: collections.deque[asyncio.AbstractEventLoop] = collections.deque()
"""Loops that nobody runs now: each has a few descriptors, and making one costs more than a small call."""


def run(call: Coroutine[Any, Any, Answer], control: Control, farewell: float = 0.0) -> Answer:
    """The answer of a call, or its error. Raises `errors.Canceled` soon after the control stops; the call is cancelled then.

    `farewell`: seconds that the call has before, if it knows by itself that it is to end.
    """
    try:
        loop = _idle.pop()
    except IndexError:
        loop = asyncio.new_event_loop()
    task = loop.create_task(call)
    looking: asyncio.TimerHandle

    def look() -> None:
        nonlocal looking
        looking = loop.call_later(farewell, task.cancel) if control.stopped() else loop.call_later(POLL, look)

    looking = loop.call_later(POLL, look)
    try:
        return loop.run_until_complete(task)
    except asyncio.CancelledError:
        raise errors.Canceled("the transfer was stopped") from None
    finally:
        looking.cancel()
        if task.done():
            _idle.append(loop)
        else:  # the thread was interrupted, by a signal: what is left of the call ends with its loop
            loop.close()
