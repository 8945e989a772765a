"""Where the processes of one server share their metrics (prometheus_client, multiprocess mode): files in memory.

They are written through memory maps. On the data directory's disk, a full one would end each process that counts
something with SIGBUS, at the worst of times. This module must never import the metrics: the directory is named before.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import shutil
import stat

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

MEMORY = pathlib.Path("/dev/shm")  # noqa: S108 - in a directory of our own, checked to be ours


def share(data: pathlib.Path, memory: pathlib.Path = MEMORY) -> None:
    """Name the directory of this data directory's server to prometheus_client; the data directory itself where there is no memory."""
    place = memory / f"tes-server-{os.geteuid()}-{hashlib.sha256(os.fsencode(data.resolve())).hexdigest()[:16]}"
    if not _made(place):
        place = data / "metrics"
        place.mkdir(mode=0o700, exist_ok=True)
    os.environ[VARIABLE] = str(place)


def clear() -> None:
    """Counters start at 0 with the server: drop what processes of an earlier one left."""
    for file in pathlib.Path(os.environ[VARIABLE]).glob("*.db"):
        file.unlink(missing_ok=True)


def leave() -> None:
    """This process ends; others of the server may live. The last one takes what its dead children counted, too."""
    place = pathlib.Path(os.environ[VARIABLE])
    for file in place.glob(f"*_{os.getpid()}.db"):
        file.unlink(missing_ok=True)
    if not any(pathlib.Path("/proc", file.stem.rpartition("_")[2]).exists() for file in place.glob("*.db")):
        shutil.rmtree(place, ignore_errors=True)


def forget(pid: int) -> None:
    """A process has died: what it said of itself holds no more."""
    if os.environ.get(VARIABLE):
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


def _made(place: pathlib.Path) -> bool:
    """Made, or there already and nobody else's: anybody may make directories where it lies."""
    with contextlib.suppress(OSError):
        place.mkdir(mode=0o700, exist_ok=True)
        found = place.lstat()
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
    return False
