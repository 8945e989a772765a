"""The few fields of Kubernetes objects that this backend reads. Everything else that a server sends is passed over while decoding, so that
ten thousand pods in memory are small, and a newer server's fields harm nobody.
"""

from __future__ import annotations

import datetime

import msgspec

Time = datetime.datetime


class Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A part of an object."""


class Metadata(Part, frozen=True, kw_only=True, rename="camel"):
    """ObjectMeta."""

    name: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: Time | None = None
    deletion_timestamp: Time | None = None
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Condition(Part, frozen=True, kw_only=True, rename="camel"):
    """A condition of a Job or pod."""

    type: str
    status: str = "Unknown"
    reason: str = ""
    message: str = ""
    last_transition_time: Time | None = None


class JobSpec(Part, frozen=True, kw_only=True, rename="camel"):
    """JobSpec."""

    suspend: bool | None = None


class JobStatus(Part, frozen=True, kw_only=True, rename="camel"):
    """JobStatus."""

    conditions: tuple[Condition, ...] | None = None
    start_time: Time | None = None
    completion_time: Time | None = None


class JobObject(Part, frozen=True, kw_only=True, rename="camel"):
    """batch/v1 Job."""

    metadata: Metadata
    spec: JobSpec = JobSpec()
    status: JobStatus = JobStatus()

    def condition(self, kind: str) -> Condition | None:
        """The condition of a type that holds, or None."""
        return _holding(self.status.conditions, kind)

    @property
    def finished(self) -> Condition | None:
        """The condition that it is over, or None."""
        return self.condition("Complete") or self.condition("Failed")


class Waiting(Part, frozen=True, kw_only=True, rename="camel"):
    """ContainerStateWaiting."""

    reason: str = ""
    message: str = ""


class Running(Part, frozen=True, kw_only=True, rename="camel"):
    """ContainerStateRunning."""

    started_at: Time | None = None


class Terminated(Part, frozen=True, kw_only=True, rename="camel"):
    """ContainerStateTerminated."""

    exit_code: int = 0
    signal: int = 0
    reason: str = ""
    message: str = ""
    started_at: Time | None = None
    finished_at: Time | None = None


class ContainerState(Part, frozen=True, kw_only=True, rename="camel"):
    """ContainerState: one of three, or none."""

    waiting: Waiting | None = None
    running: Running | None = None
    terminated: Terminated | None = None


class ContainerStatus(Part, frozen=True, kw_only=True, rename="camel"):
    """ContainerStatus."""

    name: str
    state: ContainerState = ContainerState()
    image_id: str = msgspec.field(default="", name="imageID")


class Container(Part, frozen=True, kw_only=True, rename="camel"):
    """Container of a PodSpec."""

    name: str
    image: str = ""


class PodSpec(Part, frozen=True, kw_only=True, rename="camel"):
    """PodSpec."""

    node_name: str = ""
    containers: tuple[Container, ...] = ()


class PodStatus(Part, frozen=True, kw_only=True, rename="camel"):
    """PodStatus."""

    phase: str = ""
    reason: str = ""
    message: str = ""
    conditions: tuple[Condition, ...] | None = None
    start_time: Time | None = None
    init_container_statuses: tuple[ContainerStatus, ...] | None = None
    container_statuses: tuple[ContainerStatus, ...] | None = None


class PodObject(Part, frozen=True, kw_only=True, rename="camel"):
    """v1 Pod."""

    metadata: Metadata
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    def condition(self, kind: str) -> Condition | None:
        """The condition of a type that holds, or None."""
        return _holding(self.status.conditions, kind)

    @property
    def statuses(self) -> dict[str, ContainerStatus]:
        """The statuses of all containers, by name, in the order in which they run."""
        return {status.name: status for status in (*(self.status.init_container_statuses or ()), *(self.status.container_statuses or ()))}


class ObjectReference(Part, frozen=True, kw_only=True, rename="camel"):
    """ObjectReference."""

    kind: str = ""
    name: str = ""
    uid: str = ""


class EventObject(Part, frozen=True, kw_only=True, rename="camel"):
    """v1 Event. Of its times the last that is there counts: recorders fill different ones."""

    metadata: Metadata
    involved_object: ObjectReference = ObjectReference()
    type: str = ""
    reason: str = ""
    message: str = ""
    last_timestamp: Time | None = None
    event_time: Time | None = None


def _holding(conditions: tuple[Condition, ...] | None, kind: str) -> Condition | None:
    return next((condition for condition in conditions or () if condition.type == kind and condition.status == "True"), None)
