"""The autoscale formula, evaluated as Azure does by the emulator's own evaluator."""

from __future__ import annotations

import datetime
from collections.abc import Mapping

import pytest

from tes_server.backends.azure_batch import formula
from tests.emulators.azure_batch import formulas
from tests.emulators.azure_batch.formula_functions import Sample, Samples

NOW = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)
MINUTE = datetime.timedelta(minutes=1)


def nodes(script: str, *, waiting: int = 0, running: int = 0, usable: int = 0, target: int = 0, waited: Mapping[int, int] | None = None) -> dict[str, object]:
    """What a formula comes to. `waited`: minutes ago -> tasks that waited then; the newest sample is of now. None of them at all: a new pool."""
    history = {0: waiting, **(waited or {})}
    now = {"$ActiveTasks": waiting, "$RunningTasks": running, "$PendingTasks": waiting + running, "$UsableNodeCount": usable}
    seen = {name: Samples([Sample(NOW, value)], value) for name, value in now.items()}
    seen["$ActiveTasks"] = Samples([Sample(NOW - ago * MINUTE, count) for ago, count in sorted(history.items(), reverse=True)], waiting)
    return evaluated(script, seen, target)


def evaluated(script: str, seen: Mapping[str, Samples], target: int = 0) -> dict[str, object]:
    targets = {formula.DEDICATED: float(target), formula.SPOT: float(target)}
    return formulas.evaluate(script, {**seen, **targets}, NOW)


POOL = formula.scale(slots=4, most=10, least=0, spot=False)
IDLE = formula.scale(slots=4, most=10, least=2, spot=True)


@pytest.mark.parametrize(
    ("wanted", "seen"),
    [
        pytest.param(0, {}, id="nothing to do"),
        pytest.param(1, {"waiting": 1}, id="one task"),
        pytest.param(2, {"waiting": 5}, id="more than fit on one node"),
        pytest.param(10, {"waiting": 1000}, id="a burst: at most so many"),
        pytest.param(3, {"waiting": 0, "running": 12, "usable": 3, "target": 3}, id="all run"),
        pytest.param(1, {"running": 2, "usable": 5, "target": 5}, id="nobody has waited: fewer nodes"),
        pytest.param(5, {"running": 2, "usable": 5, "target": 5, "waited": {8: 3}}, id="some waited eight minutes ago: they stay"),
        pytest.param(1, {"running": 2, "usable": 5, "target": 5, "waited": {12: 3}}, id="some waited, twelve minutes ago"),
        pytest.param(6, {"waiting": 4, "running": 2, "usable": 2, "target": 2}, id="full nodes run one task each"),
        pytest.param(4, {"waiting": 4, "running": 4, "usable": 2, "target": 2}, id="full nodes run two tasks each"),
        pytest.param(4, {"waiting": 1, "running": 12, "usable": 2, "target": 2}, id="never more of them on a node than it has slots"),
        pytest.param(3, {"waiting": 9, "running": 0, "usable": 2, "target": 2}, id="nodes have just come"),
    ],
)
def test_nodes(wanted: int, seen: dict[str, int]) -> None:
    assert nodes(POOL, **seen)[formula.DEDICATED] == wanted  # type: ignore[arg-type]


def test_a_new_pool_has_no_samples() -> None:
    none = {name: Samples([]) for name in ("$ActiveTasks", "$RunningTasks", "$PendingTasks", "$UsableNodeCount")}
    assert evaluated(POOL, none)[formula.DEDICATED] == 0
    assert evaluated(IDLE, none)[formula.SPOT] == 2


def test_spot_nodes_and_dedicated_ones_are_never_mixed() -> None:
    spot, dedicated = nodes(IDLE, waiting=20), nodes(POOL, waiting=20)
    assert (spot[formula.SPOT], spot[formula.DEDICATED]) == (5, 0)
    assert (dedicated[formula.SPOT], dedicated[formula.DEDICATED]) == (0, 5)


def test_some_stay_while_nothing_runs() -> None:
    assert nodes(IDLE)[formula.SPOT] == 2


@pytest.mark.parametrize("script", [POOL, IDLE, formula.DRAIN])
def test_a_node_finishes_its_tasks_before_it_goes(script: str) -> None:
    assert nodes(script, running=9, usable=3, target=3)["$NodeDeallocationOption"] == "taskcompletion"


def test_drained_whatever_waits() -> None:
    found = nodes(formula.DRAIN, waiting=100, running=12, usable=3, target=3)
    assert (found[formula.DEDICATED], found[formula.SPOT]) == (0, 0)


def test_what_an_evaluation_came_to() -> None:
    assert formula.targets("$TargetDedicatedNodes=3;$TargetLowPriorityNodes=0;$NodeDeallocationOption=taskcompletion;slots=4") == (3, 0)
    assert formula.targets(formulas.results(nodes(IDLE, waiting=20))) == (0, 5)
    assert formula.targets("") == (0, 0)


def test_within_the_bounds_of_azure() -> None:
    longest = formula.scale(slots=256, most=10**6, least=10**6, spot=True)
    assert len(longest) < formulas.LONGEST
    assert longest.count(";") < formulas.MOST
