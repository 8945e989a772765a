"""Paths inside a task's volume, walked without ever following a link: an earlier executor may have left one as a trap.

While this runs nothing of the task does, so that what was checked stays so.
"""

from __future__ import annotations

import os
import pathlib

from tes_server import errors
from tes_server.telemetry import Code

_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def place(volume: pathlib.Path, path: str, *, directory: bool) -> None:
    """Make sure that `volume` + `path` is a directory, or else a file, making what is missing (0777, 0666).

    `errors.EngineError` (REJECTED) where a link or something else stands in the way.
    """
    parts = pathlib.PurePosixPath(path).parts[1:]
    here = os.open(volume, _STEP | os.O_DIRECTORY)
    try:
        for index, name in enumerate(parts):
            last = index == len(parts) - 1
            below = _enter(here, name, directory or not last)
            os.close(here)
            here = below
    except OSError as cause:
        raise errors.EngineError(f"{path} cannot be mounted: {cause.strerror} (the task put something else in its place?)", Code.REJECTED) from cause
    finally:
        os.close(here)


def _enter(parent: int, name: str, directory: bool) -> int:
    if not directory:
        os.close(os.open(name, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666, dir_fd=parent))
        return os.open(name, _STEP, dir_fd=parent)
    try:
        return os.open(name, _STEP | os.O_DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        os.mkdir(name, 0o777, dir_fd=parent)
        made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        os.fchmod(made, 0o777)  # whatever the server's umask
        return made
