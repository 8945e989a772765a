"""What dead runners left on a node: containers are ended and removed, directories deleted.

A runner that lives holds the lock of its attempt (`node_place`); whoever gets the lock of one instead knows that it is dead. Any number of
processes may sweep at once. This module must never touch an attempt whose lock is held.
"""

from __future__ import annotations

import logging
import pathlib
import threading
from collections.abc import Callable, Iterable

from tes_server import errors, telemetry
from tes_server.runner import node_engine, site
from tes_server.runner.docker import DockerEngine
from tes_server.runner.node_place import Lock, Place

logger = logging.getLogger(__name__)


def end(place: Place, engine: DockerEngine) -> int:
    """End and remove the containers of dead runners; how many. Quick, whatever they left on the disk."""
    ended = 0
    for name in sorted({site.attempt_of(cell) for cell in engine.survey()}):
        lock = place.take(name)
        if lock is not None:
            try:
                ended += remove(engine, [name])
            finally:
                lock.release()
    return ended


def sweep(place: Place, engine: DockerEngine) -> int:
    """The same, and delete their directories; how many attempts it was. What cannot be done now is logged, and left for the next one."""
    names = place.names() | {site.attempt_of(cell) for cell in engine.survey()}
    taken: dict[str, Lock] = {}
    try:
        for name in sorted(names):
            if (lock := place.take(name)) is not None:
                taken[name] = lock
        if taken:
            remove(engine, taken)  # all of them before the first directory, which may take long
        return sum(wipe(place, engine, name) for name in taken)
    finally:
        for lock in taken.values():
            lock.release()


def repeat(sweeping: Callable[[Place, DockerEngine], int], work: str, seconds: float, stop: threading.Event) -> None:
    """`end` or `sweep` the directory `work` every so often, until `stop`. What fails is logged, and tried again."""
    engine = node_engine.connect(work)
    failed = ""
    while True:
        try:
            sweeping(Place(pathlib.Path(work)), engine)
            failed = ""
        except (OSError, errors.EngineError) as cause:
            if str(cause) != failed:  # once, however long the daemon is away
                telemetry.log(logger, logging.ERROR, "node.sweep.failed", error=str(cause))
            failed = str(cause)
        if stop.wait(seconds):
            return


def remove(engine: DockerEngine, names: Iterable[str]) -> int:
    """End and remove all containers of attempts; the caller has their locks, so that there will be no more of them."""
    wanted = set(names)
    found = [cell for cell in engine.survey() if site.attempt_of(cell) in wanted]
    for cell in found:
        engine.discard(cell)
        telemetry.log(logger, logging.WARNING, "node.container.ended", cell=cell)
    return len(found)


def wipe(place: Place, engine: DockerEngine, name: str) -> bool:
    """Delete the directory of an attempt whose lock the caller has. False, and in the log, if that cannot be done now."""
    try:
        engine.wipe(place.attempts / name)
    except (OSError, errors.EngineError) as cause:
        telemetry.log(logger, logging.WARNING, "node.files.kept", attempt=name, error=str(cause))
        return False
    telemetry.log(logger, logging.INFO, "node.files.deleted", attempt=name)
    return True
