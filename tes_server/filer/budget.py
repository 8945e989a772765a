"""A bound on the memory that transfers of this process hold together, however many there are and however large their files.

Who wants memory says how much, waits in line, and gives it back. It must never be asked twice by one thread at a time.
"""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Iterator

from tes_server.filer.control import POLL, Control
from tes_server.filer.manifest import MiB


class Budget:
    """So many bytes, given in the order in which they are asked for: a large wish is not starved by small ones."""

    def __init__(self, total: int) -> None:
        self._free = self._total = total
        self._changed = threading.Condition()
        self._line: collections.deque[object] = collections.deque()

    @contextlib.contextmanager
    def taken(self, wish: int, control: Control) -> Iterator[None]:
        """Hold `wish` bytes (all there are, if it is more) during the block. Raises `errors.Canceled` while it waits."""
        wish = min(wish, self._total)
        ticket = object()
        with self._changed:
            self._line.append(ticket)
            try:
                while self._line[0] is not ticket or self._free < wish:
                    control.check()
                    self._changed.wait(POLL)
                self._free -= wish
            finally:
                self._line.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += wish
                self._changed.notify_all()


MEMORY = Budget(512 * MiB)
"""What all transfers of this process with object stores hold at a time, both ways."""
