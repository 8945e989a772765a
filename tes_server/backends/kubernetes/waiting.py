"""An attempt that has not ended: how far it is, what it waits for, and whether it has waited long enough. Pure."""

from __future__ import annotations

import datetime
import re

from tes_server.backends.kubernetes import names
from tes_server.backends.kubernetes.objects import ContainerStatus, JobObject, PodObject, Terminated
from tes_server.backends.kubernetes.seen import Bounds, Look, Seen, Stop
from tes_server.model.run import Observation, Phase, Reason
from tes_server.telemetry import Code

LONGEST = 1000
"""Characters of the platform's own words that are passed on."""

USUAL = 10.0
"""Seconds that a cluster may take to make a pod before that is worth a word: each word is a write of the task's record."""

HOPELESS_IMAGE = frozenset({"InvalidImageName", "ErrImageNeverPull"})
"""Waiting reasons of the kubelet that no patience mends."""

IMAGE = HOPELESS_IMAGE | {"ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed"}

CONFIG = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PreCreateHookError", "PreStartHookError", "PostStartHookError"})

NO_SECRET = re.compile(r'secret "[^"]*" not found|couldn\'t find key .* in Secret')
"""What the kubelet says where a variable's secret is not there."""

NO_START = frozenset({"StartError", "ContainerCannotRun"})
"""Terminated reasons of a container whose first program was never run: it leaves neither lock nor record."""

NEW_NAME = re.compile(r'pods "[^"]*"')
"""The pod in the words of a refusal: each try makes another name, and what differs is written into the task's record."""

MOUNTS = ("FailedMount", "FailedAttachVolume", "FailedMapVolume", "FailedCreatePodSandBox", "ProvisioningFailed")
"""Warnings about a pod that explain why its containers are not made."""


def without_pod(seen: Seen, job: JobObject, now: datetime.datetime, bounds: Bounds) -> Look:
    """A Job that is not over and has no pod."""
    created = job.metadata.creation_timestamp or now
    if job.spec.suspend or job.condition("Suspended"):
        return _waits(Phase.PENDING, Code.WAITING_CAPACITY, "the Job is suspended: it waits for its turn in its queue", created, now, bounds.capacity)
    since = job.status.start_time or created  # set anew when a queue lets it go
    refused = seen.warning("FailedCreate")
    if refused is None:
        if not _over(since, now, USUAL):
            return Look(observation=Observation(phase=Phase.PENDING))
        message = "the cluster has made no pod for the Job yet"
        return _waits(Phase.PENDING, Code.WAITING_BACKEND, message, since, now, bounds.start, Reason.BACKEND, transient=True)
    words = _words(NEW_NAME.sub("its pod", refused.message))
    if _waits_for_quota(refused.message):
        return _waits(Phase.PENDING, Code.WAITING_CAPACITY, words, since, now, bounds.capacity)
    return _waits(Phase.PENDING, Code.WAITING_BACKEND, words, since, now, bounds.config, Reason.REJECTED, end_code=Code.REJECTED)


def with_pod(seen: Seen, pod: PodObject, now: datetime.datetime, bounds: Bounds) -> Look:
    """A pod that is not over."""
    phase = _phase(pod)
    created = pod.metadata.creation_timestamp or now
    ending = pod.metadata.deletion_timestamp
    if ending is not None:
        if _over(ending, now, bounds.node):
            stop = seen.stop or Stop(
                reason=Reason.LOST, code=Code.LOST, message=f"node {pod.spec.node_name or '?'} does not answer: its pod was to end, and nobody says that it has"
            )
            return Look(observation=Observation(phase=Phase.ENDED, reason=stop.reason, code=stop.code, message=stop.message, transient=stop.transient))
        return Look(observation=Observation(phase=phase))
    unscheduled = next((found for found in pod.status.conditions or () if found.type == "PodScheduled" and found.status == "False"), None)
    if unscheduled is not None and not pod.spec.node_name:
        words = _words(unscheduled.message or unscheduled.reason)
        return _waits(Phase.PENDING, Code.WAITING_CAPACITY, words, unscheduled.last_transition_time or created, now, bounds.capacity)
    for status in pod.statuses.values():
        if (look := _container(status, pod, phase, now, bounds)) is not None:
            return look
    hindered = seen.warning(*MOUNTS)
    if phase is not Phase.RUNNING and hindered is not None and any(_creating(status) for status in pod.statuses.values()):
        since = pod.status.start_time or created
        return _waits(
            phase, Code.WAITING_BACKEND, _words(hindered.message), since, now, bounds.start, Reason.BACKEND, transient=True, end_code=Code.ENGINE_ERROR
        )
    return Look(observation=Observation(phase=phase))


def not_started(pod: PodObject) -> Observation | None:
    """How a pod ended whose executor was never run; None for others."""
    for status in pod.statuses.values():
        ended, index = status.state.terminated, names.index_of(status.name)
        if index is not None and ended is not None and ended.reason in NO_START:
            return Observation(phase=Phase.ENDED, reason=Reason.IMAGE, code=Code.IMAGE_ERROR, message=_no_start(f"executor {index}", ended))
    return None


def image_code(words: str) -> Code:
    """What the words of a container runtime about an image come to."""
    text = words.lower()
    if re.search(r"unauthorized|denied|forbidden|authentication|\b40[13]\b", text):
        return Code.IMAGE_DENIED
    if re.search(r"not found|manifest unknown|name unknown|does not exist|not present|\b404\b|invalid reference|invalidimagename", text):
        return Code.IMAGE_NOT_FOUND
    return Code.IMAGE_ERROR


# -- the parts --------------------------------------------------------------------------------------------------------


def _phase(pod: PodObject) -> Phase:
    """STAGING once a node has taken it, RUNNING from the start of the first executor on: all of them are started at once, and wait for each other."""
    first = pod.statuses.get(names.executor(0))
    if first is not None and (first.state.running or first.state.terminated):
        return Phase.RUNNING
    return Phase.STAGING if pod.status.start_time else Phase.PENDING


def _container(status: ContainerStatus, pod: PodObject, phase: Phase, now: datetime.datetime, bounds: Bounds) -> Look | None:
    """What hinders one container; None if nothing does."""
    index = names.index_of(status.name)
    what = status.name if index is None else f"executor {index}"
    image = next((container.image for container in pod.spec.containers if container.name == status.name), "")
    since = _could_start(status, pod) or now
    ended, waiting = status.state.terminated, status.state.waiting
    if ended is not None and ended.reason in NO_START:
        return _waits(phase, Code.IMAGE_ERROR, _no_start(what, ended), now, now, 0.0, Reason.BACKEND if index is None else Reason.IMAGE)
    if waiting is None:
        return None
    words = _words(waiting.message or waiting.reason)
    if waiting.reason in IMAGE:
        code = image_code(f"{waiting.reason} {waiting.message}")
        hopeless = waiting.reason in HOPELESS_IMAGE
        bound = 0.0 if hopeless else bounds.image
        if names.is_scan(status.name):
            return _waits(phase, Code.WAITING_BACKEND, f"the scanner's image: {words}", since, now, bound, Reason.BACKEND, transient=True)
        if index is None:
            return _waits(phase, Code.WAITING_BACKEND, f"the server's own image: {words}", since, now, bound, Reason.BACKEND, transient=True)
        return _waits(phase, code, f"image {image}: {words}", since, now, bound, Reason.IMAGE, transient=code is Code.IMAGE_ERROR and not hopeless)
    if waiting.reason in CONFIG:
        end = Code.SECRET_NOT_FOUND if index is not None and NO_SECRET.search(words) else Code.REJECTED
        return _waits(phase, Code.WAITING_BACKEND, f"{what}: {words}", since, now, bounds.config, Reason.REJECTED, end_code=end)
    return None


def _no_start(what: str, ended: Terminated) -> str:
    return f"{what} could not be started: {_words(ended.message)}"


def _could_start(status: ContainerStatus, pod: PodObject) -> datetime.datetime | None:
    """Since when nothing but the container itself is in its way: the kubelet does not say since when it waits."""
    if names.index_of(status.name) is not None:
        before = pod.statuses.get(names.STAGE_IN)
        if before is not None and before.state.terminated is not None and before.state.terminated.finished_at is not None:
            return before.state.terminated.finished_at
    return pod.status.start_time


def _creating(status: ContainerStatus) -> bool:
    return status.state.waiting is not None and status.state.waiting.reason in ("ContainerCreating", "PodInitializing")


def _waits_for_quota(message: str) -> bool:
    return "exceeded quota" in message


def _waits(
    phase: Phase,
    code: Code | str,
    message: str,
    since: datetime.datetime,
    now: datetime.datetime,
    bound: float,
    reason: Reason = Reason.CAPACITY,
    *,
    transient: bool = False,
    end_code: Code | None = None,
) -> Look:
    """It waits, for at most `bound` seconds since `since`."""
    observation = Observation(phase=phase, code=code, message=message)
    if not _over(since, now, bound):
        return Look(observation=observation)
    waited = f" (for {(now - since).total_seconds():.0f} s)" if bound else ""
    return Look(observation=observation, stop=Stop(reason=reason, code=end_code or code, message=message + waited, transient=transient))


def _over(since: datetime.datetime, now: datetime.datetime, bound: float) -> bool:
    return (now - since).total_seconds() >= bound


def _words(text: str) -> str:
    """The platform's own words: one line, bounded."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else line[:LONGEST] + "..."
