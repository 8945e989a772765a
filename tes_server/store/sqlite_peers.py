"""What processes on one data directory agree on: whose turn it is to write, who reconciles, and a tap on the shoulder.

All of it is the kernel's, so a process that is killed leaves nothing to clean up. Must never touch the database.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import select
import stat
import threading
from types import TracebackType

from tes_server import errors


def _open(path: pathlib.Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


class Turn:
    """The right to write, for the length of a `with` block; waits for it without polling. One thread at a time may use an instance."""

    def __init__(self, path: pathlib.Path) -> None:
        self._fd = _open(path)

    def __enter__(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the file back."""
        os.close(self._fd)


class Claim:
    """Something that one process has until it lets go or dies."""

    def __init__(self, path: pathlib.Path) -> None:
        self._fd = _open(path)
        self._held = False

    def take(self) -> bool:
        """True if it is ours, now or already."""
        if not self._held:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._held = True
        return self._held

    def close(self) -> None:
        """Let go."""
        os.close(self._fd)


class Hint:
    """A tap on the shoulder of the one process that waits: a FIFO beside the database.

    Opened for reading and writing (fifo(7)), so that a poke neither needs a reader nor can meet SIGPIPE.
    """

    def __init__(self, path: pathlib.Path) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISFIFO(os.fstat(self._fd).st_mode):
            os.close(self._fd)
            raise errors.SettingsError("this name is needed for a FIFO", str(path))
        self._ready = select.poll()
        self._ready.register(self._fd, select.POLLIN)
        self._waiting = threading.Lock()
        self._closed = False

    def poke(self) -> None:
        """Wake whoever waits; never blocks, costs one write of a byte."""
        with contextlib.suppress(OSError):  # full: whoever waits has been told 65,536 times; and a hint is never worth a failed write
            os.write(self._fd, b"!")

    def wait(self, seconds: float) -> bool:
        """True after a poke, made before or during the call; False after `seconds`."""
        with self._waiting:
            if self._closed or not self._ready.poll(seconds * 1000):
                return False
            with contextlib.suppress(BlockingIOError):  # another process took it
                os.read(self._fd, 65536)
            return True

    def close(self) -> None:
        """Wake our own waiter and give the file back."""
        self._closed = True
        while not self._waiting.acquire(timeout=0.01):
            self.poke()  # again and again: another process's waiter may take ours
        os.close(self._fd)
        self._waiting.release()
