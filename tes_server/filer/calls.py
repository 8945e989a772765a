"""Calls of an asynchronous SDK from threads that must be able to stop.

One thread with an event loop serves the process; whoever calls waits for the answer and looks at its control meanwhile. A
call that is stopped is cancelled, its connection closed. This module must never know what is called.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from tes_server.filer.control import POLL, Control

Answer = TypeVar("Answer")

_lock = threading.Lock()
_loops: list[asyncio.AbstractEventLoop] = []


def _loop() -> asyncio.AbstractEventLoop:
    """The process's one, made at the first call and kept: connections and credentials of stores outlive a stage step."""
    with _lock:
        if not _loops:
            _loops.append(asyncio.new_event_loop())
            threading.Thread(target=_loops[0].run_forever, name="tes-calls", daemon=True).start()
        return _loops[0]


def start(call: Coroutine[Any, Any, Answer]) -> concurrent.futures.Future[Answer]:
    """Begin a call; `finish` waits for it."""
    return asyncio.run_coroutine_threadsafe(call, _loop())


def finish(begun: concurrent.futures.Future[Answer], control: Control, farewell: float = 0.0) -> Answer:
    """The answer of a call, or its error. Raises `errors.Canceled` soon after the control stops; the call is cancelled then.

    `farewell`: seconds that the call has before, if it knows by itself that it is to end.
    """
    try:
        while True:
            control.check()
            try:
                return begun.result(POLL)
            except TimeoutError:
                if begun.done():  # it was the call's own
                    raise
    except BaseException:
        concurrent.futures.wait((begun,), farewell)
        begun.cancel()
        raise


def run(call: Coroutine[Any, Any, Answer], control: Control) -> Answer:
    """A call from begin to end."""
    return finish(start(call), control)
