"""Azure Batch's answers in the shape that it documents, for tests of what is made of them."""

from __future__ import annotations

import datetime
from typing import Any

from tes_server.backends.azure_batch import objects
from tes_server.backends.azure_batch.objects import NodeDetail, Task

NOW = datetime.datetime(2026, 5, 4, 12, 0, tzinfo=datetime.UTC)


def at(seconds: float) -> str:
    """So long after NOW, as Azure writes it."""
    return (NOW + datetime.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def failure(code: str, message: str = "", category: str = "usererror", **details: str) -> dict[str, Any]:
    """failureInfo of a task."""
    named = [{"name": name, "value": value} for name, value in details.items()]
    return {"failureInfo": {"category": category, "code": code, "message": message or code, "details": named}, "result": "failure"}


EXITED = failure("FailureExitCode", "The task exited with an exit code representing a failure", Message="The task exited")

ENDED = failure("TaskEnded", "Task Was Ended by User Request")


def task(state: str = "running", *, node: str | None = "tvm-1", previous: str = "", limit: str = "", transition: float = -60, **execution: Any) -> Task:
    """As the SDK decodes it; what has a node has begun a minute ago, what is over ended 50 seconds ago."""
    placed = node is not None and state != "active"
    begun: dict[str, Any] = {"startTime": at(-60)} if placed else {}
    over: dict[str, Any] = {"endTime": at(-50), "result": "success"} if state == "completed" else {}
    info: dict[str, Any] = {"nodeInfo": {"nodeId": node, "poolId": "spot", "affinityId": f"TVM:{node}"}} if placed else {}
    before = {"previousState": previous} if previous else {}
    return objects.task(
        {
            "id": "abc-1",
            "state": state,
            "stateTransitionTime": at(transition),
            "creationTime": at(-120),
            "constraints": {"maxWallClockTime": limit or "P10675199DT2H48M5.4775807S", "maxTaskRetryCount": 0, "retentionTime": "P1D"},
            "executionInfo": {"retryCount": 0, "requeueCount": 0, **begun, **over, **execution},
            **info,
            **before,
        }
    )


def node(state: str = "idle", booted: float = -3600) -> NodeDetail:
    """A node that was started then."""
    return objects.node({"id": "tvm-1", "state": state, "lastBootTime": at(booted), "allocationTime": at(booted)})
