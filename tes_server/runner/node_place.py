"""The directory of a node in which its runners work: their attempts, the locks that say which of them live, and tes-step for their containers.

| path | what |
|---|---|
| attempts/NAME/ | a `runner.attempt.Attempt`, NAME = `<task>-<attempt>` |
| locks/NAME | held by whoever works on that attempt, for as long as its process lives |
| bin/tes-step-HASH | tes-step, where the node's Docker daemon finds it |

The lock is taken before the directory is made and let go after it was deleted, so that a directory whose lock is free is nobody's.
All of it is for this user only. This module must never ask a container engine.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pathlib

from tes_server import step
from tes_server.runner import attempt


class Lock:
    """The lock of one attempt. Goes with the process that has it."""

    def __init__(self, path: pathlib.Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def release(self) -> None:
        """Let it go. Its file is deleted first, while nobody else can have it."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


class Place:
    """The node's directory `work`; made if missing. OSError where the disk does not let us."""

    def __init__(self, work: pathlib.Path) -> None:
        self.work = work
        self.attempts = work / "attempts"
        self._locks = work / "locks"
        self._bin = work / "bin"
        for path in (work, self.attempts, self._locks, self._bin):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def names(self) -> set[str]:
        """The attempts that have left anything here."""
        return {path.name for folder in (self.attempts, self._locks) for path in folder.iterdir()}

    def take(self, name: str) -> Lock | None:
        """The lock of an attempt, None if somebody has it. Never waits."""
        path = self._locks / name
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            if _is_at(descriptor, path):
                return Lock(path, descriptor)
            os.close(descriptor)  # whoever had it deleted it between our open and our lock

    def program(self) -> pathlib.Path:
        """tes-step below this directory, put there by the first who needs it. Named by its content: a newer one does not disturb what runs."""
        body = step.path().read_bytes()
        target = self._bin / f"tes-step-{hashlib.sha256(body).hexdigest()[:16]}"
        if attempt.read(target) != body:  # what a power cut left may be short
            made = target.with_name(f".{target.name}.{os.getpid()}")
            made.write_bytes(body)
            made.chmod(0o755)
            made.replace(target)
        return target


def _is_at(descriptor: int, path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False
