"""The environment of an executor by a named pipe: secrets in it are in memory only, on no disk and in no answer of the daemon.

tes-step opens the pipe in its record directory before it does anything else, and waits there for whoever started the container. This module must never
write a value into a file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable

from tes_server import errors
from tes_server.runner import docker_spec, records
from tes_server.runner.engine import Cell
from tes_server.telemetry import Code

SHORTEST, LONGEST = 0.005, 0.25
"""Seconds between two looks for the reader, doubled each time up to the second: a container takes some tenths of a second to start."""


def make(cell: Cell) -> None:
    """The pipe, which the image's user may read, whoever that is. Idempotent."""
    pipe = cell.record / docker_spec.PIPE
    if os.path.lexists(pipe):
        return
    os.mkfifo(pipe)
    descriptor = os.open(pipe, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.chmod(f"/proc/self/fd/{descriptor}", 0o666)  # noqa: PTH101, S103 - of what we opened, whatever takes its name
    finally:
        os.close(descriptor)


def give(cell: Cell, running: Callable[[], bool]) -> None:
    """Write the environment once tes-step reads, and remove the pipe. Returns without that where the command has begun before, or nothing runs any more."""
    body = b"".join(word.encode() + b"\0" for word in docker_spec.variables(cell))
    pipe = cell.record / docker_spec.PIPE
    delay = SHORTEST
    while records.start(cell.record) is None:
        try:
            descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as cause:
            if cause.errno != errno.ENXIO:  # ENXIO: nobody reads yet
                raise
        else:
            _write(descriptor, body)
            pipe.unlink(missing_ok=True)
            return
        time.sleep(delay)
        delay = min(2 * delay, LONGEST)
        if delay == LONGEST and not running():
            return


def _write(descriptor: int, body: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file, contextlib.suppress(BrokenPipeError):  # it was killed, which whoever waits for it will tell
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            raise errors.EngineError("the command has put something else in place of the pipe for its environment", Code.ENGINE_ERROR)
        os.set_blocking(descriptor, True)
        file.write(body)
        file.flush()
