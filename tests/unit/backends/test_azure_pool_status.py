"""How pools are, in words."""

from __future__ import annotations

from typing import Any

import pytest

from tes_server.backends.azure_batch import formula, pool_status
from tes_server.backends.azure_batch.pool_status import Tasks

NONE = Tasks()
RUN = {"timestamp": "2026-11-22T07:05:00.123Z", "results": "$TargetDedicatedNodes=0;$TargetLowPriorityNodes=3"}


def told(counts: dict[str, Any] | None = None, tasks: Tasks = NONE, **pool: Any) -> list[str]:
    usual = {"id": "big", "state": "active", "allocationState": "steady", "enableAutoScale": True, "autoScaleRun": RUN, "targetLowPriorityNodes": 3}
    return list(pool_status.lines(pool_status.status({**usual, **pool}, counts or {}, tasks)))


def test_all_is_well() -> None:
    counts = {"lowPriority": {"running": 2, "idle": 0, "creating": 1, "total": 3}, "dedicated": {"total": 0}}
    assert told(counts, Tasks(5, 12, 10, 24)) == [
        "active, steady: 3 nodes (2 running, 1 creating), 3 wanted",
        "5 tasks wait (10 slots), 12 run (24 slots)",
        "its formula came to 3 nodes at 2026-11-22T07:05:00 UTC",
    ]


def test_nothing_is_told_yet() -> None:
    assert told(autoScaleRun=None) == ["active, steady: 0 nodes, 3 wanted", "0 tasks wait (0 slots), 0 run (0 slots)"]


@pytest.mark.parametrize(
    ("pool", "begins"),
    [
        ({"resizeErrors": [{"code": "AccountCoreQuotaReached", "message": "quota"}]}, "! AccountCoreQuotaReached: the account's quota of dedicated cores"),
        ({"resizeErrors": [{"code": "AllocationTimedout", "message": "late"}]}, "! AllocationTimedout: Azure did not bring all nodes"),
        ({"resizeErrors": [{"code": "Another", "message": "in Azure's words"}]}, "! Another: in Azure's words"),
        ({"enableAutoScale": False}, "! it does not scale"),
        ({"autoScaleFormula": formula.DRAIN}, "! its nodes were told to go"),
        (
            {"autoScaleRun": {**RUN, "error": {"code": "Wrong", "message": "no", "values": [{"name": "Line", "value": "1"}]}}},
            "! its formula could not be evaluated at 2026-11-22T07:05:00 UTC: Wrong: no (Line: 1)",
        ),
    ],
)
def test_what_somebody_should_look_at(pool: dict[str, Any], begins: str) -> None:
    (found,) = [line for line in told(**pool) if line.startswith("!")]
    assert found.startswith(begins)


@pytest.mark.parametrize(("state", "says"), [("startTaskFailed", "1 nodes are starttaskfailed: the start task failed"), ("unusable", "1 nodes are unusable:")])
def test_nodes_that_will_never_take_a_task(state: str, says: str) -> None:
    assert [line for line in told({"dedicated": {state: 1, "total": 1}}) if line.startswith(f"! {says}")]


def test_tasks_of_several_jobs() -> None:
    one = {"taskCounts": {"active": 1, "running": 2, "completed": 9}, "taskSlotCounts": {"active": 4, "running": 8}}
    assert Tasks().plus(one).plus(one) == Tasks(2, 4, 8, 16)
