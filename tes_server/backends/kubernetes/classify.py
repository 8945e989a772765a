"""From the platform's objects to an Observation. Pure.

The report decides; phase of the pod and condition of the Job are no verdict. What only the platform knows is added here: a kill for memory that
left no record, a node that was taken away, a bound of ours that was over. This module must never blame the command without proof.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping

import msgspec

from tes_server.backends.kubernetes import alone, names, waiting
from tes_server.backends.kubernetes.alone import Alone
from tes_server.backends.kubernetes.objects import ContainerStatus, PodObject, Terminated
from tes_server.backends.kubernetes.seen import Bounds, Look, Seen, Stop
from tes_server.model.run import Observation, Phase, Reason, Report
from tes_server.runner import pod_report, pod_told
from tes_server.runner.pod_report import Elsewhere
from tes_server.telemetry import Code

OVER = frozenset({"Succeeded", "Failed"})

LAST_WORDS = 500
"""Characters of what a scanner said last that are passed on."""

KILLED = 137
"""128 + SIGKILL."""

OWN_LIMITS = ("exceeds the total limit of containers", "exceeds the limit", "exceeded its local ephemeral storage limit", "exceeds the local ephemeral storage")
"""What the kubelet says when it evicts a pod for its own use of the disk, not for the node's need."""

REFUSED_BY_NODE = ("OutOf", "UnexpectedAdmissionError", "NodeAffinity", "PodAffinity", "InsufficientResource")
"""How reasons of pods begin that the scheduler sent to a node which then had no room."""


def classify(seen: Seen, now: datetime.datetime, bounds: Bounds) -> Look:
    """One look at an attempt. GONE if nothing is known of it: that its name is free must have been asked for by then."""
    if seen.pod is not None:
        if seen.gone or _over(seen.pod):
            return _told(seen, seen.pod, _ended(seen, seen.pod))
        return _told(seen, seen.pod, waiting.with_pod(seen, seen.pod, now, bounds))
    if seen.job is None:
        if seen.report is not None:
            return Look(observation=_reported(seen, None, seen.report))
        return Look(observation=Observation(phase=Phase.GONE, message="the cluster does not know its Job any more"))
    return _told(seen, None, _without_pod(seen, now, bounds))


def _told(seen: Seen, pod: PodObject | None, look: Look) -> Look:
    """With where it ran, since when, and as which of the platform's own runs."""
    if pod is None:
        return look
    # All of it at once, when a node has taken the pod: each bit that is new would be a write of the task's record.
    where = {"pod": pod.metadata.name, "node": pod.spec.node_name} if pod.status.start_time else {}
    observation = msgspec.structs.replace(look.observation, run=pod.metadata.uid, where=where, start_time=pod.status.start_time)
    # A stop of ours is under way: it is not sent again.
    return msgspec.structs.replace(look, observation=observation, stop=None if seen.stop else look.stop)


def _without_pod(seen: Seen, now: datetime.datetime, bounds: Bounds) -> Look:
    job = seen.job
    if job is None:
        raise TypeError("an attempt without a pod has a Job")
    stop, finished = seen.stop, job.finished
    if stop is not None and (finished or job.spec.suspend):
        return Look(observation=_stopped(stop))
    if seen.report is not None and finished:
        return Look(observation=_reported(seen, None, seen.report))
    if finished is not None:
        message = f"its pod is gone, and its report with it (the Job: {finished.reason or finished.type})"
        return Look(observation=Observation(phase=Phase.ENDED, reason=Reason.LOST, code=Code.LOST, message=message))
    if job.metadata.deletion_timestamp is not None:
        return Look(observation=Observation(phase=Phase.PENDING))  # GONE soon
    look = waiting.without_pod(seen, job, now, bounds)
    return msgspec.structs.replace(look, stop=None) if stop else look


def _over(pod: PodObject) -> bool:
    """Nothing of it runs: by its phase, or because each of its containers has ended, which is told a little earlier."""
    if pod.status.phase in OVER:
        return True
    statuses = pod.status.container_statuses or ()
    return len(statuses) == len(pod.spec.containers) > 0 and all(status.state.terminated for status in statuses)


def _ended(seen: Seen, pod: PodObject) -> Look:
    single = alone.of(pod)
    if single is not None:
        return _alone(seen, pod, single)
    report: Report | Elsewhere | None = seen.report
    teller = ""
    if report is None:
        report, teller = _report(pod)
    if isinstance(report, Elsewhere):
        lost = Observation(phase=Phase.ENDED, reason=Reason.LOST, code=Code.LOST, message="its report could not be fetched", transient=True)
        return Look(observation=lost, elsewhere=report, container=teller)
    return Look(observation=_reported(seen, pod, report) if report else _unreported(seen, pod))


def _alone(seen: Seen, pod: PodObject, single: Alone) -> Look:
    report, more = alone.report(single, pod, seen.told)
    observation = _reported(seen, pod, report) if report else _unreported(seen, pod)
    return Look(observation=observation, container=names.executor(single.executor.index) if more else "")


def _report(pod: PodObject) -> tuple[Report | Elsewhere | None, str]:
    """What stage-out said, or a stage-in that failed, and which of both."""
    for name in (names.STAGE_OUT, names.STAGE_IN):
        ended = _terminated(pod.statuses.get(name))
        told = pod_report.read(ended.message) if ended else None
        if told is not None:
            return told, name
    return None, ""


# -- with a report ----------------------------------------------------------------------------------------------------


def _reported(seen: Seen, pod: PodObject | None, report: Report) -> Observation:
    if pod is not None:
        report = msgspec.structs.replace(_with_memory(report, pod), images=_images(pod, report.images))
    if report.reason is Reason.LOST:  # ended from outside: the report does not know why
        stop = seen.stop
        why = _stopped(stop) if stop else _outside(seen, pod) if pod else None
        if why is not None:
            report = msgspec.structs.replace(report, reason=why.reason, code=why.code, message=why.message, transient=why.transient)
    return Observation(phase=Phase.ENDED, report=report)


def _with_memory(report: Report, pod: PodObject) -> Report:
    """With a kill for memory that tes-step did not survive, or did not see: the last executor that was started is the one in question."""
    if report.reason not in (Reason.LOST, Reason.EXIT) or not report.executors:
        return report
    index = len(report.executors) - 1
    ended = _terminated(pod.statuses.get(names.executor(index)))
    last = report.executors[index]
    if ended is None or ended.reason != "OOMKilled" or last.exit_code not in (None, KILLED):
        return report
    last = msgspec.structs.replace(last, exit_code=KILLED, start_time=last.start_time or ended.started_at, end_time=last.end_time or ended.finished_at)
    return msgspec.structs.replace(
        report,
        executors=(*report.executors[:index], last),
        reason=Reason.OOM,
        code=Code.OOM,
        message=f"executor {index} was killed: it used more memory than it has",
    )


def _images(pod: PodObject, pinned: Mapping[str, str]) -> dict[str, str]:
    """Image as the task names it -> what ran. `pinned`: from such names to what the pod was told in their place."""
    named = {container.name: container.image for container in pod.spec.containers}
    ran = {named[name]: status.image_id for name, status in pod.statuses.items() if names.index_of(name) is not None and status.image_id and name in named}
    shown = {image: ran[target] for image, target in pinned.items() if target in ran}
    return {**{image: what for image, what in ran.items() if image not in pinned.values()}, **shown}


# -- without one ------------------------------------------------------------------------------------------------------


def _unreported(seen: Seen, pod: PodObject) -> Observation:
    stop = seen.stop
    if stop is not None:
        return _stopped(stop)
    outside = _outside(seen, pod)
    if outside is not None:
        return outside
    not_started = waiting.not_started(pod)
    if not_started is not None:
        return not_started
    deleted = seen.gone or pod.metadata.deletion_timestamp is not None
    scan = None if deleted else _scan(pod)
    if scan is not None:
        return scan
    for name in (names.STAGE_IN, names.STAGE_OUT):
        ended = _terminated(pod.statuses.get(name))
        if ended is None or (name == names.STAGE_IN and ended.exit_code == 0):
            continue
        if ended.reason == "OOMKilled":
            message = f"{name} was killed: it used more memory than the site gives it"
        elif deleted:  # what it was killed by, or why it was never started
            continue
        else:
            message = f"{name} ended with exit code {ended.exit_code} and without a report ({ended.reason or 'no reason given'})"
        return _lost(Reason.BACKEND, Code.ENGINE_ERROR, message, transient=True)
    return _lost(Reason.LOST, Code.LOST, "its pod was deleted" if deleted else "its pod ended without a report", transient=True)


def _scan(pod: PodObject) -> Observation | None:
    """A scanner that failed: nothing of the task was started, and stage-in, which would tell, neither."""
    for name, status in pod.statuses.items():
        ended = _terminated(status)
        if ended is None or not names.is_scan(name) or (ended.exit_code == 0 and ended.reason != "OOMKilled"):
            continue
        told = pod_told.read(ended.message)
        words = " ".join((told.stderr.text or told.stdout.text).split())[-LAST_WORDS:] if told else ""
        if told is not None and told.late and ended.reason != "OOMKilled":  # first: what gives nothing for TERM ends with KILLED as well
            words = "its time (scan.timeout) was over"
        elif ended.reason == "OOMKilled" or ended.exit_code == KILLED:
            words = "it used more memory than it has"
        message = f"the scan of the task's images failed: the scanner ended with exit code {ended.exit_code}" + (f": {words}" if words else "")
        return _lost(Reason.BACKEND, Code.SCAN_FAILED, message, transient=True)
    return None


def _outside(seen: Seen, pod: PodObject) -> Observation | None:
    """Why a pod was ended by somebody else; None if the platform has no word on it."""
    reason, words = pod.status.reason, pod.status.message.strip()
    evicted = seen.warning("Evicted")
    if evicted is not None and not reason:  # where all containers end well on TERM the pod has Succeeded, and bears no word of it
        reason, words = "Evicted", evicted.message.strip()
    if reason == "DeadlineExceeded":
        return _lost(Reason.TIMEOUT, Code.TIMEOUT, "stopped: max_runtime and the time for its outputs are over")
    if reason == "Evicted" and any(part in words for part in OWN_LIMITS):
        return _lost(Reason.BACKEND, Code.DISK_FULL, words)
    disrupted = pod.condition("DisruptionTarget")
    if disrupted is not None:
        return _lost(Reason.PREEMPTED, Code.PREEMPTED, f"{disrupted.reason}: {disrupted.message}", transient=True)
    if reason in ("Evicted", "Preempting", "Shutdown", "NodeShutdown", "Terminated"):
        return _lost(Reason.PREEMPTED, Code.PREEMPTED, f"{reason}: {words}", transient=True)
    if reason == "NodeLost":
        return _lost(Reason.LOST, Code.LOST, f"node {pod.spec.node_name} was lost: {words}", transient=True)
    if reason.startswith(REFUSED_BY_NODE):
        return _lost(Reason.CAPACITY, Code.WAITING_CAPACITY, f"{reason}: {words}", transient=True)
    return None


def _stopped(stop: Stop) -> Observation:
    return _lost(stop.reason, stop.code, stop.message, transient=stop.transient)


def _lost(reason: Reason, code: str, message: str, *, transient: bool = False) -> Observation:
    return Observation(phase=Phase.ENDED, reason=reason, code=code, message=message, transient=transient)


def _terminated(status: ContainerStatus | None) -> Terminated | None:
    return status.state.terminated if status else None
