"""What a plan says of itself."""

from __future__ import annotations

import pytest

from tes_server.plan.steps import Limits, Placement, Plan, StageIn, StageOut


@pytest.mark.parametrize(
    ("preemptible", "spot_attempts", "attempt", "spot"),
    [(True, 1, 1, True), (True, 1, 2, False), (True, 3, 3, True), (True, 0, 1, False), (False, 3, 1, False)],
)
def test_spot_capacity_is_for_the_first_attempts(preemptible: bool, spot_attempts: int, attempt: int, spot: bool) -> None:
    plan = Plan(
        task_id="t",
        attempt=attempt,
        stage_in=StageIn(),
        executors=(),
        stage_out=StageOut(),
        mounts=(),
        limits=Limits(cpus=1, ram_bytes=1),
        placement=Placement(preemptible=preemptible, spot_attempts=spot_attempts),
    )
    assert plan.on_spot is spot
