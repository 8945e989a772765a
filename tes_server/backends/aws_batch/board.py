"""What is known of jobs, by the name of their attempt: what events, lists and looks have told. Knows no socket and no clock.

Events come twice, late and out of order; a job goes through its states in one order only, so that none of them takes the board back.
One attempt may have several jobs: a SubmitJob whose answer was lost and was sent again. The spool knows which of them has it.
"""

from __future__ import annotations

import threading

import msgspec

from tes_server.backends.aws_batch.objects import JobDetail


class Entry(msgspec.Struct):
    """One job. Times are by the monotonic clock of whoever puts them."""

    job: JobDetail
    seen: float
    """when it was asked for, or told, last"""
    blocked: float = 0.0
    """since when AWS Batch has told why it does not start; 0 = it has not"""


class Board:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, Entry] = {}
        self._names: dict[str, set[str]] = {}

    def put(self, name: str, job: JobDetail, now: float) -> bool:
        """True if that was news."""
        with self._lock:
            known = self._jobs.get(job.job_id)
            if known is None:
                self._jobs[job.job_id] = Entry(job, now, now if job.status_reason else 0.0)
                self._names.setdefault(name, set()).add(job.job_id)
                return True
            known.seen = now
            if job.rank < known.job.rank or job == known.job:
                return False
            news = job.rank > known.job.rank or job.status_reason != known.job.status_reason
            known.blocked = (known.blocked or now) if job.status_reason else 0.0
            known.job = job
            return news

    def job(self, job_id: str) -> Entry | None:
        """What is known of a job."""
        with self._lock:
            known = self._jobs.get(job_id)
            return None if known is None else msgspec.structs.replace(known)

    def of(self, name: str) -> set[str]:
        """The ids of all jobs of an attempt that are known here."""
        with self._lock:
            return set(self._names.get(name, ()))

    def knows(self, name: str) -> bool:
        """True if the attempt is looked after here."""
        with self._lock:
            return name in self._names

    def over(self) -> list[tuple[str, str]]:
        """Attempts and their jobs that have ended and are not dropped."""
        with self._lock:
            return [(name, job_id) for name, ids in self._names.items() for job_id in ids if self._jobs[job_id].job.over]

    def drop(self, name: str) -> None:
        """The attempt is over and done with."""
        with self._lock:
            for job_id in self._names.pop(name, ()):
                self._jobs.pop(job_id, None)
