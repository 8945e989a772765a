"""A few threads that do the jobs of one stage step, with a bounded queue, and how files become jobs.

It must never know what a job does. Jobs must ask the control now and then.
"""

from __future__ import annotations

import concurrent.futures
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from tes_server.filer.control import POLL, Control

BATCH = 64
"""Small files given to a thread at once: handing over each by itself costs as much as copying it."""
SMALL = 256 * 1024
"""Bytes up to which a file counts as small."""


class Crew:
    """Runs jobs in `size` threads. The first job that raises ends all: its error is raised by the next call here.

    A context manager; leaving it normally waits for all jobs, leaving it by an exception ends the control first.
    """

    def __init__(self, control: Control, size: int, name: str) -> None:
        self._control = control
        self._bound = 2 * size
        self._pool = concurrent.futures.ThreadPoolExecutor(size, thread_name_prefix=name)
        self._running: set[Future[None]] = set()

    def submit(self, job: Callable[[], None]) -> None:
        """Queue a job; waits while twice as many as there are threads are under way, so that memory stays bounded."""
        self._wait(self._bound - 1)
        self._running.add(self._pool.submit(job))

    def drain(self) -> None:
        """Wait until no job is under way."""
        self._wait(0)

    def _wait(self, most: int) -> None:
        while True:
            done = {job for job in self._running if job.done()}
            self._running -= done
            for job in done:
                job.result()
            self._control.check()
            if len(self._running) <= most:
                return
            concurrent.futures.wait(self._running, timeout=POLL, return_when=FIRST_COMPLETED)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self.drain()
        except BaseException:
            self._control.end()
            raise
        finally:
            if kind is not None:
                self._control.end()
            self._pool.shutdown(wait=True, cancel_futures=True)


class _Sized(Protocol):
    @property
    def size(self) -> int:
        """Bytes, or -1 if unknown."""


F = TypeVar("F", bound=_Sized)


class Batches(Generic[F]):
    """Gives files to a crew: large ones one by one, small ones in batches. `job` takes one batch."""

    def __init__(self, crew: Crew, job: Callable[[Sequence[F]], None]) -> None:
        self._crew = crew
        self._job = job
        self._small: list[F] = []

    def add(self, file: F) -> None:
        """Queue one file, or keep it for a batch. May wait, as `Crew.submit` does."""
        if not 0 <= file.size <= SMALL:
            self._crew.submit(functools.partial(self._job, (file,)))
            return
        self._small.append(file)
        if len(self._small) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Queue what was kept."""
        if self._small:
            self._crew.submit(functools.partial(self._job, tuple(self._small)))
            self._small.clear()
