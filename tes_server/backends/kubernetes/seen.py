"""What `classify` and `waiting` are given and answer. Pure values."""

from __future__ import annotations

import datetime

import msgspec

from tes_server.backends.kubernetes import names
from tes_server.backends.kubernetes.objects import EventObject, JobObject, PodObject
from tes_server.model.run import Observation, Reason, Report
from tes_server.runner.pod_report import Elsewhere
from tes_server.runner.pod_told import Told


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds after which a wait is given up; each counts from when that wait began, as far as the platform tells."""

    image: float = 300.0
    """an image cannot be pulled"""
    config: float = 60.0
    """a container cannot be made, or a pod is refused"""
    start: float = 900.0
    """no pod, or a pod whose volumes do not come, and nobody says why it should not"""
    capacity: float = 86400.0
    """no node, quota or turn in a queue"""
    node: float = 300.0
    """a pod that should have ended, on a node that does not tell"""


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """Why we stop an attempt. Kept as an annotation of its Job, so that it is known when nothing else is left."""

    reason: Reason
    code: str
    message: str
    transient: bool = False


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of an attempt. `gone`: `pod` is as it last was before it was deleted."""

    job: JobObject | None = None
    pod: PodObject | None = None
    gone: bool = False
    events: tuple[EventObject, ...] = ()
    """Warnings about the Job or the pod, in any order"""
    report: Report | None = None
    """fetched from where a message said that it is"""
    told: Told | None = None
    """what the only container of a pod told last in its log"""

    @property
    def stop(self) -> Stop | None:
        """Why we stopped it; None if we did not."""
        text = self.job.metadata.annotations.get(names.STOPPED) if self.job else None
        try:
            return msgspec.json.decode(text, type=Stop) if text else None
        except msgspec.MsgspecError:  # written by hand
            return Stop(reason=Reason.CANCELED, code="CANCELED", message="stopped")

    def warning(self, *reasons: str) -> EventObject | None:
        """The last warning with one of these reasons."""
        fitting = [event for event in self.events if event.reason in reasons]
        return max(fitting, key=_time_of, default=None)


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What was made of it. `stop`: a bound is over, end the attempt so. `elsewhere`: fetch the report of `container` first, and look again;
    `container` without it: its log may have more of the report's streams."""

    observation: Observation
    stop: Stop | None = None
    elsewhere: Elsewhere | None = None
    container: str = ""


EPOCH = datetime.datetime.fromtimestamp(0, datetime.UTC)


def _time_of(event: EventObject) -> datetime.datetime:
    return event.last_timestamp or event.event_time or event.metadata.creation_timestamp or EPOCH
