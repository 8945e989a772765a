"""From what Azure Batch says of a task, and what its runner reported, to an Observation. Pure.

The report decides. What only the platform knows is added here: a node that was taken back, a time that was over, a stop by somebody else, why a task
does not start. Must never blame the command without a report.
"""

from __future__ import annotations

import datetime

import msgspec

from tes_server.backends.azure_batch.nodes import Fate
from tes_server.backends.azure_batch.objects import Task
from tes_server.model.run import Observation, Phase, Reason, Report, Tails
from tes_server.runner import node
from tes_server.telemetry import Code

ENDED_BY_BATCH = "TaskEnded"
"""Failure code of a task that was terminated, or whose maxWallClockTime was over."""

EXIT_CODE = "FailureExitCode"
"""That of a task whose command ended with another code than 0."""

DISK_FULL = "DiskFull"
IMAGE = ("ContainerInvalidImage", "ContainerInvalidRegistry", "ContainerInvalidSettings", "ContainerMiscError")
"""Those of a runner's container that could not be made."""

STOPPED = "stopped"
TIME_OVER = "stopped: max_runtime and the time for its outputs are over"

UNHEARD = 143
"""128 + TERM: a runner that was ended before it heard signals, and so before it did anything."""

IDLE = frozenset({node.TAKEN, node.NOTHING, UNHEARD})
"""Exit codes of runners that have started nothing."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds. `capacity`: how long a task may wait for a node (0 = for ever); `reap`: after a runner's death its containers are gone; `node`: how long
    one that is silent is waited for."""

    capacity: float = 0.0
    reap: float = 30.0
    node: float = 900.0


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of an attempt.

    `holder`: the node whose runner has the attempt, where that is not the task's node now; `fate`: of that node. `faults`: what the pool says.
    """

    detail: Task | None = None
    report: Report | None = None
    taken: bool = True
    """a runner has begun with it; what that started may outlive it"""
    holder: str = ""
    fate: Fate | None = None
    faults: str = ""
    where: dict[str, str] = {}
    spot: bool = False
    tails: Tails | None = None
    """what was heard of its output last"""
    canceled: bool = False
    """we have ended it; Azure Batch does not say who did"""


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What was made of it. `stop`: end the task, which waits or runs for nothing."""

    observation: Observation
    stop: bool = False


def classify(seen: Seen, now: datetime.datetime, bounds: Bounds) -> Look:
    """One look. GONE if neither Azure Batch nor the spool knows the attempt; that it is not merely young was seen to before."""
    task = seen.detail
    if task is None:
        if seen.report is not None:
            return Look(observation=Observation(phase=Phase.ENDED, report=seen.report))
        return Look(observation=Observation(phase=Phase.GONE, message="Azure Batch does not know its task any more"))
    if seen.report is not None and not task.over:  # queued anew after its end, of which Azure Batch did not hear
        return Look(observation=Observation(phase=Phase.ENDED, report=seen.report, where=seen.where), stop=True)
    if seen.holder:
        return _elsewhere(seen, task, now, bounds)
    if not task.over:
        return _live(seen, task, now, bounds)
    if seen.report is not None:
        return Look(observation=Observation(phase=Phase.ENDED, report=_explained(seen, seen.report, task), where=seen.where))
    execution = task.execution_info
    if seen.taken and execution.exit_code not in IDLE and _since(execution.end_time, now) < bounds.reap:
        # Its runner may have been killed: then its containers run until the node's reaper comes by.
        return Look(observation=Observation(phase=Phase.UNKNOWN))
    return Look(observation=_unreported(seen, task))


# -- queued anew ------------------------------------------------------------------------------------------------------


def _elsewhere(seen: Seen, task: Task, now: datetime.datetime, bounds: Bounds) -> Look:
    """Azure Batch starts the task again, as its node went; the attempt is that node's, and comes back as a new attempt of ours.

    Not before nothing of it runs there any more: a node that is merely silent may go on.
    """
    since = task.execution_info.end_time if task.over else task.state_transition_time
    patience = {Fate.GONE: 0.0, Fate.LIVES: bounds.reap, Fate.DOUBTFUL: bounds.node, None: bounds.node}[seen.fate]
    if _since(since, now) < patience:
        return Look(observation=Observation(phase=Phase.UNKNOWN))
    if seen.spot and seen.fate in (Fate.GONE, Fate.LIVES):  # it is given another machine under the name that it had
        reason, code, message = Reason.PREEMPTED, Code.PREEMPTED, f"Azure took back the node {seen.holder}"
    elif seen.fate is Fate.GONE:
        reason, code, message = Reason.LOST, Code.LOST, f"the node {seen.holder} went, or was started anew"
    elif seen.fate is Fate.LIVES:
        reason, code, message = Reason.LOST, Code.LOST, f"Azure Batch ended its runner on the node {seen.holder}, and queued it anew"
    else:
        reason, code, message = Reason.LOST, Code.LOST, f"Azure Batch has not reached the node {seen.holder} for {bounds.node / 60:.3g} minutes"
    return Look(observation=_ended(seen, task, reason, code, message, transient=True), stop=not task.over)


# -- before the end ---------------------------------------------------------------------------------------------------


def _live(seen: Seen, task: Task, now: datetime.datetime, bounds: Bounds) -> Look:
    if task.state == "running":
        started = task.execution_info.start_time
        return Look(observation=Observation(phase=Phase.RUNNING, start_time=started, where=seen.where))
    if task.state == "preparing":
        return Look(observation=Observation(phase=Phase.STAGING))
    code, message = (Code.WAITING_CAPACITY, seen.faults) if seen.faults else ("", "")
    if bounds.capacity and _since(task.creation_time, now) >= bounds.capacity:
        why = f": {seen.faults}" if seen.faults else ""
        message = f"no node for {bounds.capacity / 3600:.3g} hours{why}"
        return Look(observation=_ended(seen, task, Reason.CAPACITY, Code.WAITING_CAPACITY, message), stop=True)
    return Look(observation=Observation(phase=Phase.PENDING, code=code, message=message))


# -- after it ---------------------------------------------------------------------------------------------------------


def _explained(seen: Seen, report: Report, task: Task) -> Report:
    """A runner that was ended from outside does not know why."""
    if report.reason is not Reason.LOST:
        return report
    if seen.canceled:
        return msgspec.structs.replace(report, reason=Reason.CANCELED, code=Code.CANCELED, message=STOPPED, transient=False)
    if _timed_out(task):
        return msgspec.structs.replace(report, reason=Reason.TIMEOUT, code=Code.TIMEOUT, message=TIME_OVER, transient=False)
    return report


def _timed_out(task: Task) -> bool:
    """Azure Batch has one code for tasks that were terminated and tasks whose time was over; their times tell."""
    failure, execution, most = task.execution_info.failure_info, task.execution_info, task.constraints.max_wall_clock_time
    if failure is None or failure.code != ENDED_BY_BATCH or not most or not execution.start_time or not execution.end_time:
        return False
    return execution.end_time - execution.start_time >= most


def _unreported(seen: Seen, task: Task) -> Observation:
    execution, failure = task.execution_info, task.execution_info.failure_info
    if failure is None:
        return _ended(seen, task, Reason.LOST, Code.LOST, "its runner ended without a report", transient=True)
    if seen.canceled:
        return _ended(seen, task, Reason.CANCELED, Code.CANCELED, STOPPED)
    if failure.code == ENDED_BY_BATCH:
        if _timed_out(task):
            return _ended(seen, task, Reason.TIMEOUT, Code.TIMEOUT, TIME_OVER)
        return _ended(seen, task, Reason.LOST, Code.LOST, f"its task was ended on Azure Batch: {failure.words}", transient=True)
    if execution.exit_code == node.TAKEN:
        return _ended(seen, task, Reason.LOST, Code.LOST, "another task took its attempt, and is not known", transient=True)
    if execution.exit_code == node.NOTHING:
        return _ended(seen, task, Reason.LOST, Code.LOST, "its plan was not in the spool any more", transient=True)
    if execution.exit_code == node.FAILED:
        message = f"its runner failed; its output is with the task {task.id} on Azure Batch (stderr.txt)"
        return _ended(seen, task, Reason.BACKEND, Code.ENGINE_ERROR, message, transient=True)
    if execution.exit_code is not None:
        return _ended(seen, task, Reason.LOST, Code.LOST, f"its runner ended with exit code {execution.exit_code} and without a report", transient=True)
    if failure.code == DISK_FULL:
        return _ended(seen, task, Reason.BACKEND, Code.DISK_FULL, f"the node's disk is full: {failure.words}", transient=True)
    if failure.code in IMAGE:
        message = f"the node cannot start this server's own image (azure_batch.image, which azure_batch.registry_identity must be let pull): {failure.words}"
        return _ended(seen, task, Reason.BACKEND, Code.ENGINE_ERROR, message, transient=True)
    return _ended(seen, task, Reason.BACKEND, Code.ENGINE_ERROR, f"its runner could not be started: {failure.words}", transient=True)


def _ended(seen: Seen, task: Task, reason: Reason, code: str, message: str, *, transient: bool = False) -> Observation:
    started = task.execution_info.start_time
    heard = seen.tails.executors if seen.tails is not None else ()
    # Its output up to then is worth having, whoever ended it; what became of its command nobody knows.
    report = Report(executors=heard, reason=reason, transient=transient, code=code, message=message, start_time=started) if heard else None
    return Observation(phase=Phase.ENDED, reason=reason, code=code, message=message, transient=transient, start_time=started, report=report, where=seen.where)


def _since(moment: datetime.datetime | None, now: datetime.datetime) -> float:
    """Seconds; for ever where it is not known."""
    return float("inf") if moment is None else (now - moment).total_seconds()
