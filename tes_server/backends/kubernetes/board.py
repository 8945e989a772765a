"""What is known of the cluster's Jobs, pods and warnings, by name of attempt: what the watches fill and the driver reads.

Knows no socket and no clock. Events may come twice, late, or before the object that they are about; none may take the board back in time.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Collection, Iterable
from typing import TypeVar

import msgspec

from tes_server.backends.kubernetes import names
from tes_server.backends.kubernetes.objects import EventObject, JobObject, Metadata, PodObject
from tes_server.backends.kubernetes.seen import Seen
from tes_server.model import run

Changed = Callable[[Collection[str]], None]
"""Called with the names of attempts of which something is new."""

DELETED = 10_000
"""Objects that were deleted last and are remembered, so that a late word of them is known for what it is."""

WARNED = 10_000
"""Attempts whose warnings are kept: those warned of last."""

Kind = TypeVar("Kind", JobObject, PodObject)


class _Entry:
    """One attempt."""

    __slots__ = ("gone", "job", "pod")

    def __init__(self) -> None:
        self.job: JobObject | None = None
        self.pod: PodObject | None = None
        self.gone = False


class Board:
    """Thread-safe. Set `changed` before it is filled."""

    def __init__(self) -> None:
        self.changed: Changed = lambda _: None
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._warnings: collections.OrderedDict[str, dict[str, EventObject]] = collections.OrderedDict()
        self._deleted: collections.OrderedDict[str, None] = collections.OrderedDict()

    # -- for the driver ---------------------------------------------------------------------------------------------

    def seen(self, name: str) -> Seen | None:
        """All that is known of an attempt; None if nothing is."""
        with self._lock:
            entry = self._entries.get(name)
            if entry is None:
                return None
            return Seen(job=entry.job, pod=entry.pod, gone=entry.gone, events=tuple(self._warnings.get(name, {}).values()))

    def jobs(self) -> list[JobObject]:
        """All Jobs."""
        with self._lock:
            return [entry.job for entry in self._entries.values() if entry.job is not None]

    # -- for the watches --------------------------------------------------------------------------------------------

    def put_job(self, job: JobObject) -> None:
        """A Job is there, or has changed."""
        self._tell([job.metadata.name] if self._put_job(job) else [])

    def drop_job(self, job: JobObject) -> None:
        """A Job was deleted."""
        with self._lock:
            self._remember(job.metadata)
            entry = self._entries.get(job.metadata.name)
            if entry is None or entry.job is None or entry.job.metadata.uid != job.metadata.uid:
                return
            self._without_job(job.metadata.name, entry)
        self._tell([job.metadata.name])

    def replace_jobs(self, jobs: Iterable[JobObject]) -> None:
        """These are all Jobs that there are."""
        found = {job.metadata.name: job for job in jobs}
        told = [name for name, job in found.items() if self._put_job(job)]
        with self._lock:
            for name in [name for name, entry in self._entries.items() if entry.job is not None and name not in found]:
                self._without_job(name, self._entries[name])
                told.append(name)
        self._tell(told)

    def put_pod(self, pod: PodObject) -> None:
        """A pod is there, or has changed."""
        name = attempt_of(pod)
        self._tell([name] if name and self._put_pod(name, pod) else [])

    def drop_pod(self, pod: PodObject) -> None:
        """A pod was deleted: as it last was it stays, since it may hold the report."""
        name = attempt_of(pod)
        with self._lock:
            self._remember(pod.metadata)
            entry = self._entries.get(name)
            if entry is None or entry.pod is None or entry.pod.metadata.uid != pod.metadata.uid:
                return
            entry.pod = pod
            self._without_pod(name, entry)
        self._tell([name])

    def replace_pods(self, pods: Iterable[PodObject]) -> None:
        """These are all pods that there are."""
        found: set[str] = set()
        told: list[str] = []
        for pod in pods:
            name = attempt_of(pod)
            found.add(pod.metadata.uid)
            if name and self._put_pod(name, pod):
                told.append(name)
        with self._lock:
            for name, entry in list(self._entries.items()):
                if entry.pod is not None and not entry.gone and entry.pod.metadata.uid not in found:
                    self._without_pod(name, entry)
                    told.append(name)
        self._tell(told)

    def put_event(self, event: EventObject) -> None:
        """A warning about a Job or a pod of ours; others are passed over."""
        about = event.involved_object
        name = about.name if about.kind == "Job" else about.name.rpartition("-")[0] if about.kind == "Pod" else ""
        if not names.ATTEMPT_NAME.fullmatch(name):
            return
        with self._lock:
            self._warnings.setdefault(name, {})[event.reason] = event
            self._warnings.move_to_end(name)
            while len(self._warnings) > WARNED:
                self._warnings.popitem(last=False)
            known = name in self._entries
        self._tell([name] if known else [])

    # -- the parts --------------------------------------------------------------------------------------------------

    def _put_job(self, job: JobObject) -> bool:
        with self._lock:
            if job.metadata.uid in self._deleted:
                return False
            entry = self._entries.setdefault(job.metadata.name, _Entry())
            before, entry.job = entry.job, _newer(entry.job, job)
            return before is None or _differ(before, entry.job)

    def _put_pod(self, name: str, pod: PodObject) -> bool:
        with self._lock:
            if pod.metadata.uid in self._deleted:
                return False
            entry = self._entries.setdefault(name, _Entry())
            before = entry.pod
            if before is not None and before.metadata.uid != pod.metadata.uid:
                if _created(before.metadata) > _created(pod.metadata):
                    return False
                before = None
            entry.pod, entry.gone = _newer(before, pod), False
            return before is None or _differ(before, entry.pod)

    def _without_job(self, name: str, entry: _Entry) -> None:
        entry.job = None
        if entry.pod is None or entry.gone:
            del self._entries[name]
            self._warnings.pop(name, None)

    def _without_pod(self, name: str, entry: _Entry) -> None:
        entry.gone = True
        if entry.job is None:
            del self._entries[name]
            self._warnings.pop(name, None)

    def _remember(self, metadata: Metadata) -> None:
        self._deleted[metadata.uid] = None
        while len(self._deleted) > DELETED:
            self._deleted.popitem(last=False)

    def _tell(self, found: Collection[str]) -> None:
        if found:
            self.changed([run.task_of(name) for name in found])


def attempt_of(pod: PodObject) -> str:
    """The name of the attempt that a pod is of; "" if it is of none."""
    return pod.metadata.labels.get(names.JOB_NAME, "")


def _newer(before: Kind | None, after: Kind) -> Kind:
    """Versions are numbers that grow (Kubernetes says so since 1.35, and has always done so)."""
    if before is None or before.metadata.uid != after.metadata.uid:
        return after
    old, new = before.metadata.resource_version, after.metadata.resource_version
    return before if old.isdigit() and new.isdigit() and int(new) < int(old) else after


def _differ(before: JobObject | PodObject, after: JobObject | PodObject) -> bool:
    """Whether anything that we read is new, beside the version."""
    return before is not after and _versionless(before) != _versionless(after)


def _versionless(found: JobObject | PodObject) -> JobObject | PodObject:
    return msgspec.structs.replace(found, metadata=msgspec.structs.replace(found.metadata, resource_version=""))


def _created(metadata: Metadata) -> float:
    return metadata.creation_timestamp.timestamp() if metadata.creation_timestamp else 0.0
