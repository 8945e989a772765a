"""Pools, nodes, jobs and tasks: what was asked for, how far each is, and how the service tells of it."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import pathlib
import threading
from typing import Any

from tests.emulators.azure_batch.formula_functions import Sample
from tests.emulators.azure_batch.protocol import Json, now, stamp

_changes = itertools.count(0x8D0000000000000)
_numbers = itertools.count(1)
Key = tuple[str, str]
"""ids of job and task, in lower case"""


@dataclasses.dataclass(kw_only=True)
class Record:
    """What every resource has. Whoever reads or changes one holds the account's lock. `spec`: as it was asked for, by names of the REST service."""

    id: str
    url: str
    spec: Json
    state: str
    since: datetime.datetime = dataclasses.field(default_factory=now)
    created: datetime.datetime = dataclasses.field(default_factory=now)
    modified: datetime.datetime = dataclasses.field(default_factory=now)
    etag: str = ""

    def __post_init__(self) -> None:
        self.touch()

    def touch(self) -> None:
        """It was changed by a call."""
        self.modified = now()
        self.etag = f"0x{next(_changes):X}"

    def common(self) -> Json:
        return {
            "id": self.id,
            "url": self.url,
            "eTag": self.etag,
            "lastModified": stamp(self.modified),
            "creationTime": stamp(self.created),
            "state": self.state,
            "stateTransitionTime": stamp(self.since),
        }


@dataclasses.dataclass(kw_only=True, eq=False)
class Pool(Record):
    """`targets`: of dedicated and low-priority nodes."""

    cores: int
    """of a node"""
    dedicated: int = 0
    low_priority: int = 0
    option: str = "requeue"
    """what becomes of tasks on nodes that go"""
    allocation: str = "steady"
    allocated: datetime.datetime = dataclasses.field(default_factory=now)
    errors: list[Json] = dataclasses.field(default_factory=list)
    auto_scale: bool = False
    formula: str = ""
    interval: float = 900.0
    run: Json | None = None
    evaluated: float = float("-inf")
    """monotonic clock; of the last evaluation"""
    enabled: float = float("-inf")
    """monotonic clock; of the last call that enabled it"""
    samples: dict[str, list[Sample]] = dataclasses.field(default_factory=dict)
    sampled: float = float("-inf")
    nodes: dict[str, Node] = dataclasses.field(default_factory=dict)

    @property
    def slots(self) -> int:
        return int(self.spec.get("taskSlotsPerNode", 1))

    @property
    def has_containers(self) -> bool:
        return "containerConfiguration" in self.spec.get("virtualMachineConfiguration", {})

    def count(self, *, dedicated: bool) -> int:
        return sum(node.dedicated == dedicated for node in self.nodes.values())

    def told(self) -> Json:
        hidden = ("targetDedicatedNodes", "targetLowPriorityNodes", "autoScaleFormula", "autoScaleEvaluationInterval", "enableAutoScale")
        told: Json = {name: value for name, value in self.spec.items() if name not in hidden} | self.common()
        told |= {
            "allocationState": self.allocation,
            "allocationStateTransitionTime": stamp(self.allocated),
            "currentDedicatedNodes": self.count(dedicated=True),
            "currentLowPriorityNodes": self.count(dedicated=False),
            "targetDedicatedNodes": self.dedicated,
            "targetLowPriorityNodes": self.low_priority,
            "enableAutoScale": self.auto_scale,
            "taskSlotsPerNode": self.slots,
        }
        told.setdefault("resizeTimeout", "PT15M")
        told.setdefault("taskSchedulingPolicy", {"nodeFillType": "spread"})
        if self.errors:
            told["resizeErrors"] = self.errors
        if self.auto_scale:
            told |= {"autoScaleFormula": self.formula, "autoScaleEvaluationInterval": f"PT{self.interval:.0f}S"}
            if self.run is not None:
                told["autoScaleRun"] = self.run
        return told


@dataclasses.dataclass(kw_only=True, eq=False)
class Node(Record):
    """A virtual machine. `root`: the directory of the node that tasks know as AZ_BATCH_NODE_ROOT_DIR."""

    pool: Pool
    dedicated: bool
    root: pathlib.Path
    address: str
    booted: datetime.datetime = dataclasses.field(default_factory=now)
    scheduling: str = "enabled"
    leaving: str = ""
    """the option with which it was asked to go"""
    runs: dict[Key, Run] = dataclasses.field(default_factory=dict)
    prepared: dict[str, Json] = dataclasses.field(default_factory=dict)
    """job id -> how its preparation task went here, as the service tells of it"""
    start: Json | None = None
    """startTaskInfo"""
    errors: list[Json] = dataclasses.field(default_factory=list)
    total: int = 0
    succeeded: int = 0
    recent: list[Json] = dataclasses.field(default_factory=list)
    lost: threading.Event = dataclasses.field(default_factory=threading.Event)
    """of this life of the node: nothing runs on it any more"""

    @property
    def used(self) -> int:
        return sum(run.task.slots for run in self.runs.values())

    def takes(self, slots: int) -> bool:
        open_ = self.state in ("idle", "running") and self.scheduling == "enabled" and not self.leaving
        return open_ and self.used + slots <= self.pool.slots

    def told(self) -> Json:
        common = {name: value for name, value in self.common().items() if name in ("id", "url", "state", "stateTransitionTime")}
        told: Json = common | {
            "affinityId": f"TVM:{self.id}",
            "allocationTime": stamp(self.created),
            "ipAddress": self.address,
            "ipv6Address": "fd00::4",
            "isDedicated": self.dedicated,
            "lastBootTime": stamp(self.booted),
            "schedulingState": self.scheduling,
            "vmSize": self.pool.spec["vmSize"],
            "totalTasksRun": self.total,
            "totalTasksSucceeded": self.succeeded,
            "runningTasksCount": len(self.runs),
            "runningTaskSlotsCount": self.used,
            "recentTasks": self.recent[-5:],
            "nodeAgentInfo": {"version": "1.13.8", "lastUpdateTime": stamp(self.booted)},
            "virtualMachineInfo": {"imageReference": self.pool.spec["virtualMachineConfiguration"]["imageReference"]},
        }
        if start := self.pool.spec.get("startTask"):
            told["startTask"] = start
        if self.start is not None:
            told["startTaskInfo"] = self.start
        if self.errors:
            told["errors"] = self.errors
        return told


@dataclasses.dataclass(kw_only=True, eq=False)
class Job(Record):
    """`tasks`, `waiting`: by id in lower case; those that wait in the order in which they came."""

    previous: tuple[str, datetime.datetime] | None = None
    tasks: dict[str, Task] = dataclasses.field(default_factory=dict)
    waiting: dict[str, Task] = dataclasses.field(default_factory=dict)
    ended: datetime.datetime | None = None
    why: str = ""
    """terminateReason"""
    disabling: str = ""
    """what becomes of its running tasks while it is disabling"""

    @property
    def priority(self) -> int:
        return int(self.spec.get("priority", 0))

    @property
    def pool(self) -> str:
        return str(self.spec["poolInfo"].get("poolId", "")).lower()

    def told(self) -> Json:
        info: Json = {"startTime": stamp(self.created), "poolId": self.spec["poolInfo"].get("poolId", "")}
        if self.ended is not None:
            info |= {"endTime": stamp(self.ended), "terminateReason": self.why}
        usual: Json = {"priority": 0, "onAllTasksComplete": "noaction", "onTaskFailure": "noaction", "usesTaskDependencies": False, "maxParallelTasks": -1}
        told = usual | self.spec | self.common() | {"executionInfo": info}
        told.setdefault("constraints", {"maxWallClockTime": "P10675199DT2H48M5.4775807S", "maxTaskRetryCount": 0})
        return told | _previous(self.previous)


@dataclasses.dataclass(eq=False)
class Run:
    """One start of a task on a node. A task whose `run` is another one has been requeued meanwhile."""

    task: Task
    node: Node
    life: threading.Event
    """the node's `lost` at that time"""
    directory: pathlib.Path
    ending: Json | None = None
    """the failureInfo with which it is being ended"""
    container: str = ""
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    number: int = dataclasses.field(default_factory=lambda: next(_numbers))


@dataclasses.dataclass(kw_only=True, eq=False)
class Task(Record):
    """`key`: ids of its job and itself, in lower case."""

    key: Key
    previous: tuple[str, datetime.datetime] | None = None
    run: Run | None = None
    last: Run | None = None
    """the newest run, also of a task that has ended"""
    info: Json = dataclasses.field(default_factory=lambda: {"retryCount": 0, "requeueCount": 0})
    """executionInfo"""
    not_before: float = 0.0
    """monotonic clock"""
    began: float = 0.0
    """monotonic clock; of the newest run"""

    @property
    def slots(self) -> int:
        return int(self.spec.get("requiredSlots", 1))

    @property
    def failed(self) -> bool:
        return self.state == "completed" and self.info.get("result") == "failure"

    def told(self) -> Json:
        told: Json = {"requiredSlots": 1} | self.spec | self.common() | {"executionInfo": dict(self.info)}
        given = self.spec.get("constraints", {})
        told["constraints"] = {"maxWallClockTime": "P10675199DT2H48M5.4775807S", "retentionTime": "P7D", "maxTaskRetryCount": 0, **given}
        run = self.run or (self.last if self.state == "completed" else None)
        if run is not None:
            node = run.node
            told["nodeInfo"] = {
                "affinityId": f"TVM:{node.id}",
                "nodeUrl": node.url,
                "poolId": node.pool.id,
                "nodeId": node.id,
                "taskRootDirectory": str(run.directory.relative_to(node.root)),
                "taskRootDirectoryUrl": f"{node.url}/files/{run.directory.relative_to(node.root)}",
            }
        return told | _previous(self.previous)


def _previous(previous: tuple[str, datetime.datetime] | None) -> dict[str, Any]:
    return {} if previous is None else {"previousState": previous[0], "previousStateTransitionTime": stamp(previous[1])}
