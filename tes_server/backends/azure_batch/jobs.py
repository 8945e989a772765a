"""The Batch jobs that attempts go into: one at a time for each pool and priority, begun anew before it grows too large, ended and deleted in time.

All reconcilers of a server use the same ones, since names are the same for all. A job that is not used any more is told to end with its last task;
what ended long ago is deleted with all that Azure Batch remembers of its tasks.
"""

from __future__ import annotations

import datetime
import logging
import threading
from collections.abc import Callable, Collection
from typing import Any

import msgspec

from tes_server import errors, telemetry
from tes_server.backends.azure_batch import names
from tes_server.backends.azure_batch.calls import Calls, Refused
from tes_server.backends.azure_batch.definition import Series

logger = logging.getLogger(__name__)

KEEP = datetime.timedelta(days=7)
"""How long a job is there after its last task has ended: what people may want to look at."""

CLOSED = frozenset({"JobCompleted", "JobTerminating", "JobDeleting", "JobBeingTerminated", "JobBeingDeleted", "JobDisabled", "JobNotActive", "JobNotFound"})
"""Codes of a job that takes no more tasks."""

UNASKED = 3600.0
"""Seconds after which the SDK asks whether a job is gone that was deleted: nobody waits for that, and it cannot be told not to ask."""

ENDLESS = 30
"""Jobs that are tried, one after the other, before somebody is told that it does not work."""


class _Open(msgspec.Struct):
    """The job of a series that takes tasks now."""

    serial: int
    tasks: int


class Jobs:
    """One server's jobs. Thread-safe. Every method raises what `Calls` does."""

    def __init__(self, server: Calls, server_name: str, wanted: Collection[Series], most: int, clock: Callable[[], datetime.datetime]) -> None:
        """`most`: tasks of one job. `wanted`: the series in use."""
        self._calls = server
        self._server = server_name
        self._wanted = {series.name for series in wanted}
        self._most = most
        self._clock = clock
        self._open: dict[str, _Open] = {}
        self._lock = threading.Lock()

    def current(self, series: Series) -> str:
        """The job that takes tasks; added if there is none."""
        with self._lock:  # one asks, the others wait for its answer
            found = self._open.get(series.name) or self._found(series)
            if found.tasks >= self._most:
                found = self._next(series, found.serial + 1)
            self._open[series.name] = found
            return names.job(series.name, found.serial)

    def took(self, series: Series, tasks: int) -> None:
        """So many more are in its job."""
        with self._lock:
            if series.name in self._open:
                self._open[series.name].tasks += tasks

    def closed(self, series: Series, job_id: str) -> None:
        """That job takes no more tasks: somebody ended it, or it is too old. The next one is begun when it is asked for."""
        with self._lock:
            known = self._open.get(series.name)
            if known is not None and names.job(series.name, known.serial) == job_id:
                self._open[series.name] = _Open(known.serial, self._most)

    def live(self) -> list[str]:
        """The names of all jobs of this server in which tasks may run, or begin to once more: those that somebody has disabled, too."""
        return [str(job["id"]) for job in self.there() if job.get("state") not in ("completed", "deleting")]

    def there(self) -> list[dict[str, Any]]:
        """All jobs of this server: id, state, onAllTasksComplete, executionInfo."""
        select = ["id", "state", "onAllTasksComplete", "executionInfo"]
        found = self._calls.listed("list_jobs", filter=f"startswith(id,'{names.mine(self._server)}')", select=select).items
        return [job for job in found if names.parsed(self._server, str(job["id"]))]

    def tidy(self) -> None:
        """End jobs that take no more tasks with their last one, and delete those that ended long ago."""
        there = self.there()
        newest: dict[str, int] = {}
        for job in there:
            series, serial = names.parsed(self._server, str(job["id"])) or ("", 0)
            newest[series] = max(serial, newest.get(series, 0))
        for job in there:
            job_id = str(job["id"])
            series, serial = names.parsed(self._server, job_id) or ("", 0)
            used = series in self._wanted and serial == newest[series]
            try:
                if job.get("state") == "active" and not used and job.get("onAllTasksComplete") != "terminatejob":
                    self._calls.ask("update_job", job_id, {"onAllTasksComplete": "terminatejob"})
                    telemetry.log(logger, logging.INFO, "azure.job.closed", job=job_id)
                elif job.get("state") == "completed" and not used and self._old(job):
                    self._calls.ask("begin_delete_job", job_id, polling_interval=UNASKED)
                    telemetry.log(logger, logging.INFO, "azure.job.deleted", job=job_id)
            except Refused as cause:
                if cause.code not in CLOSED:
                    raise

    def _old(self, job: dict[str, Any]) -> bool:
        ended = (job.get("executionInfo") or {}).get("endTime")
        return bool(ended) and self._clock() - msgspec.convert(ended, datetime.datetime) > KEEP

    def _found(self, series: Series) -> _Open:
        """The newest job of a series that is there, with the number of its tasks; a new one if that is over or there is none."""
        listed = self._calls.listed("list_jobs", filter=f"startswith(id,'{series.name}_')", select=["id", "state"]).items
        serials = {serial: str(job["state"]) for job in listed for _, serial in [names.parsed(self._server, str(job["id"])) or ("", 0)] if serial}
        newest = max(serials, default=0)
        if not newest:
            return self._next(series, 1)
        if serials[newest] != "active":
            return _Open(newest, self._most)
        counts = self._calls.read("get_job_task_counts", names.job(series.name, newest))["taskCounts"]
        return _Open(newest, sum(int(counts[state]) for state in ("active", "running", "completed")))

    def _next(self, series: Series, first: int) -> _Open:
        """Add the job of this serial, or of the next one that is free or takes tasks."""
        for serial in range(first, first + ENDLESS):
            try:
                self._calls.ask("create_job", series.job(serial))
            except Refused as cause:
                if cause.code != "JobExists":
                    raise
                # Another reconciler's, or our own whose answer was lost; or one that is over.
                if self._calls.read("get_job", names.job(series.name, serial), select=["id", "state"])["state"] != "active":
                    continue
            telemetry.log(logger, logging.INFO, "azure.job.begun", job=names.job(series.name, serial))
            return _Open(serial, 0)
        raise errors.Unavailable(f"Azure Batch takes no new job: all of {series.name}_{first} to {first + ENDLESS - 1} are over")
