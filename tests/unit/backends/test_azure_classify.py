"""What each state of an Azure Batch task, with and without a report, comes to: facts/azure-batch.md and the REST reference."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tes_server.backends.azure_batch import nodes, objects
from tes_server.backends.azure_batch.classify import Bounds, Look, Seen, classify
from tes_server.backends.azure_batch.nodes import Fate
from tes_server.model.run import Observation, Phase, Reason, Report, Tails
from tes_server.model.task import ExecutorLog
from tes_server.runner import node as runner
from tests.unit.backends.azure_objects import ENDED, EXITED, NOW, at, failure, node, task

BOUNDS = Bounds(capacity=0, reap=30, node=900)
GOOD = Report(executors=(ExecutorLog(exit_code=0),))
CUT = Report(executors=(ExecutorLog(exit_code=143),), reason=Reason.LOST, code="LOST", message="executor 0 was stopped from outside", transient=True)


def look(bounds: Bounds = BOUNDS, **seen: Any) -> Look:
    return classify(Seen(**seen), NOW, bounds)


def seen(**given: Any) -> Observation:
    return look(**given).observation


class TestNotEnded:
    @pytest.mark.parametrize(
        ("state", "phase"),
        [("active", Phase.PENDING), ("preparing", Phase.STAGING), ("running", Phase.RUNNING), ("somethingnew", Phase.PENDING)],
    )
    def test_states(self, state: str, phase: Phase) -> None:
        assert seen(detail=task(state)).phase is phase

    def test_when_it_began(self) -> None:
        found = seen(detail=task(), where={"node": "tvm-1"})
        assert (found.start_time, found.where) == (task().execution_info.start_time, {"node": "tvm-1"})

    def test_why_it_waits(self) -> None:
        words = "pool spot: The specified account has reached low priority core quota"
        found = look(detail=task("active"), faults=words)
        assert (found.observation.code, found.observation.message, found.stop) == ("WAITING_CAPACITY", words, False)
        assert seen(detail=task("active")).code == ""

    def test_it_waits_as_long_as_the_site_says(self) -> None:
        waiting = task("active")  # for two minutes
        assert look(Bounds(capacity=121), detail=waiting).observation.phase is Phase.PENDING
        found = look(Bounds(capacity=120), detail=waiting, faults="pool spot: AllocationFailed")
        assert found.stop
        assert (found.observation.phase, found.observation.reason, found.observation.transient) == (Phase.ENDED, Reason.CAPACITY, False)
        assert found.observation.message == "no node for 0.0333 hours: pool spot: AllocationFailed"
        assert not look(Bounds(capacity=120), detail=task("running")).stop


class TestWithReport:
    @pytest.mark.parametrize("end", [{}, {"exitCode": 0}, {"exitCode": 1, **EXITED}, {"exitCode": runner.TAKEN, **EXITED}, ENDED, failure("DiskFull")])
    def test_it_decides(self, end: dict[str, Any]) -> None:
        found = seen(detail=task("completed", **end), report=GOOD)
        assert (found.phase, found.report) == (Phase.ENDED, GOOD)

    def test_it_outlives_the_task(self) -> None:
        assert seen(report=GOOD).report == GOOD

    @pytest.mark.parametrize("state", ["active", "preparing", "running"])
    def test_of_a_task_that_was_queued_anew_after_its_end(self, state: str) -> None:
        for holder in ("", "tvm-0"):
            found = look(detail=task(state), report=GOOD, holder=holder, fate=Fate.GONE if holder else None)
            assert (found.observation.phase, found.observation.report, found.stop) == (Phase.ENDED, GOOD, True)

    @pytest.mark.parametrize(
        ("end", "canceled", "reason"),
        [
            ({"exitCode": 137, **EXITED}, False, Reason.LOST),
            (ENDED, False, Reason.LOST),
            (ENDED, True, Reason.CANCELED),
            ({"limit": "PT10S", **ENDED}, False, Reason.TIMEOUT),
            ({"limit": "PT10S", **ENDED}, True, Reason.CANCELED),
            ({"limit": "PT11S", **ENDED}, False, Reason.LOST),
        ],
    )
    def test_why_it_was_ended_from_outside(self, end: dict[str, Any], canceled: bool, reason: Reason) -> None:
        report = seen(detail=task("completed", **end), report=CUT, canceled=canceled).report
        assert report is not None
        assert (report.reason, report.executors) == (reason, CUT.executors)

    def test_an_end_of_its_own_is_not_explained_away(self) -> None:
        failed = msgspec.structs.replace(GOOD, reason=Reason.EXIT, code="EXECUTOR_FAILED")
        assert seen(detail=task("completed", limit="PT10S", **ENDED), report=failed, canceled=True).report == failed


class TestWithout:
    @pytest.mark.parametrize(
        ("end", "reason", "code", "transient"),
        [
            ({}, Reason.LOST, "LOST", True),
            (ENDED, Reason.LOST, "LOST", True),
            ({"limit": "PT10S", **ENDED}, Reason.TIMEOUT, "TIMEOUT", False),
            ({"exitCode": runner.TAKEN, **EXITED}, Reason.LOST, "LOST", True),
            ({"exitCode": runner.NOTHING, **EXITED}, Reason.LOST, "LOST", True),
            ({"exitCode": runner.FAILED, **EXITED}, Reason.BACKEND, "ENGINE_ERROR", True),
            ({"exitCode": 143, **EXITED}, Reason.LOST, "LOST", True),
            ({"exitCode": 137, **EXITED}, Reason.LOST, "LOST", True),
            (failure("DiskFull", "There is not enough disk space on the node"), Reason.BACKEND, "DISK_FULL", True),
            *[
                (failure(f"Container{what}", "One or more container images specified are invalid"), Reason.BACKEND, "ENGINE_ERROR", True)
                for what in ("InvalidImage", "InvalidRegistry", "InvalidSettings", "MiscError")
            ],
            (failure("BlobAccessDenied", "Access for one of the specified Azure Blob(s) is denied"), Reason.BACKEND, "ENGINE_ERROR", True),
            (failure("CommandProgramNotFound", "The system cannot find the file specified"), Reason.BACKEND, "ENGINE_ERROR", True),
            (failure("SomethingNew", category="servererror"), Reason.BACKEND, "ENGINE_ERROR", True),
        ],
    )
    def test_reasons(self, end: dict[str, Any], reason: Reason, code: str, transient: bool) -> None:
        found = seen(detail=task("completed", **end))
        assert (found.phase, found.reason, found.code, found.transient) == (Phase.ENDED, reason, code, transient)

    @pytest.mark.parametrize("canceled", [True, False])
    def test_what_was_heard_of_its_output_is_kept(self, canceled: bool) -> None:
        heard = Tails(attempt=1, executors=(ExecutorLog(stdout="half\n"),))
        found = seen(detail=task("completed", **ENDED), tails=heard, canceled=canceled)
        assert found.report is not None
        assert found.report.executors == heard.executors
        assert found.report.executors[0].exit_code is None
        assert found.report.reason is found.reason is (Reason.CANCELED if canceled else Reason.LOST)
        assert found.report.transient is found.transient

    def test_azure_is_quoted(self) -> None:
        image = failure("ContainerInvalidImage", "One or more container images specified are invalid", Message="manifest unknown")
        found = seen(detail=task("completed", **image))
        assert found.message == (
            "the node cannot start this server's own image (azure_batch.image, which azure_batch.registry_identity must be let pull): ContainerInvalidImage: "
            "One or more container images specified are invalid (Message: manifest unknown)"
        )

    def test_where_the_output_of_a_runner_is_that_failed(self) -> None:
        assert "with the task abc-1 on Azure Batch (stderr.txt)" in seen(detail=task("completed", exitCode=runner.FAILED, **EXITED)).message

    @pytest.mark.parametrize("end", [{"exitCode": 137, **EXITED}, {"exitCode": 143, **EXITED}, ENDED])
    def test_canceled(self, end: dict[str, Any]) -> None:
        found = seen(detail=task("completed", **end), canceled=True)
        assert (found.reason, found.transient) == (Reason.CANCELED, False)

    @pytest.mark.parametrize("end", [{"exitCode": 137, **EXITED}, {"exitCode": runner.FAILED, **EXITED}, ENDED, failure("DiskFull"), {}])
    def test_containers_of_a_dead_runner_are_given_time_to_go(self, end: dict[str, Any]) -> None:
        assert seen(detail=task("completed", **{**end, "endTime": at(-29)})).phase is Phase.UNKNOWN
        assert seen(detail=task("completed", **{**end, "endTime": at(-30)})).phase is Phase.ENDED

    @pytest.mark.parametrize("code", [143, runner.TAKEN, runner.NOTHING])
    def test_one_that_has_begun_nothing_is_not_waited_for(self, code: int) -> None:
        assert seen(detail=task("completed", endTime=at(-1), exitCode=code, **EXITED)).phase is Phase.ENDED

    def test_nor_one_whose_attempt_nobody_took(self) -> None:
        waiting = task("completed", node=None, startTime=at(-1), endTime=at(-1), **ENDED)
        assert seen(detail=waiting, taken=False, canceled=True).reason is Reason.CANCELED

    def test_nobody_knows_it(self) -> None:
        assert seen().phase is Phase.GONE


class TestElsewhere:
    """The attempt is the runner's of another node, or of a former life of this one."""

    @pytest.mark.parametrize(
        ("fate", "spot", "seconds", "reason"),
        [
            (Fate.GONE, True, 0, Reason.PREEMPTED),
            (Fate.GONE, False, 0, Reason.LOST),
            (Fate.LIVES, True, 29, None),
            (Fate.LIVES, True, 30, Reason.PREEMPTED),
            (Fate.LIVES, False, 30, Reason.LOST),
            (Fate.DOUBTFUL, True, 899, None),
            (Fate.DOUBTFUL, True, 900, Reason.LOST),
            (Fate.DOUBTFUL, False, 900, Reason.LOST),
        ],
    )
    @pytest.mark.parametrize("state", ["active", "preparing", "running", "completed"])
    def test_not_before_nothing_of_it_runs_there(self, state: str, fate: Fate, spot: bool, seconds: float, reason: Reason | None) -> None:
        over = {"endTime": at(-seconds), "exitCode": runner.TAKEN, **EXITED} if state == "completed" else {}
        found = look(detail=task(state, transition=-seconds, **over), holder="tvm-0", fate=fate, spot=spot)
        if reason is None:
            assert (found.observation.phase, found.stop) == (Phase.UNKNOWN, False)
        else:
            assert (found.observation.phase, found.observation.reason, found.observation.transient) == (Phase.ENDED, reason, True)
            assert "tvm-0" in found.observation.message
            assert found.stop == (state != "completed"), "what goes on by itself is ended"

    @pytest.mark.parametrize(
        ("given", "unsettled"),
        [
            (task("active"), False),
            (task("active", previous="preparing"), True),
            (task("active", previous="running"), True),
            (task("running", previous="preparing"), False),
            (task("completed", exitCode=0), False),
            (task("completed", exitCode=runner.TAKEN, **EXITED), True),
            (task("completed", exitCode=137, **EXITED), False),
            (task("completed", **ENDED), False),
            (task("completed", node=None, **ENDED), True),
        ],
    )
    def test_when_it_may_be(self, given: objects.Task, unsettled: bool) -> None:
        assert given.unsettled is unsettled


class TestFate:
    @pytest.mark.parametrize("state", sorted(nodes.DEAD))
    def test_of_a_node_on_which_nothing_runs(self, state: str) -> None:
        assert nodes.fate(node(state), None) is Fate.GONE

    @pytest.mark.parametrize("state", ["unusable", "unknown", "offline"])
    def test_of_one_that_is_silent(self, state: str) -> None:
        assert nodes.fate(node(state), None) is Fate.DOUBTFUL

    @pytest.mark.parametrize("state", ["idle", "running", "somethingnew"])
    def test_of_one_that_lives(self, state: str) -> None:
        assert nodes.fate(node(state), None) is Fate.LIVES
        assert nodes.fate(node(state, booted=-61), task().execution_info.start_time) is Fate.LIVES

    @pytest.mark.parametrize("state", ["idle", "running", "unusable"])
    def test_of_one_that_is_back_under_its_name(self, state: str) -> None:
        assert nodes.fate(node(state, booted=-59), task().execution_info.start_time) is Fate.GONE

    def test_of_none(self) -> None:
        assert nodes.fate(None, None) is Fate.GONE


class TestAnswers:
    def test_nulls_are_as_good_as_nothing(self) -> None:
        known = objects.task({"id": "a-1", "state": "active", "executionInfo": None, "nodeInfo": {"nodeId": None}, "constraints": None, "new": 1})
        assert known == objects.Task(id="a-1")

    def test_an_endless_time_is_understood(self) -> None:
        most = task().constraints.max_wall_clock_time
        assert most is not None
        assert most.days == 10_675_199
