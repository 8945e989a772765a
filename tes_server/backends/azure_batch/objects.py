"""What is read of Azure Batch's answers (REST reference 2025-06-01: BatchTask, BatchPool, BatchNode). Pure values."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import msgspec

from tes_server.runner import node as runner

TASK = ["id", "state", "stateTransitionTime", "previousState", "creationTime", "executionInfo", "nodeInfo", "constraints"]
"""What is asked for of tasks ($select)."""

POOL = [
    "id",
    "state",
    "allocationState",
    "resizeErrors",
    "taskSlotsPerNode",
    "metadata",
    "enableAutoScale",
    "autoScaleFormula",
    "autoScaleEvaluationInterval",
    "autoScaleRun",
]
"""What is asked for of pools."""

NODE = ["id", "state", "lastBootTime", "allocationTime"]
"""What is asked for of nodes."""

COMPLETED = "completed"

PLACED = ("preparing", "running")
"""States of tasks that have a node."""


class Pair(msgspec.Struct, frozen=True):
    """A detail, or a metadata item."""

    name: str = ""
    value: str = ""


class Fault(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Why a task failed (BatchTaskFailureInfo), or a pool cannot grow (ResizeError)."""

    category: str = ""
    code: str = ""
    message: str = ""
    details: tuple[Pair, ...] = msgspec.field(default=(), name="details")
    values: tuple[Pair, ...] = ()

    @property
    def words(self) -> str:
        """For people."""
        more = "; ".join(f"{pair.name}: {pair.value}" if pair.name else pair.value for pair in (*self.details, *self.values) if pair.value)
        return f"{': '.join(part for part in (self.code, self.message) if part)}{f' ({more})' if more else ''}"


class Execution(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """How a task runs, or ran."""

    start_time: datetime.datetime | None = None
    end_time: datetime.datetime | None = None
    exit_code: int | None = None
    result: str = ""
    failure_info: Fault | None = None


class NodeInfo(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Where it runs, or ran."""

    node_id: str = ""
    pool_id: str = ""


class Constraints(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What bounds it."""

    max_wall_clock_time: datetime.timedelta | None = None


class Task(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """One task. Its states: active, preparing, running, completed; back to active where its node went."""

    id: str
    state: str = "active"
    state_transition_time: datetime.datetime | None = None
    previous_state: str = ""
    creation_time: datetime.datetime | None = None
    execution_info: Execution = Execution()
    node_info: NodeInfo = NodeInfo()
    constraints: Constraints = Constraints()

    @property
    def over(self) -> bool:
        """Nothing of it runs any more, as far as Azure Batch knows."""
        return self.state == COMPLETED

    @property
    def placed(self) -> bool:
        """It has a node now."""
        return self.state in PLACED

    @property
    def requeued(self) -> bool:
        """It had a node, and waits for another one."""
        return self.state == "active" and self.previous_state in PLACED

    @property
    def unsettled(self) -> bool:
        """Another node may have its attempt: it had one before, or its runner says so."""
        return self.requeued or (
            self.over and (self.execution_info.exit_code == runner.TAKEN or (not self.node_info.node_id and not self.execution_info.exit_code))
        )


class AutoScaleRun(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What the last evaluation of a formula came to."""

    error: Fault | None = None


class PoolDetail(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """One pool."""

    id: str = ""
    state: str = "active"
    allocation_state: str = "steady"
    resize_errors: tuple[Fault, ...] = ()
    task_slots_per_node: int = 1
    metadata: tuple[Pair, ...] = ()
    enable_auto_scale: bool = False
    auto_scale_formula: str = ""
    auto_scale_run: AutoScaleRun = AutoScaleRun()

    @property
    def faults(self) -> list[str]:
        """Why it cannot grow, in words."""
        run = self.auto_scale_run.error
        return [*(error.words for error in self.resize_errors), *([] if run is None else [f"its autoscale formula fails: {run.words}"])]

    @property
    def notes(self) -> dict[str, str]:
        """Its metadata, by name."""
        return {pair.name: pair.value for pair in self.metadata}


class NodeDetail(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """One node."""

    id: str = ""
    state: str = "unknown"
    last_boot_time: datetime.datetime | None = None


def task(answer: Mapping[str, Any]) -> Task:
    """From a decoded answer. What is not there yet comes as null, or not at all."""
    return msgspec.convert(_given(answer), Task, strict=False)


def pool(answer: Mapping[str, Any]) -> PoolDetail:
    """From a decoded answer."""
    return msgspec.convert(_given(answer), PoolDetail, strict=False)


def node(answer: Mapping[str, Any]) -> NodeDetail:
    """From a decoded answer."""
    return msgspec.convert(_given(answer), NodeDetail, strict=False)


def _given(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Without nulls."""
    return {key: _given(value) if isinstance(value, Mapping) else value for key, value in answer.items() if value is not None}
