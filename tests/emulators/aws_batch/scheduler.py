"""The scheduler: jobs become RUNNABLE and get hosts, queues by priority, in a queue first in, first out, or by shares."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable

from tests.emulators.aws_batch.account import Account
from tests.emulators.aws_batch.hosts import Host
from tests.emulators.aws_batch.jobs import Job
from tests.emulators.aws_batch.world import Queue

TICK = 0.1
"""seconds between two looks where nothing changes"""
TOO_LARGE = (
    "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - The job resource requirement (vCPU/memory/GPU) is higher than that can be met by the CE(s) "
    "attached to the job queue."
)
TIMED_OUT = "Job attempt duration exceeded timeout"


class Scheduler(threading.Thread):
    """`start` runs a placed job's container: called with the job, its host and its GPUs, under the account's lock."""

    def __init__(self, account: Account, start: Callable[[Job, Host, list[str]], None]) -> None:
        super().__init__(name="scheduler")
        self._account = account
        self._start = start
        self._closed = False

    def run(self) -> None:
        with self._account.lock:
            while not self._closed:
                self._advance()
                self._place()
                self._time_out()
                self._account.bridge.tick()
                self._account.lock.wait(TICK)

    def close(self) -> None:
        with self._account.lock:
            self._closed = True
            self._account.lock.notify_all()
        self.join()

    def _advance(self) -> None:
        """SUBMITTED to PENDING to RUNNABLE."""
        now = time.monotonic()
        for job in [job for job in self._account.live.values() if job.status in ("SUBMITTED", "PENDING")]:
            if job.status == "SUBMITTED":
                if self._account.has_too_many_tags(job):
                    self._account.end(job, "The number of tags of the job and its definition is more than 50", failed=True)
                    continue
                self._account.move(job, "PENDING")
            depended = [self._account.jobs[other].status for other in job.depends if other in self._account.jobs]
            if "FAILED" in depended:
                self._account.end(job, "Dependent Job failed", failed=True)
            elif all(status == "SUCCEEDED" for status in depended) and now - job.since >= self._account.world.pace:
                self._account.move(job, "RUNNABLE")

    def _place(self) -> None:
        """A job that finds no room holds up those behind it."""
        now = time.monotonic()
        for queue in sorted(self._account.world.queues, key=lambda queue: -queue.priority):
            while (job := self._head(queue)) is not None:
                if (reason := self._account.holds.get(queue.name)) is None and not self._account.fleet.could_ever(queue.environments, job.needs):
                    reason = TOO_LARGE
                if reason is not None:
                    self._account.block(job, reason)
                    break
                host = self._account.fleet.place(queue.environments, job.needs) if now - job.since >= self._account.world.pace else None
                if host is None:
                    break
                self._start(job, host, self._account.place(job, host))

    def _head(self, queue: Queue) -> Job | None:
        """The job that is next: of a fair queue, of the share that has the fewest cores, the one of the highest priority."""
        waiting = [job for job in self._account.live.values() if job.queue == queue.name and job.status == "RUNNABLE"]
        if not queue.fair or not waiting:
            return waiting[0] if waiting else None
        used: collections.Counter[str] = collections.Counter()
        for job in self._account.live.values():
            if job.queue == queue.name and job.host is not None:
                used[job.share] += job.needs["VCPU"]
        return min(waiting, key=lambda job: (used[job.share], -job.priority))

    def _time_out(self) -> None:
        now = time.monotonic()
        for job in self._account.live.values():
            if job.status == "RUNNING" and job.timeout and not job.stopping and now - job.since > job.timeout * self._account.world.second:
                job.stopping = TIMED_OUT
                self._account.stop(job)
