"""What a platform tells about an attempt: handles, observations, reports, live output, free room.

Produced by `backends`, `runner` and `filer`, judged by `control.decide`. Pure values.
"""

from __future__ import annotations

import datetime
import enum
from collections.abc import Mapping

import msgspec

from tes_server.model.task import ExecutorLog, OutputFileLog


class Reason(enum.StrEnum):
    """Why an attempt ended otherwise than well. Each has its own retry rule in `control.decide`."""

    EXIT = "EXIT"  #: the user's own command ended with a non-zero code
    OOM = "OOM"  #: the user's command was killed for memory
    PREEMPTED = "PREEMPTED"  #: the platform took the capacity back
    LOST = "LOST"  #: node, runner or supervisor vanished without a record
    IMAGE = "IMAGE"  #: image missing, denied or unusable
    STAGING = "STAGING"  #: an input or output could not be moved
    CAPACITY = "CAPACITY"  #: the platform has no room or quota
    REJECTED = "REJECTED"  #: the platform will never take this
    TIMEOUT = "TIMEOUT"  #: max_runtime is over
    BACKEND = "BACKEND"  #: the platform or the engine failed
    CANCELED = "CANCELED"  #: stopped because we asked for it


class Phase(enum.StrEnum):
    """Where an attempt is."""

    UNKNOWN = "UNKNOWN"  #: no news: nothing may be concluded
    GONE = "GONE"  #: the platform denies that it exists
    PENDING = "PENDING"  #: accepted, nothing started
    STAGING = "STAGING"  #: inputs are being fetched, images pulled
    RUNNING = "RUNNING"  #: the first executor has been started
    ENDED = "ENDED"  #: nothing of it runs any more


class Handle(msgspec.Struct, frozen=True, omit_defaults=True):
    """One attempt on a platform. `name` is `<task>-<attempt>`, made by us; `ref` is the platform's own id, if it has one.

    `place`: what alone reaches it (`Backend.place`); "" = every reconciler does.
    """

    backend: str
    name: str
    ref: str = ""
    place: str = ""


def job_name(task_id: str, attempt: int) -> str:
    """The name of an attempt on every platform: `<task>-<attempt>`."""
    return f"{task_id}-{attempt}"


def host_of(place: str) -> str:
    """The machine of a place, for people: a place is named `<host>/<random>`."""
    return place.partition("/")[0]


def task_of(name: str) -> str:
    """The task id of a job name; the inverse of `job_name`."""
    return name.rpartition("-")[0]


class Report(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What the stage-out step (or the runner) says of a whole attempt, once, at its end. Bounded in size.

    `executors` holds one entry for each executor that was started, in order. `reason` is None if all went well.
    `code` is one of telemetry.Code and `message` one sentence with what to do about it; `notices` are further
    lines for system_logs, each starting with its code.
    """

    executors: tuple[ExecutorLog, ...] = ()
    outputs: tuple[OutputFileLog, ...] = ()
    reason: Reason | None = None
    transient: bool = False
    """STAGING, IMAGE, BACKEND: the cause may pass, so that a new attempt is worth while"""
    code: str = ""
    message: str = ""
    notices: tuple[str, ...] = ()
    start_time: datetime.datetime | None = None
    end_time: datetime.datetime | None = None
    images: dict[str, str] = {}
    """image as named by the task -> digest or id that ran"""


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What one look at an attempt showed. With phase ENDED, `report` decides; without a report, `reason` does."""

    phase: Phase
    run: str = ""
    """tells a platform's own reruns of one attempt apart"""
    reason: Reason | None = None
    transient: bool = False
    code: str = ""
    message: str = ""
    start_time: datetime.datetime | None = None
    report: Report | None = None
    notices: tuple[str, ...] = ()
    where: Mapping[str, str] = {}
    """node, size, zone, capacity class; becomes logs[].metadata"""


class Tails(msgspec.Struct, frozen=True, omit_defaults=True):
    """Live output of a running attempt, one entry for each executor started so far."""

    attempt: int
    executors: tuple[ExecutorLog, ...] = ()


class Room(msgspec.Struct, frozen=True):
    """What may start now on a backend that does not queue by itself, and what the whole site has."""

    cpus: float
    ram_bytes: int
    disk_bytes: int
    total_cpus: float
    total_ram_bytes: int
    total_disk_bytes: int
    gpus: int = 0
    total_gpus: int = 0


class Refusal(msgspec.Struct, frozen=True):
    """The platform will never take this job (REJECTED, IMAGE, ...)."""

    reason: Reason
    code: str
    message: str


class Later(msgspec.Struct, frozen=True):
    """The platform cannot take this job now; nothing was started. Try again after `seconds`."""

    code: str
    message: str
    seconds: float = 5.0
