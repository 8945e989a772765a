"""How programs of ours hear TERM and Ctrl-C: `hear` while they work, `unwind` while they start or wait for their turn.

A handler interrupts the main thread between any two of its steps, also while that one holds the very lock that the handler wants: an Event that a
handler sets hangs the process now and then, for ever. So no handler of ours takes a lock. This module must never import what takes time: see
`runner.node_main`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

ASKED = (signal.SIGTERM, signal.SIGINT)
"""What asks a server to end: its supervisor, or Ctrl-C."""

# What came while the main thread was to be unwound.
_came: list[int] = []


def hear(act: Callable[[], object], *numbers: signal.Signals) -> None:
    """From now on each of these signals calls `act`, in a thread of its own: it may take locks, and waits for nothing that the main thread does.
    One that should have unwound the main thread before, and did not, counts.

    Once in a process, by its main thread. A fork has no such thread, and must `forget` at once: what it hears would be told here.
    """
    heard, told = os.pipe()
    os.set_blocking(told, False)

    def listen() -> None:
        while True:
            if os.read(heard, 1)[0] in numbers:
                act()

    threading.Thread(target=listen, name="signals", daemon=True).start()
    # The interpreter's own handler writes the number there, in whichever thread the kernel chose; ours would have to wait for the main thread.
    # While the pipe is full there is enough to be heard.
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, _told)
    os.write(told, bytes(_came))


def unwind(*numbers: signal.Signals) -> None:
    """From now on each of these signals ends the main thread where it is: its `finally` are run, and the exit code is 0. To be `heed`ed after imports."""
    for number in numbers:
        signal.signal(number, _exit)


def heed() -> None:
    """End here if one came, but the main thread lived on: an import now and then swallows whatever exception meets it in some place."""
    if _came:
        sys.exit(0)


def forget(*numbers: signal.Signals) -> None:
    """As in a program that just began: each of these signals ends the process."""
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def put_off(*numbers: signal.Signals) -> Iterator[None]:
    """These signals come after the block: for what must be done as a whole, and takes no time."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _told(_number: int, _frame: object) -> None:
    """A signal without a handler would not be written anywhere."""


def _exit(number: int, _frame: object) -> None:
    _came.append(number)
    sys.exit(0)
