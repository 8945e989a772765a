"""From what AWS Batch says of a job, and what its runner reported, to an Observation. Pure.

The report decides. What only the platform knows is added here: a Spot reclaim, a time-out, a stop by us or by somebody else, why a job does not
start. Must never blame the command without a report.
"""

from __future__ import annotations

import datetime

import msgspec

from tes_server.backends.aws_batch import names, objects
from tes_server.backends.aws_batch.names import Stop
from tes_server.backends.aws_batch.objects import JobDetail
from tes_server.model.run import Observation, Phase, Reason, Report
from tes_server.runner import node
from tes_server.telemetry import Code

HOST_GONE = "Host EC2"
"""How the status reason of a job begins whose instance was terminated: `Host EC2 (instance i-…) terminated.`"""

MISCONFIGURED = "MISCONFIGURATION"
"""How that of a RUNNABLE job begins which can never start as things are (AWS Batch user guide, "Jobs stuck in RUNNABLE status")."""

TIMED_OUT = "Job attempt duration exceeded timeout"
PULL_FAILED = "CannotPullContainerError"
OUT_OF_MEMORY = "OutOfMemoryError"


UNHEARD = 143
"""128 + TERM: a runner that was ended before it heard signals, and so before it did anything."""

IDLE = frozenset({node.TAKEN, node.NOTHING, UNHEARD})
"""Exit codes of runners that have started nothing."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds. `config`, `capacity`: how long a job may wait so (0 = for ever); `reap`: after a runner's death its containers are gone."""

    config: float = 900.0
    capacity: float = 0.0
    reap: float = 30.0


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of an attempt. `blocked`: since when AWS Batch has told why it does not start."""

    detail: JobDetail | None = None
    report: Report | None = None
    blocked: datetime.datetime | None = None
    spot: bool = False
    log_group: str = ""


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What was made of it. `stop`: a bound is over, end the job so."""

    observation: Observation
    stop: Stop | None = None


def classify(seen: Seen, now: datetime.datetime, bounds: Bounds) -> Look:
    """One look. GONE if neither AWS Batch nor the spool knows the attempt; that it is not merely young was seen to before."""
    job = seen.detail
    if job is None:
        if seen.report is not None:
            return Look(observation=Observation(phase=Phase.ENDED, report=seen.report))
        return Look(observation=Observation(phase=Phase.GONE, message="AWS Batch does not know its job any more"))
    if not job.over:
        return _live(seen, job, now, bounds)
    if seen.report is not None:
        return Look(observation=Observation(phase=Phase.ENDED, report=_explained(seen.report, seen, job), where=_where(seen, job)))
    if job.container.exit_code == node.TAKEN:
        return Look(observation=_ended(seen, job, Reason.LOST, Code.LOST, "another job took its attempt, and is not known"))
    ended = objects.time_of(job.stopped_at)
    may_have_left = job.started_at and job.container.exit_code not in IDLE and not _host_gone(job)
    if may_have_left and ended and (now - ended).total_seconds() < bounds.reap:
        # Its runner may have been killed: then its containers run until the host's reaper comes by.
        return Look(observation=Observation(phase=Phase.UNKNOWN))
    return Look(observation=_unreported(seen, job))


# -- before the end ---------------------------------------------------------------------------------------------------


def _live(seen: Seen, job: JobDetail, now: datetime.datetime, bounds: Bounds) -> Look:
    if job.status == "RUNNING":
        return Look(observation=Observation(phase=Phase.RUNNING, run=job.job_id, start_time=objects.time_of(job.started_at), where=_where(seen, job)))
    if job.status == "STARTING":
        return Look(observation=Observation(phase=Phase.STAGING, run=job.job_id))
    words = job.status_reason.strip()
    if names.stop_of(words) is not None or not words:
        stop = _too_long(job, now, bounds)
        return Look(observation=Observation(phase=Phase.PENDING, run=job.job_id), stop=stop)
    observation = Observation(phase=Phase.PENDING, run=job.job_id, code=Code.WAITING_CAPACITY, message=words)
    if words.startswith(MISCONFIGURED):
        since = seen.blocked or now
        over = (now - since).total_seconds() >= bounds.config
        message = f"AWS Batch cannot start it as its queue is set up, for {bounds.config / 60:.3g} minutes: {words}"
        return Look(observation=observation, stop=Stop(reason=Reason.CAPACITY, code=Code.WAITING_CAPACITY, message=message) if over else None)
    return Look(observation=observation, stop=_too_long(job, now, bounds))


def _too_long(job: JobDetail, now: datetime.datetime, bounds: Bounds) -> Stop | None:
    made = objects.time_of(job.created_at)
    if not bounds.capacity or made is None or (now - made).total_seconds() < bounds.capacity:
        return None
    words = f": {job.status_reason}" if job.status_reason else ""
    return Stop(reason=Reason.CAPACITY, code=Code.WAITING_CAPACITY, message=f"no capacity for {bounds.capacity / 3600:.3g} hours{words}")


# -- after it ---------------------------------------------------------------------------------------------------------


def _explained(report: Report, seen: Seen, job: JobDetail) -> Report:
    """A runner that was ended from outside does not know why."""
    if report.reason is not Reason.LOST:
        return report
    why = _outside(seen, job)
    return report if why is None else msgspec.structs.replace(report, reason=why.reason, code=why.code, message=why.message, transient=why.transient)


def _outside(seen: Seen, job: JobDetail) -> Stop | None:
    """Why a job was ended by something else than its runner; None if AWS Batch has no word on it."""
    words = job.status_reason.strip()
    stop = names.stop_of(words)
    if stop is not None:
        return stop
    if _host_gone(job):
        reason, code = (Reason.PREEMPTED, Code.PREEMPTED) if seen.spot else (Reason.LOST, Code.LOST)
        return Stop(reason=reason, code=code, message=words, transient=True)
    if TIMED_OUT in words:
        return Stop(reason=Reason.TIMEOUT, code=Code.TIMEOUT, message=f"stopped: max_runtime and the time for its outputs are over ({words})")
    if job.is_cancelled or job.is_terminated:
        return Stop(
            reason=Reason.LOST, code=Code.LOST, message=f"its job was ended on AWS Batch by somebody else: {words or 'no reason given'}", transient=True
        )
    return None


def _unreported(seen: Seen, job: JobDetail) -> Observation:
    why = _outside(seen, job)
    if why is not None:
        return _ended(seen, job, why.reason, why.code, why.message, transient=why.transient)
    container, words = job.container, job.status_reason
    if PULL_FAILED in container.reason or PULL_FAILED in words:
        message = f"the host cannot pull this server's own image: {container.reason or words}"
        return _ended(seen, job, Reason.BACKEND, Code.ENGINE_ERROR, message, transient=True)
    if OUT_OF_MEMORY in container.reason:
        message = f"its runner used more memory than it has (aws_batch.overhead_mib): {container.reason}"
        return _ended(seen, job, Reason.BACKEND, Code.ENGINE_ERROR, message, transient=True)
    if container.exit_code == node.NOTHING:
        return _ended(seen, job, Reason.LOST, Code.LOST, "its plan was not in the spool any more")
    if container.exit_code is None and not job.started_at:
        message = f"its runner could not be started: {container.reason or words or 'no reason given'}"
        return _ended(seen, job, Reason.BACKEND, Code.ENGINE_ERROR, message, transient=True)
    log = f"; its log: {seen.log_group} {container.log_stream_name}" if container.log_stream_name else ""
    if container.exit_code == node.FAILED:
        return _ended(seen, job, Reason.BACKEND, Code.ENGINE_ERROR, f"its runner failed{log}", transient=True)
    code = "no exit code" if container.exit_code is None else f"exit code {container.exit_code}"
    message = f"its runner ended with {code} and without a report ({container.reason or words or 'no reason given'}){log}"
    return _ended(seen, job, Reason.LOST, Code.LOST, message, transient=True)


def _host_gone(job: JobDetail) -> bool:
    return job.status_reason.startswith(HOST_GONE)


def _ended(seen: Seen, job: JobDetail, reason: Reason, code: str, message: str, *, transient: bool = False) -> Observation:
    return Observation(
        phase=Phase.ENDED,
        run=job.job_id,
        reason=reason,
        code=code,
        message=message,
        transient=transient,
        start_time=objects.time_of(job.started_at),
        where=_where(seen, job),
    )


def _where(seen: Seen, job: JobDetail) -> dict[str, str]:
    """For whoever looks for it in the console. All of it at once: each bit that is new would be a write of the task's record."""
    if not job.started_at:
        return {}
    found = {"job": job.job_id, "queue": job.job_queue.rpartition("/")[2], "capacity": "spot" if seen.spot else "on-demand"}
    return {**found, **({"log": job.container.log_stream_name} if job.container.log_stream_name else {})}
