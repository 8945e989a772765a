"""Where the processes of one server share their metrics (prometheus_client, multiprocess mode): files in memory.

They are written through memory maps. On the data directory's disk, a full one would end each process that counts
something with SIGBUS, at the worst of times. This module must never import the metrics: the directory is named before.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
import stat
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import Metric

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus_client's own: the directory in which the processes of one server gather their figures."""

MEMORY = pathlib.Path("/dev/shm")  # noqa: S108 - in a directory of our own, checked to be ours


LINGER = 1.0
"""Seconds for which processes that are just being killed may still hold the directory: nobody waits for the workers of a killed API."""

LOOKS = 5
"""Looks at the directory before a scrape fails: each time a process was just taking its files away."""

# The directory's descriptor, locked as long as this process and its children live: whoever gets it alone is the last one.
_held: list[int] = []


def directory(data: pathlib.Path, memory: pathlib.Path = MEMORY) -> pathlib.Path:
    """The directory in memory of a data directory's server."""
    return memory / f"tes-server-{os.geteuid()}-{hashlib.sha256(os.fsencode(data.resolve())).hexdigest()[:16]}"


def share(data: pathlib.Path, memory: pathlib.Path = MEMORY) -> None:
    """Name the directory of this data directory's server to prometheus_client; the data directory itself where there is no memory."""
    place = directory(data, memory)
    if not _entered(place):
        place = data / "metrics"
        place.mkdir(mode=0o700, exist_ok=True)
        _enter(place)
    os.environ[VARIABLE] = str(place)


def clear() -> None:
    """Counters start at 0 with the server: drop what processes of an earlier one left."""
    for file in pathlib.Path(os.environ[VARIABLE]).glob("*.db"):
        file.unlink(missing_ok=True)


class Together:
    """What all processes of one server counted, for a registry. `place`: their directory, by default that of this process."""

    def __init__(self, place: pathlib.Path | None = None) -> None:
        self._place = place or pathlib.Path(os.environ[VARIABLE])

    def collect(self) -> Iterable[Metric]:
        """The sums. Unlike prometheus_client's own collector this one bears processes that come and go meanwhile."""
        from prometheus_client import multiprocess

        for _ in range(LOOKS):
            with contextlib.suppress(FileNotFoundError):
                # A file is made first, and given its size a moment later: until then it counts nothing, and cannot be read.
                files = [str(file) for file in self._place.glob("*.db") if file.stat().st_size]
                return multiprocess.MultiProcessCollector.merge(files)  # type: ignore[no-any-return, no-untyped-call]
        raise OSError(f"the files of {self._place} come and go too fast")


def leave() -> None:
    """This process ends; others of the server may live. The last one takes all, also what dead ones counted.

    The lock tells, not the pids of the files: a process that was killed may stay a zombie, and its pid may be another's.
    """
    place = pathlib.Path(os.environ[VARIABLE])
    for file in place.glob(f"*_{os.getpid()}.db"):
        file.unlink(missing_ok=True)
    while _held:
        held = _held.pop()
        if _alone(held):
            shutil.rmtree(place, ignore_errors=True)
        os.close(held)


def _alone(held: int) -> bool:
    """True if no other process has the directory, at the latest in a moment."""
    until = time.monotonic() + LINGER
    while True:
        with contextlib.suppress(OSError):
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() > until:
            return False
        time.sleep(0.02)


def forget(pid: int) -> None:
    """A process has died: what it said of itself holds no more."""
    if os.environ.get(VARIABLE):
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


def _entered(place: pathlib.Path) -> bool:
    """Made, or there already and nobody else's: anybody may make directories where it lies."""
    with contextlib.suppress(OSError):
        while True:
            place.mkdir(mode=0o700, exist_ok=True)
            found = place.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
                return False
            if _enter(place):
                return True
    return False


def _enter(place: pathlib.Path) -> bool:
    """False where the last one of the others has just taken the directory away."""
    held = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    fcntl.flock(held, fcntl.LOCK_SH)
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(held), place.lstat()):
            _held.append(held)
            return True
    os.close(held)
    return False
