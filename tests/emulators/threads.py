"""Threads that are waited for at the end, and pauses that an end cuts short."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Threads:
    """Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._closed = threading.Event()

    def spawn(self, target: Callable[[], None]) -> None:
        """A thread that `join` waits for."""
        thread = threading.Thread(target=target)
        with self._lock:
            thread.start()
            self._threads = [one for one in self._threads if one.is_alive()] + [thread]

    def pause(self, seconds: float) -> None:
        """Until then, or until the end."""
        self._closed.wait(seconds)

    def end(self) -> None:
        """Pauses are over."""
        self._closed.set()

    def join(self) -> None:
        """Those that have been spawned so far, and what they spawn."""
        while True:
            with self._lock:
                threads = [one for one in self._threads if one.is_alive()]
            if not threads:
                return
            for thread in threads:
                thread.join()
