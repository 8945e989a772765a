"""Jobs, pods and events as a cluster sends them (kubernetes 1.36), by the words that differ. Times are seconds after `NOW - 100 s`."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec

from tes_server.backends.kubernetes import names
from tes_server.backends.kubernetes.alone import Alone
from tes_server.backends.kubernetes.objects import EventObject, JobObject, PodObject
from tes_server.backends.kubernetes.seen import Stop
from tes_server.model.run import Report
from tes_server.plan.steps import Execute, Limits
from tes_server.runner import pod_report

NOW = datetime.datetime(2026, 11, 21, 12, 0, tzinfo=datetime.UTC)
NAME = "0123456789abcdefghjkmnpqrs-1"

Json = dict[str, Any]


def at(seconds: float) -> str:
    return (NOW + datetime.timedelta(seconds=seconds - 100)).strftime("%Y-%m-%dT%H:%M:%SZ")


def job_json(*conditions: Json, name: str = NAME, stop: Stop | None = None, suspend: bool = False, created: float = 0, version: int = 1) -> Json:
    annotations = {"tes-server/stopped": msgspec.json.encode(stop).decode()} if stop else {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": "tes",
            "uid": f"uid-of-{name}",
            "resourceVersion": str(version),
            "generation": 1,
            "creationTimestamp": at(created),
            "labels": {"app.kubernetes.io/managed-by": "tes-server", "tes-server/server": "s", "tes-server/task": name.rpartition("-")[0]},
            "annotations": annotations,
            "managedFields": [{"manager": "x", "operation": "Update", "fieldsV1": {"f:spec": {}}}],
        },
        "spec": {"backoffLimit": 0, "parallelism": 1, "suspend": suspend, "selector": {"matchLabels": {"a": "b"}}},
        "status": {"startTime": at(created), "active": 0 if conditions else 1, "ready": 0, "terminating": 0, "conditions": list(conditions)},
    }


def job(*conditions: Json, **fields: Any) -> JobObject:
    return msgspec.convert(job_json(*conditions, **fields), JobObject, strict=False)


def condition(kind: str, reason: str = "", message: str = "", status: str = "True", since: float = 50) -> Json:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": at(since), "lastProbeTime": None}


COMPLETE = condition("Complete", "CompletionsReached", "Reached expected number of succeeded pods")
FAILED = condition("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
SCHEDULED = condition("PodScheduled", since=1)


def running(since: float = 10) -> Json:
    return {"running": {"startedAt": at(since)}}


def waiting(reason: str, message: str = "") -> Json:
    return {"waiting": {"reason": reason, **({"message": message} if message else {})}}


def ended(code: int = 0, reason: str = "", message: str | bytes = "", since: float = 10, until: float = 60) -> Json:
    text = message.decode() if isinstance(message, bytes) else message
    return {
        "terminated": {
            "exitCode": code,
            "reason": reason or ("Completed" if code == 0 else "Error"),
            "startedAt": at(since),
            "finishedAt": at(until),
            "containerID": "containerd://0",
            **({"message": text} if text else {}),
        }
    }


def told(report: Report, code: int = 0) -> Json:
    """A stage step that left its report as termination message."""
    return ended(code, message=pod_report.message(report, "log"))


def pod_json(
    phase: str,
    stage_in: Json | None = None,
    executors: list[Json] | None = None,
    stage_out: Json | None = None,
    *conditions: Json,
    reason: str = "",
    message: str = "",
    node: str = "node-7",
    deleting: float | None = None,
    name: str = NAME,
    count: int = 1,
    version: int = 1,
    created: float = 0,
) -> Json:
    count = len(executors) if executors is not None else count
    containers = [{"name": f"executor-{number}", "image": f"image-{number}:1"} for number in range(count)]

    def status(name: str, state: Json, image: str) -> Json:
        return {
            "name": name,
            "state": state,
            "lastState": {},
            "ready": False,
            "restartCount": 0,
            "image": image,
            "imageID": f"registry.example/{image}@sha256:{'1' * 64}",
        }

    statuses = [status(f"executor-{number}", state, f"image-{number}") for number, state in enumerate(executors or [])]
    if stage_out is not None:
        statuses.append(status("stage-out", stage_out, "server"))
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{name}-x7k2p",
            "namespace": "tes",
            "uid": f"pod-uid-of-{name}",
            "resourceVersion": str(version),
            "creationTimestamp": at(created),
            "labels": {
                "app.kubernetes.io/managed-by": "tes-server",
                "batch.kubernetes.io/job-name": name,
                "job-name": name,
                "tes-server/server": "s",
                "tes-server/task": name.rpartition("-")[0],
            },
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": f"uid-of-{name}", "controller": True}],
            **({"deletionTimestamp": at(deleting), "deletionGracePeriodSeconds": 60} if deleting is not None else {}),
        },
        "spec": {
            **({"nodeName": node} if node else {}),
            "initContainers": [{"name": "stage-in", "image": "server:1"}],
            "containers": [*containers, {"name": "stage-out", "image": "server:1"}],
            "restartPolicy": "Never",
        },
        "status": {
            "phase": phase,
            "qosClass": "Burstable",
            **({"reason": reason} if reason else {}),
            **({"message": message} if message else {}),
            **({"startTime": at(created + 1)} if node else {}),
            "conditions": [*conditions, *([] if any(found["type"] == "PodScheduled" for found in conditions) else [SCHEDULED])],
            **({"initContainerStatuses": [status("stage-in", stage_in, "server")]} if stage_in is not None else {}),
            **({"containerStatuses": statuses} if statuses else {}),
        },
    }


def alone_json(phase: str, state: Json, *conditions: Json, ignore_error: bool = False, **fields: Any) -> Json:
    """A pod of one container."""
    made = pod_json(phase, None, [state], None, *conditions, **fields)
    single = Alone(Execute(index=0, image="image-0:1", argv=("tool",), ignore_error=ignore_error), Limits(cpus=1, ram_bytes=2 * 10**9, max_runtime=60))
    made["metadata"]["annotations"] = {names.ALONE: msgspec.json.encode(single).decode()}
    made["spec"]["containers"] = made["spec"]["containers"][:1]
    del made["spec"]["initContainers"]
    return made


def pod(phase: str, *parts: Any, **fields: Any) -> PodObject:
    return msgspec.convert(pod_json(phase, *parts, **fields), PodObject, strict=False)


def event_json(kind: str, reason: str, message: str, *, name: str = NAME, since: float = 5, series: bool = False) -> Json:
    times = {"eventTime": at(since) if series else None, "lastTimestamp": None if series else at(since)}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{name}.{reason}", "namespace": "tes", "resourceVersion": "9", "creationTimestamp": at(since)},
        "involvedObject": {"kind": kind, "name": name if kind == "Job" else f"{name}-x7k2p", "namespace": "tes", "uid": "u"},
        "type": "Warning",
        "reason": reason,
        "message": message,
        "count": 3,
        **{key: value for key, value in times.items() if value},
    }


def event(kind: str, reason: str, message: str, **fields: Any) -> EventObject:
    return msgspec.convert(event_json(kind, reason, message, **fields), EventObject, strict=False)
