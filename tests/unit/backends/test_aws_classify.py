"""What each state of an AWS Batch job, with and without a report, comes to: facts/aws-batch.md and the AWS Batch user guide."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec
import pytest

from tes_server.backends.aws_batch import names
from tes_server.backends.aws_batch.classify import Bounds, Look, Seen, classify
from tes_server.backends.aws_batch.names import Stop
from tes_server.model.run import Phase, Reason, Report
from tes_server.model.task import ExecutorLog
from tes_server.runner import node
from tests.unit.backends.aws_objects import NOW, at, job

BOUNDS = Bounds(config=900, capacity=0, reap=30)
GOOD = Report(executors=(ExecutorLog(exit_code=0),))
CUT = Report(executors=(ExecutorLog(exit_code=143),), reason=Reason.LOST, code="LOST", message="executor 0 was stopped from outside", transient=True)
CANCELED = Stop(reason=Reason.CANCELED, code="CANCELED", message="stopped")
HOST = "Host EC2 (instance i-0123456789abcdef0) terminated."


def look(bounds: Bounds = BOUNDS, **seen: Any) -> Look:
    return classify(Seen(**seen), NOW, bounds)


class TestNotEnded:
    @pytest.mark.parametrize(
        ("status", "phase"),
        [
            ("SUBMITTED", Phase.PENDING),
            ("PENDING", Phase.PENDING),
            ("RUNNABLE", Phase.PENDING),
            ("STARTING", Phase.STAGING),
            ("RUNNING", Phase.RUNNING),
            ("SOMETHING_NEW", Phase.PENDING),
        ],
    )
    def test_states(self, status: str, phase: Phase) -> None:
        assert look(detail=job(status)).observation.phase is phase

    def test_where_it_runs_is_told_once_it_does(self) -> None:
        assert look(detail=job("STARTING")).observation.where == {}
        seen = look(detail=job(container={"logStreamName": "tes/default/1"}), spot=True).observation
        assert seen.where == {"job": "j-1", "queue": "spot", "capacity": "spot", "log": "tes/default/1"}
        assert seen.start_time == NOW - datetime.timedelta(seconds=60)

    def test_a_stuck_job_has_the_words_of_aws(self) -> None:
        words = "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - Service cannot fulfill the capacity requested for instance type [r5.8xlarge]"
        seen = look(detail=job("RUNNABLE", statusReason=words))
        assert (seen.observation.code, seen.observation.message, seen.stop) == ("WAITING_CAPACITY", words, None)

    def test_a_wrong_set_up_is_waited_for_no_longer_than_allowed(self) -> None:
        stuck = job("RUNNABLE", statusReason="MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - the job asks for more than any instance has")
        assert look(detail=stuck).stop is None
        assert look(detail=stuck, blocked=NOW - datetime.timedelta(seconds=899)).stop is None
        stop = look(detail=stuck, blocked=NOW - datetime.timedelta(seconds=900)).stop
        assert stop is not None
        assert stop.reason is Reason.CAPACITY
        assert not stop.transient
        assert "JOB_RESOURCE_REQUIREMENT" in stop.message

    def test_capacity_is_waited_for_as_long_as_the_site_says(self) -> None:
        assert look(detail=job("RUNNABLE", createdAt=at(-(10**7)))).stop is None
        stop = look(Bounds(capacity=3600), detail=job("RUNNABLE", createdAt=at(-3600), statusReason="CAPACITY:X")).stop
        assert stop is not None
        assert "CAPACITY:X" in stop.message
        assert look(Bounds(capacity=3600), detail=job("RUNNABLE", createdAt=at(-3599))).stop is None


class TestWithReport:
    def test_the_report_decides(self) -> None:
        for state in ("SUCCEEDED", "FAILED"):
            seen = look(detail=job(state, container={"exitCode": 1}), report=GOOD).observation
            assert (seen.phase, seen.report) == (Phase.ENDED, GOOD)

    def test_a_report_outlives_the_job(self) -> None:
        assert look(report=GOOD).observation.report == GOOD

    @pytest.mark.parametrize(
        ("fields", "spot", "reason"),
        [
            ({"statusReason": HOST}, True, Reason.PREEMPTED),
            ({"statusReason": HOST}, False, Reason.LOST),
            ({"statusReason": names.told(CANCELED), "isTerminated": True}, True, Reason.CANCELED),
            ({"statusReason": "by hand", "isTerminated": True}, True, Reason.LOST),
            ({"statusReason": "Job attempt duration exceeded timeout"}, True, Reason.TIMEOUT),
            ({"statusReason": "Essential container in task exited"}, True, Reason.LOST),
        ],
    )
    def test_why_it_was_ended_from_outside(self, fields: dict[str, Any], spot: bool, reason: Reason) -> None:
        report = look(detail=job("FAILED", **fields), report=CUT, spot=spot).observation.report
        assert report is not None
        assert (report.reason, report.executors) == (reason, CUT.executors)

    def test_an_end_of_its_own_is_not_explained_away(self) -> None:
        failed = msgspec.structs.replace(GOOD, reason=Reason.EXIT, code="EXECUTOR_FAILED")
        assert look(detail=job("FAILED", statusReason=HOST), report=failed, spot=True).observation.report == failed


class TestWithout:
    @pytest.mark.parametrize(
        ("fields", "reason", "transient"),
        [
            ({"statusReason": HOST}, Reason.PREEMPTED, True),
            ({"statusReason": names.told(CANCELED), "isTerminated": True}, Reason.CANCELED, False),
            ({"statusReason": "somebody", "isCancelled": True}, Reason.LOST, True),
            ({"statusReason": "Job attempt duration exceeded timeout"}, Reason.TIMEOUT, False),
            ({"startedAt": None, "container": {"reason": "CannotPullContainerError: not found"}}, Reason.BACKEND, True),
            ({"container": {"reason": "OutOfMemoryError: Container killed due to memory usage", "exitCode": 137}}, Reason.BACKEND, True),
            ({"container": {"exitCode": node.NOTHING}}, Reason.LOST, False),
            ({"container": {"exitCode": node.FAILED}}, Reason.BACKEND, True),
            ({"container": {"exitCode": 137}, "statusReason": "Essential container in task exited"}, Reason.LOST, True),
            ({"startedAt": None, "statusReason": "Task failed to start"}, Reason.BACKEND, True),
        ],
    )
    def test_reasons(self, fields: dict[str, Any], reason: Reason, transient: bool) -> None:
        given = {key: value for key, value in fields.items() if value is not None}
        detail = job("FAILED", **given)
        if "startedAt" in fields:
            detail = msgspec.structs.replace(detail, started_at=0)
        seen = look(detail=detail, spot=True).observation
        assert (seen.phase, seen.reason, seen.transient) == (Phase.ENDED, reason, transient)

    def test_the_log_is_named(self) -> None:
        failed = job("FAILED", container={"exitCode": 1, "logStreamName": "tes/default/1"})
        assert "/aws/batch/job tes/default/1" in look(detail=failed, log_group="/aws/batch/job").observation.message

    def test_containers_of_a_dead_runner_are_given_time_to_go(self) -> None:
        dead: dict[str, Any] = {"container": {"exitCode": 137}}
        assert look(detail=job("FAILED", stoppedAt=at(-29), **dead)).observation.phase is Phase.UNKNOWN
        assert look(detail=job("FAILED", stoppedAt=at(-30), **dead)).observation.phase is Phase.ENDED
        assert look(detail=job("FAILED", stoppedAt=at(-1), statusReason=HOST)).observation.phase is Phase.ENDED

    @pytest.mark.parametrize("code", [143, node.NOTHING])
    def test_one_that_has_begun_nothing_is_not_waited_for(self, code: int) -> None:
        assert look(detail=job("FAILED", stoppedAt=at(-1), container={"exitCode": code})).observation.phase is Phase.ENDED

    def test_another_job_had_the_attempt(self) -> None:
        seen = look(detail=job("FAILED", container={"exitCode": node.TAKEN})).observation
        assert (seen.reason, seen.message) == (Reason.LOST, "another job took its attempt, and is not known")
        assert look(detail=job("FAILED", container={"exitCode": node.TAKEN}), report=GOOD).observation.report == GOOD

    def test_nobody_knows_it(self) -> None:
        assert look().observation.phase is Phase.GONE


class TestStop:
    @pytest.mark.parametrize(
        "stop",
        [
            CANCELED,
            Stop(reason=Reason.CAPACITY, code="WAITING_CAPACITY", message="a: b\nc", transient=True),
            Stop(reason=Reason.CAPACITY, code="WAITING_CAPACITY", message=""),
        ],
    )
    def test_it_comes_back_as_it_went(self, stop: Stop) -> None:
        assert names.stop_of(names.told(stop)) == stop

    @pytest.mark.parametrize("words", ["", "by hand", "tes-server", "tes-server NONSENSE CODE: x", HOST])
    def test_what_others_say_is_none_of_ours(self, words: str) -> None:
        assert names.stop_of(words) is None

    def test_long_words_are_cut(self) -> None:
        told = names.told(Stop(reason=Reason.CAPACITY, code="WAITING_CAPACITY", message="x" * 5000))
        assert len(told) <= 1024
        assert names.stop_of(told) is not None
