"""The thread that asks each job, every so often, which of its tasks have changed. What that costs follows from changes, not from tasks.

The first look at a job shows all of it; each later one what changed since the one before, by the clock of Azure Batch itself and with an overlap.
Seldom one shows all that has not ended: a task that somebody deleted changes no more. Concludes nothing: what is not shown any more has to be asked for.
"""

from __future__ import annotations

import datetime
import logging
import threading
import time
from collections.abc import Callable, Collection

import msgspec

from tes_server import errors, telemetry
from tes_server.backends.azure_batch import objects
from tes_server.backends.azure_batch.board import Board
from tes_server.backends.azure_batch.calls import Calls, Refused
from tes_server.model import run

logger = logging.getLogger(__name__)

OVERLAP = datetime.timedelta(seconds=30)
"""By which looks overlap: a change may show later than one that was made after it."""

AUDIT = 3600.0
"""Seconds between two looks at all of a job's tasks that have not ended."""

FORGET = 3600.0
"""Seconds after which it is forgotten up to when a job was seen of which nothing is looked after."""

News = Callable[[Collection[str]], None]


class _Watched(msgspec.Struct):
    """A job. Times are monotonic, but for `since`, which is by the service's clock."""

    whole: bool = True
    """all of it is to be seen"""
    begun: float = float("-inf")
    """when the last such look that ended well began"""
    audited: float = float("-inf")
    wanted: float = 0.0
    """when something of it was looked after last"""
    since: datetime.datetime | None = None
    gone: bool = False
    """Azure Batch denies that there is such a job"""
    error: errors.Unavailable | None = None


class Looks:
    """Looks at the jobs of what is on the board. `every`: seconds; `beside`: what else is to be done after each round. Thread-safe."""

    def __init__(self, server: Calls, board: Board, every: float, beside: Callable[[], None]) -> None:
        self._calls = server
        self._board = board
        self._every = every
        self._beside = beside
        self._news: News = lambda _: None
        self._jobs: dict[str, _Watched] = {}
        self._lock = threading.Lock()
        self._new = False
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="azure-batch-looks", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; waits for the look that is under way."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def listen(self, news: News) -> None:
        """Whatever a look shows is told at once."""
        self._news = news

    def shown(self, job: str, since: float) -> bool:
        """True if a whole look at a job has ended that began after `since` (monotonic): what it did not show is not there."""
        with self._lock:
            known = self._jobs.get(job)
            return known is not None and known.begun > since

    def gone(self, job: str) -> bool:
        """True if Azure Batch knew no such job at the last look."""
        with self._lock:
            known = self._jobs.get(job)
            return known is not None and known.gone

    def error(self, job: str) -> errors.Unavailable | None:
        """Why the last look at a job failed; None if it did not."""
        with self._lock:
            known = self._jobs.get(job)
            return known.error if known else None

    def whole(self, job: str) -> None:
        """Something in this job is looked after that was not, and may have changed long ago: look at all of it, soon."""
        with self._lock:
            known = self._jobs.get(job)
            if known is not None:
                known.whole = True
            self._new = True
        self._wake.set()

    def _run(self) -> None:
        due = 0.0
        while not self._stop.is_set():
            now = time.monotonic()
            early = now < due
            due = due if early else now + self._every
            self._wake.clear()
            try:
                self._round(now, early=early)
                self._beside()
            except errors.Unavailable as cause:
                telemetry.log(logger, logging.WARNING, "azure.look.failed", error=str(cause))
            except Exception:  # the thread must go on: without it nothing ends any more
                logger.exception("azure.looks.failed")
            self._pause(due)

    def _pause(self, due: float) -> None:
        """Until the next round, which comes early where all of a job is to be seen."""
        while not self._stop.is_set() and (left := due - time.monotonic()) > 0:
            with self._lock:
                new, self._new = self._new, False
            if new:
                return
            if self._wake.wait(left):
                self._wake.clear()

    def _round(self, now: float, *, early: bool) -> None:
        """A look at each job; `early`: only at those of which all is to be seen."""
        wanted = self._board.jobs()
        with self._lock:
            for job, known in list(self._jobs.items()):
                if job in wanted:
                    known.wanted = now
                else:
                    known.error = None
                    if now - known.wanted > FORGET:
                        del self._jobs[job]
            watched = {job: self._jobs.setdefault(job, _Watched(wanted=now)) for job in wanted}
        for job, known in watched.items():
            if self._stop.is_set():
                return
            if early and not known.whole:
                continue
            try:
                self._look(job, known)
                known.error = None
            except errors.Unavailable as cause:
                if known.error is None:
                    telemetry.log(logger, logging.WARNING, "azure.look.failed", job=job, error=str(cause))
                known.error = cause

    def _look(self, job: str, known: _Watched) -> None:
        began = time.monotonic()
        with self._lock:
            whole, known.whole = known.whole or known.since is None, False  # whoever wishes for another one from now on gets it
        audit = whole or began - known.audited >= AUDIT
        try:
            listing = self._calls.listed("list_tasks", job, select=objects.TASK, **_filter(known.since, whole=whole, audit=audit))
        except errors.Unavailable as cause:
            gone = isinstance(cause, Refused) and cause.code == "JobNotFound"
            with self._lock:
                known.whole, known.gone = True, gone
                known.begun = began if gone else known.begun
            if not gone:
                raise
            news = self._board.missed(job, (), began)
        else:
            tasks = [objects.task(item) for item in listing.items]
            news = [task.id for task in tasks if self._board.put(job, task)]
            if audit:
                news += self._board.missed(job, {task.id for task in tasks}, began)
            with self._lock:
                known.since, known.gone = listing.at - OVERLAP, False
                known.begun = began if whole else known.begun
                known.audited = began if audit else known.audited
        if news:
            self._news([run.task_of(name) for name in news])


def _filter(since: datetime.datetime | None, *, whole: bool, audit: bool) -> dict[str, str]:
    """What is to be shown: all; or what has changed; or that and what has not ended."""
    if whole or since is None:
        return {}
    changed = f"stateTransitionTime ge DateTime'{_text(since)}'"
    return {"filter": f"state ne '{objects.COMPLETED}' or {changed}" if audit else changed}


def _text(moment: datetime.datetime) -> str:
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
