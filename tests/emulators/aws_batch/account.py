"""The state of the emulated account, and the transitions of its jobs: each tells EventBridge."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.emulators.aws_batch import jobs
from tests.emulators.aws_batch.definitions import MOST_TAGS, Definitions
from tests.emulators.aws_batch.events import Bridge
from tests.emulators.aws_batch.hosts import Fleet, Host
from tests.emulators.aws_batch.jobs import Job
from tests.emulators.aws_batch.world import World, arn


class Account:
    """Everything in it is read and changed under `lock`; who waits for a job's state waits on it."""

    def __init__(self, world: World, bridge: Bridge) -> None:
        self.lock = threading.Condition()
        self.world = world
        self.bridge = bridge
        self.definitions = Definitions()
        self.fleet = Fleet(world)
        self.jobs: dict[str, Job] = {}
        self.live: dict[str, Job] = {}
        """those that have not ended"""
        self.holds: dict[str, str] = {}
        """queues whose jobs stay RUNNABLE -> the statusReason of the one at their head"""
        self.lag = 0.0
        """seconds for which ListJobs does not know a new job"""
        self.logs: dict[str, bytes] = {}
        """what containers wrote, by log stream"""
        self.stop: Callable[[Job], None] = lambda _: None
        """stops the container of a job that is STARTING or RUNNING; set by the agents"""

    def add(self, job: Job) -> None:
        """Submitted: no event tells of that."""
        self.jobs[job.id] = self.live[job.id] = job
        self.lock.notify_all()

    def move(self, job: Job, status: str, reason: str = "") -> None:
        """A new state, and the event of it."""
        job.status, job.reason, job.since = status, reason, time.monotonic()
        self.bridge.publish(copy.deepcopy(job.describe()))
        self.lock.notify_all()

    def block(self, job: Job, reason: str) -> None:
        """Why the first job of a queue does not start."""
        if job.reason != reason:
            job.reason = reason
            self.bridge.publish(copy.deepcopy(job.describe()), blocked=True)
            self.lock.notify_all()

    def place(self, job: Job, host: Host) -> list[str]:
        """The job has this host: it is STARTING, unless its tags are too many. The GPUs it has there."""
        gpus = host.take(job.id, job.needs)
        job.host, job.stopped = host, None
        task = arn("task", f"AWSBatch/{job.id.replace('-', '')[:24]}{job.attempt:08x}", "ecs")
        job.now = {"containerInstanceArn": host.instance, "taskArn": task}
        self.move(job, "STARTING")
        return gpus

    def has_too_many_tags(self, job: Job) -> bool:
        """Those of job and definition together, where they are propagated."""
        return job.propagate and len({**job.definition.get("tags", {}), **job.tags}) > MOST_TAGS

    def run(self, job: Job) -> None:
        """Its container has started."""
        definition = job.definition["jobDefinitionName"]
        job.started = jobs.milliseconds()
        job.now["logStreamName"] = f"{definition}/default/{job.now['taskArn'].rpartition('/')[2]}"
        self.move(job, "RUNNING")

    def end(self, job: Job, reason: str, code: int | None = None, words: str = "", *, failed: bool = False) -> None:
        """Its container has ended (`code`), or never ran: SUCCEEDED or FAILED, or RUNNABLE again as the retry strategy says."""
        if code is not None:
            job.now["exitCode"] = code
        if words:
            job.now["reason"] = words
        if job.host is not None:
            job.host.leave(job.id)
            job.host = None
        job.stopped = jobs.milliseconds()
        again = (failed or code != 0) and job.tried_again(reason)
        if job.now:
            times = {name: value for name, value in (("startedAt", job.started), ("stoppedAt", job.stopped)) if value is not None}
            job.attempts.append({"container": {"networkInterfaces": [], **job.now}, "statusReason": reason, **times})
        if again:
            job.now, job.started, job.stopped = {}, None, None
            self.move(job, "RUNNABLE")
        else:
            del self.live[job.id]
            self.move(job, "FAILED" if failed or code != 0 else "SUCCEEDED", reason)

    def terminate(self, job: Job, reason: str) -> None:
        """TerminateJob."""
        job.terminated = True
        if job.status in jobs.WAITING:
            self.end(job, reason, failed=True)
        elif not job.stopping:
            job.stopping = reason
            self.stop(job)

    def cancel(self, job: Job, reason: str) -> None:
        """CancelJob: of a job that is not yet STARTING."""
        if job.status in jobs.WAITING:
            job.cancelled = True
            self.end(job, reason, failed=True)

    def wait(self, until: Callable[[], Any], seconds: float = 60.0) -> Any:
        """What `until` gives, once that is something; it is asked again after each change of a job, and now and then. AssertionError after `seconds`."""
        end = time.monotonic() + seconds
        with self.lock:
            while not (found := until()):
                told = [(job.name, job.status, job.reason) for job in [*self.jobs.values()][-20:]]
                assert time.monotonic() < end, f"not within {seconds} s: {told}"
                self.lock.wait(0.05)
        return found
