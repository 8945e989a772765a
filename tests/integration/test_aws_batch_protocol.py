"""The AWS Batch backend against an account that keeps to the protocol and has bad days: boto3 over HTTP, jobs moved by hand."""

from __future__ import annotations

import contextlib
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tes_server import errors
from tes_server.backends.aws_batch import driver, events, looks, rights
from tes_server.backends.aws_batch.calls import Calls
from tes_server.backends.aws_batch.classify import Bounds
from tes_server.backends.aws_batch.driver import AwsBatchBackend, Times
from tes_server.backends.aws_batch.site import Queues
from tes_server.filer.spool import Attempt
from tes_server.model.run import Handle, Later, Phase, Reason, Refusal
from tests.emulators.aws_batch.signing import Principal
from tests.emulators.aws_batch.world import ACCOUNT, KEY, SECRET, Environment, Queue
from tests.integration import aws_desk
from tests.integration.aws_desk import GOOD, Desk, happens, look, plan, started, submit, until

pytestmark = pytest.mark.aws_batch

USER = f"arn:aws:iam::{ACCOUNT}:user/emulator"


@pytest.fixture
def desk(tmp_path: pathlib.Path) -> Iterator[Desk]:
    with aws_desk.desk(tmp_path) as made:
        yield made


def logged(caplog: pytest.LogCaptureFixture, event: str) -> int:
    """How often it was."""
    return sum(record.message.startswith(event) for record in caplog.records)


class TestTwoJobsOfOneAttempt:
    """The answer of SubmitJob is lost, and botocore sends it again."""

    @pytest.mark.parametrize("events", [True, False])
    @pytest.mark.parametrize("winner", [0, 1])
    def test_the_one_that_has_the_attempt_counts(self, desk: Desk, events: bool, winner: int) -> None:
        backend = desk.backend(events=events)
        desk.emulator.bad_days.lose_answers()
        handle = started(backend)
        jobs = desk.of(handle)
        assert [job.id == handle.ref for job in jobs] == [False, True]
        assert desk.run(jobs[winner])
        assert not desk.run(jobs[1 - winner])
        desk.end(jobs[1 - winner], code=75)
        assert until(backend, handle, Phase.RUNNING).run == jobs[winner].id
        desk.end(jobs[winner], GOOD)
        assert until(backend, handle, Phase.ENDED).report == GOOD

    def test_no_answer_at_all(self, desk: Desk) -> None:
        """Nobody knows whether there is a job: three are found by their name."""
        backend = desk.backend(events=False)
        desk.emulator.bad_days.lose_answers(3)
        one = plan()
        assert submit(backend, one) == [None]
        (handle,) = backend.find([backend.render(one).name]).values()
        jobs = desk.of(handle)
        assert (len(jobs), handle.ref) == (3, jobs[0].id)
        desk.run(jobs[2])
        assert until(backend, handle, Phase.RUNNING).run == jobs[2].id
        backend.cancel([handle])
        assert [job.status for job in jobs] == ["FAILED"] * 3
        assert until(backend, handle, Phase.ENDED).reason is Reason.CANCELED

    def test_cancel_before_either_has_begun(self, desk: Desk) -> None:
        backend = desk.backend()
        desk.emulator.bad_days.lose_answers()
        handle = started(backend)
        happens(lambda: len(backend._board.of(handle.name)) == 2, "the other job is heard of")
        backend.cancel([handle])
        assert [job.status for job in desk.of(handle)] == ["FAILED", "FAILED"]
        assert until(backend, handle, Phase.ENDED).reason is Reason.CANCELED

    def test_a_cancelled_attempt_never_begins(self, desk: Desk) -> None:
        """The job of which nobody has heard finds no plan."""
        backend = desk.backend(events=False)
        desk.emulator.bad_days.lose_answers()
        handle = started(backend)
        backend.cancel([handle])
        assert until(backend, handle, Phase.ENDED).reason is Reason.CANCELED
        unknown, known = desk.of(handle)
        assert (unknown.status, known.status) == ("RUNNABLE", "FAILED")
        assert desk.spool.plan(_attempt(handle)) is None

    def test_a_dead_attempt_never_begins_again(self, desk: Desk) -> None:
        """The job that is known is lost before it began: the other one must not run beside the next attempt."""
        backend = desk.backend(events=False)
        desk.emulator.bad_days.lose_answers()
        handle = started(backend)
        desk.run(desk.of(handle)[1], take=False)
        desk.end(desk.of(handle)[1], code=None, reason="Host EC2 (instance i-1) terminated.")
        assert until(backend, handle, Phase.ENDED).reason is Reason.LOST
        assert desk.spool.plan(_attempt(handle)) is None

    def test_unless_it_already_has(self, desk: Desk) -> None:
        backend = desk.backend(events=False)
        desk.emulator.bad_days.lose_answers()
        handle = started(backend)
        other, known = desk.of(handle)
        desk.run(other)
        desk.run(known, take=False)
        desk.end(known, code=None, reason="Host EC2 (instance i-1) terminated.")
        assert until(backend, handle, Phase.RUNNING).run == other.id
        assert desk.spool.plan(_attempt(handle)) is not None

    def test_what_is_left_of_it_goes_with_its_release(self, desk: Desk) -> None:
        backend = desk.backend()
        desk.emulator.bad_days.lose_answers()
        handle = started(backend)
        first, second = desk.of(handle)
        desk.run(first)
        desk.end(first, GOOD)
        assert until(backend, handle, Phase.ENDED).report == GOOD
        backend.release([handle])
        assert second.status == "FAILED"


class TestRefused:
    def test_a_try_that_was_done_before_the_last_was_refused(self, desk: Desk) -> None:
        """The job that the first one made finds no plan, whatever becomes of the task."""
        backend = desk.backend(events=False)
        for third_then_second in (3, 2):
            desk.emulator.bad_days.throttle("batch.SubmitJob", every=third_then_second, times=1)
        desk.emulator.bad_days.lose_answers()
        one = plan()
        (answer,) = submit(backend, one)
        assert isinstance(answer, Later)
        assert desk.called("SubmitJob") == 3
        assert len(desk.emulator.account.jobs) == 1
        assert desk.spool.plan(Attempt(one.task_id, one.attempt)) is None

    def test_what_the_task_asks_for(self, desk: Desk) -> None:
        desk.emulator.bad_days.refuse("batch.SubmitJob", "ClientException", "Error executing request: GPU count 9 is not valid.")
        (answer,) = submit(desk.backend())
        assert isinstance(answer, Refusal)
        assert (answer.reason, "GPU count 9 is not valid" in answer.message) == (Reason.REJECTED, True)

    @pytest.mark.parametrize(
        ("site", "words"),
        [
            ({"queues": Queues(regular="closed")}, "DISABLED"),
            ({"queues": Queues(regular="nowhere")}, "nowhere does not exist"),
            ({"share": "lab"}, "shareIdentifier cannot be specified"),
            ({"environment": {"LONG": "x" * 25_000}}, "exceeds the limit of 24576 bytes"),
            ({"environment": {"AWS_BATCH_X": "1"}}, "cannot start with AWS_BATCH"),
        ],
    )
    def test_what_the_site_has_set_up(self, desk: Desk, site: dict[str, Any], words: str) -> None:
        """Tasks wait for whoever mends it."""
        (answer,) = submit(desk.backend(desk.site(**site)))
        assert isinstance(answer, Later)
        assert words in answer.message
        assert answer.code == "WAITING_BACKEND"

    def test_a_definition_that_somebody_deregistered(self, desk: Desk) -> None:
        backend = desk.backend()
        started(backend)
        with contextlib.closing(desk.emulator.client("batch")) as batch:
            (known,) = batch.describe_job_definitions()["jobDefinitions"]
            batch.deregister_job_definition(jobDefinition=known["jobDefinitionArn"])
        one = plan()
        (answer,) = submit(backend, one)
        assert isinstance(answer, Later)
        assert "INACTIVE" in answer.message
        handle = started(backend, one)
        assert desk.of(handle)[0].definition["revision"] == 2

    def test_one_definition_for_all(self, desk: Desk) -> None:
        for _ in range(2):
            submit(desk.backend(), *[plan() for _ in range(20)])
        assert (desk.called("RegisterJobDefinition"), desk.called("DescribeJobDefinitions"), desk.called("SubmitJob")) == (1, 2, 40)


class TestThrottled:
    def test_every_other_call(self, desk: Desk) -> None:
        """botocore repeats them."""
        backend = desk.backend()
        desk.emulator.bad_days.throttle("batch.*", every=3)
        handles = [started(backend) for _ in range(4)]
        for handle in handles:
            (job,) = desk.of(handle)
            desk.run(job)
            desk.end(job, GOOD)
            assert until(backend, handle, Phase.ENDED).report == GOOD

    def test_all_for_a_while(self, desk: Desk) -> None:
        """Submits come later; what runs is heard of by events; nothing is lost."""
        backend = desk.backend()
        running = started(backend)
        desk.emulator.bad_days.throttle("batch.*")
        waiting = plan()
        (answer,) = submit(backend, waiting)
        assert isinstance(answer, Later)
        assert (answer.code, "Too Many Requests" in answer.message) == ("WAITING_BACKEND", True)
        (job,) = desk.of(running)
        desk.run(job)
        desk.end(job, GOOD)
        assert until(backend, running, Phase.ENDED).report == GOOD
        desk.emulator.bad_days.mend()
        handle = started(backend, waiting)
        assert len(desk.of(handle)) == 1

    def test_submits_that_are_throttled_hold_up_nothing_else(self, desk: Desk) -> None:
        """Back-off is per client: cancel and looks have one of their own."""
        backend = desk.backend(events=False)
        handle = started(backend)
        desk.emulator.bad_days.throttle("batch.SubmitJob")
        submit(backend)
        before = time.monotonic()
        for _ in range(20):
            backend._looks.describe([handle.ref])
        assert time.monotonic() - before < 10.0, "half a second each, or longer"


class TestBroken:
    def test_submit_with_no_more_than_an_error(self, desk: Desk) -> None:
        """It may have been done all the same."""
        backend = desk.backend()
        desk.emulator.bad_days.fail("batch.SubmitJob")
        one = plan()
        assert submit(backend, one) == [None]
        assert backend.find([backend.render(one).name]) == {}
        desk.emulator.bad_days.mend()
        assert len(desk.of(started(backend, one))) == 1

    def test_looks_conclude_nothing(self, desk: Desk) -> None:
        backend = desk.backend(events=False)
        handle = started(backend)
        fresh = desk.backend(events=False)
        desk.emulator.bad_days.fail("batch.DescribeJobs")
        with pytest.raises(errors.Unavailable):
            fresh.observe([handle])
        desk.emulator.bad_days.mend()
        assert look(fresh, handle).phase is Phase.PENDING

    def test_what_is_known_is_told_all_the_same(self, desk: Desk) -> None:
        """By events, while DescribeJobs fails for jobs of which nothing is known."""
        unknown = started(desk.backend(events=False))
        backend = desk.backend()
        known = started(backend)
        desk.emulator.bad_days.fail("batch.DescribeJobs")
        (job,) = desk.of(known)
        desk.run(job)
        desk.end(job, GOOD)
        happens(lambda: backend.observe([known, unknown])[known].report == GOOD, "the end is told")
        assert unknown not in backend.observe([known, unknown])


class TestCredentials:
    def test_that_are_no_good(self, desk: Desk) -> None:
        backend = desk.backend()
        running = started(backend)
        desk.emulator.keys.add(KEY, Principal(USER, "another secret"))
        waiting = plan()
        (answer,) = submit(backend, waiting)
        assert isinstance(answer, Later)
        assert "signature" in answer.message
        assert look(backend, running).phase is Phase.PENDING
        desk.emulator.keys.add(KEY, Principal(USER, SECRET))
        assert len(desk.of(started(backend, waiting))) == 1
        assert look(backend, running).phase is Phase.PENDING

    def test_that_are_missing(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            monkeypatch.setenv(name, "/dev/null")
        (answer,) = submit(desk.backend())
        assert isinstance(answer, Later)
        assert "credentials" in answer.message.lower()

    def test_a_right_that_is_missing_is_named(self, desk: Desk) -> None:
        backend = desk.backend()
        desk.emulator.keys.add(KEY, Principal(USER, SECRET, denied=("batch:SubmitJob",)))
        (answer,) = submit(backend)
        assert isinstance(answer, Later)
        assert "batch:SubmitJob" in answer.message


class TestEvents:
    @pytest.mark.parametrize("trouble", [{"duplicate": -1}, {"swap": -1}, {"delay": 1.0}, {"duplicate": -1, "swap": 3, "drop": 2}])
    def test_disturbed(self, desk: Desk, trouble: dict[str, Any]) -> None:
        backend = desk.backend()
        desk.emulator.bad_days.disturb_events(**trouble)
        handles = [started(backend) for _ in range(5)]
        listens(backend)
        for handle in handles:
            (job,) = desk.of(handle)
            desk.run(job)
            desk.end(job, GOOD)
        for handle in handles:
            assert until(backend, handle, Phase.ENDED).report == GOOD
        assert desk.called("DescribeJobs") == 0

    def test_all_lost(self, desk: Desk, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
        """A sweep finds what they should have told; until one comes again jobs are asked for."""
        backend = desk.backend(times=Times(poll=30.0, sweep=600.0))
        handle, other = started(backend), started(backend)
        listens(backend)
        (job,) = desk.of(handle)
        desk.emulator.wait(job.id, "RUNNABLE")
        desk.emulator.wait(desk.of(other)[0].id, "RUNNABLE")
        desk.emulator.bad_days.disturb_events(drop=-1)
        desk.run(job)
        desk.end(job, GOOD)
        job.started = job.stopped = (job.stopped or 0) - 61_000  # a minute ago
        clock.offset += 599
        assert look(backend, handle).phase is Phase.PENDING
        clock.offset += 31
        assert look(backend, handle).report == GOOD
        assert logged(caplog, "aws.events.missing") == 1
        before = desk.called("DescribeJobs")
        clock.offset += 31
        look(backend, other)
        assert desk.called("DescribeJobs") == before + 1
        desk.emulator.bad_days.mend()
        desk.run(desk.of(other)[0])
        until(backend, other, Phase.RUNNING)
        clock.offset += 31
        look(backend, other)
        assert desk.called("DescribeJobs") == before + 1

    def test_no_sweep_within_ten_minutes(self, desk: Desk, clock: Clock) -> None:
        backend = desk.backend(times=Times(poll=30.0, sweep=600.0))
        handles = [handle for handle in submit(backend, *[plan() for _ in range(120)]) if isinstance(handle, Handle)]
        assert len(handles) == 120
        happens(lambda: len(desk.emulator.bridge.sent) == 240 and desk.emulator.events.counts() == (0, 0), "all events are read")
        counts = []
        for _ in range(120):  # twenty minutes
            backend.observe(handles)
            counts.append(desk.called("DescribeJobs"))
            clock.offset += 10
        assert counts[58] == 0
        assert counts[-1] == 2, "one sweep of two calls"

    def test_those_of_a_burst_are_not_given_back(self, desk: Desk) -> None:
        """The first jobs of it move on while the last ones are still being submitted."""
        backend = desk.backend()
        submit(backend, *[plan() for _ in range(60)])
        happens(lambda: len(desk.emulator.bridge.sent) == 120 and desk.emulator.events.counts() == (0, 0), "all events are read")
        assert desk.emulator.calls.seen["sqs.ChangeMessageVisibilityBatch"] == 0

    def test_without_them_each_poll_asks_once(self, desk: Desk, clock: Clock) -> None:
        backend = desk.backend(events=False, times=Times(poll=30.0))
        handles = [handle for handle in submit(backend, *[plan() for _ in range(120)]) if isinstance(handle, Handle)]
        for _ in range(10):  # five minutes
            clock.offset += 31
            backend.observe(handles)
            backend.observe(handles)
        assert desk.called("DescribeJobs") == 20

    def test_the_queue_is_deleted(self, desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        monkeypatch.setattr(events, "FRESH", 0.2)
        desk.emulator.sqs._queues.clear()
        backend = desk.backend()
        happens(lambda: logged(caplog, "aws.events.failed"), "it is told")
        handle = started(backend)
        (job,) = desk.of(handle)
        desk.run(job)
        desk.end(job, GOOD)
        assert until(backend, handle, Phase.ENDED).report == GOOD

    def test_each_backend_hears_of_its_own(self, desk: Desk) -> None:
        """Replicas and other servers read the same queue."""
        one, two, other = desk.backend(), desk.backend(), desk.backend(desk.site("other"))
        told: dict[str, set[str]] = {"one": set(), "two": set(), "other": set()}
        for name, backend in (("one", one), ("two", two), ("other", other)):
            backend.listen(told[name].update)
        mine: dict[str, list[str]] = {"one": [], "two": [], "other": []}
        handles = []
        for _ in range(2):
            for name, backend in (("one", one), ("two", two), ("other", other)):
                given = plan()
                mine[name].append(given.task_id)
                handles.append((backend, started(backend, given)))
        for _, handle in handles:
            (job,) = desk.of(handle)
            desk.run(job)
            desk.end(job, GOOD)
        for backend in (one, two, other):
            listens(backend)
        before = desk.called("DescribeJobs")
        happens(lambda: all(look(backend, handle).report == GOOD for backend, handle in handles), "all are told")
        assert {name: sorted(tasks) for name, tasks in told.items()} == mine
        assert desk.called("DescribeJobs") == before

    def test_of_nobody_they_are_dropped(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(events, "GIVEN_BACK", 2)
        desk.backend()
        started(desk.backend(desk.site("stopped"), events=False))
        happens(lambda: desk.emulator.events.counts() == (0, 0) and desk.emulator.bridge.sent, "the queue is empty")

    @pytest.mark.parametrize("body", ["", "no json", "{}", '{"detail-type": "Batch Job State Change", "detail": []}', "[" * 10_000, "\udcff"])
    def test_that_are_none(self, desk: Desk, body: str) -> None:
        backend = desk.backend()
        desk.emulator.events.put(body.encode("utf-8", "replace").decode() or " ")
        handle = started(backend)
        desk.run(desk.of(handle)[0])
        until(backend, handle, Phase.RUNNING)
        happens(lambda: desk.emulator.events.counts() == (0, 0), "the queue is empty")


class TestStuck:
    MISCONFIGURED = "MISCONFIGURATION:SERVICE_ROLE_PERMISSIONS - Batch cannot use its role"
    CAPACITY = "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - no such machine now"

    @pytest.mark.parametrize("events", [True, False])
    @pytest.mark.parametrize("reason", [MISCONFIGURED, CAPACITY])
    def test_its_reason_is_told(self, desk: Desk, events: bool, reason: str) -> None:
        """Also by the event of the blocked queue, hours before a sweep."""
        backend = desk.backend(events=events)
        desk.emulator.bad_days.hold("regular", reason)
        handle = started(backend)
        seen = until(backend, handle, lambda seen: seen.message)
        assert (seen.phase, seen.code, seen.message) == (Phase.PENDING, "WAITING_CAPACITY", reason)
        assert desk.of(handle)[0].status == "RUNNABLE"
        desk.emulator.bad_days.release("regular")
        desk.run(desk.of(handle)[0])
        assert until(backend, handle, Phase.RUNNING).message == ""

    def test_what_can_never_start_is_ended(self, desk: Desk) -> None:
        backend = desk.backend(events=False, bounds=Bounds(config=0.5, reap=0.0))
        desk.emulator.bad_days.hold("regular", self.MISCONFIGURED)
        seen = until(backend, started(backend), Phase.ENDED)
        assert (seen.reason, seen.code, seen.transient) == (Reason.CAPACITY, "WAITING_CAPACITY", False)
        assert self.MISCONFIGURED in seen.message

    def test_what_waits_for_room_waits_as_long_as_the_site_says(self, desk: Desk) -> None:
        backend = desk.backend(events=False, bounds=Bounds(config=0.1, capacity=1.0, reap=0.0))
        desk.emulator.bad_days.hold("regular", self.CAPACITY)
        seen = until(backend, started(backend), Phase.ENDED)
        assert (seen.reason, seen.code) == (Reason.CAPACITY, "WAITING_CAPACITY")
        assert self.CAPACITY in seen.message


class TestRestart:
    def test_it_adopts_all_by_the_hundred(self, desk: Desk) -> None:
        first = desk.backend(events=False, times=Times(poll=600.0))
        handles = [handle for handle in submit(first, *[plan() for _ in range(250)]) if isinstance(handle, Handle)]
        desk.run(desk.of(handles[0])[0])
        desk.end(desk.of(handles[0])[0], GOOD)
        first.close()
        fresh = desk.backend(events=False, times=Times(poll=600.0))
        seen = fresh.observe(handles)
        assert seen[handles[0]].report == GOOD
        assert {one.phase for handle, one in seen.items() if handle != handles[0]} == {Phase.PENDING}
        assert desk.called("DescribeJobs") == 3
        fresh.observe(handles)
        assert desk.called("DescribeJobs") == 3

    def test_what_it_submits_again_is_found(self, desk: Desk) -> None:
        """It ended between SubmitJob and the store."""
        one = plan()
        handle = started(desk.backend(events=False), one)
        fresh = desk.backend(events=False)
        assert fresh.find([handle.name]) == {handle.name: handle}
        assert submit(fresh, one) == [handle]


class TestStrangers:
    def test_a_job_that_somebody_terminated(self, desk: Desk) -> None:
        backend = desk.backend()
        handles = [started(backend), started(backend)]
        desk.run(desk.of(handles[1])[0])
        with contextlib.closing(desk.emulator.client("batch")) as batch:
            for handle in handles:
                batch.terminate_job(jobId=handle.ref, reason="too dear")
        for handle in handles:
            seen = until(backend, handle, Phase.ENDED)
            assert (seen.reason, seen.transient) == (Reason.LOST, True)
            assert "by somebody else: too dear" in seen.message

    def test_jobs_that_aws_does_not_know_any_more(self, desk: Desk) -> None:
        """A week after their end. What the spool knows of one is still told."""
        handles = [started(desk.backend(events=False)) for _ in range(2)]
        desk.spool.put_report(_attempt(handles[1]), GOOD)
        desk.emulator.account.jobs.clear()
        fresh = desk.backend(events=False)
        assert look(fresh, handles[0]).phase is Phase.GONE
        assert look(fresh, handles[1]).report == GOOD

    def test_one_that_is_young_is_not_gone(self, desk: Desk) -> None:
        backend = desk.backend(events=False)
        handle = started(backend)
        desk.emulator.account.jobs.clear()
        time.sleep(0.06)
        assert look(backend, handle).phase is Phase.PENDING

    def test_other_servers_in_the_same_queues(self, desk: Desk) -> None:
        mine, other = desk.backend(), desk.backend(desk.site("desk2"))
        one, same = plan(), plan()
        handles = {started(mine, one), started(mine, same)}
        foreign = started(other, same)
        assert foreign.name in {handle.name for handle in handles}
        assert set(mine.survey()) == handles
        assert list(other.survey()) == [foreign]
        assert mine.find([foreign.name])[foreign.name] in handles
        assert other.find([one.task_id + "-1"]) == {}

    def test_names_in_capitals_are_other_names(self, desk: Desk) -> None:
        """ListJobs ignores case."""
        shouting = desk.backend(desk.site("DESK"))
        handle = started(shouting)
        assert desk.backend().find([handle.name]) == {}


class TestSpotToOnDemand:
    def test_the_next_attempt_goes_to_the_other_queue(self, desk: Desk) -> None:
        backend = desk.backend()
        task = plan().task_id
        first = started(backend, plan(task, 1, preemptible=True))
        (job,) = desk.of(first)
        assert job.queue == "spot"
        desk.run(job)
        desk.end(job, code=None, reason="Host EC2 (instance i-1) terminated.")
        seen = until(backend, first, Phase.ENDED)
        assert (seen.reason, seen.code, seen.transient) == (Reason.PREEMPTED, "PREEMPTED", True)
        second = started(backend, plan(task, 2, preemptible=True))
        assert desk.of(second)[0].queue == "regular"


class TestDoctor:
    def test_nothing_is_wrong(self, desk: Desk) -> None:
        assert rights.faults(Calls(), desk.site(), desk.emulator.events_url) == []
        assert desk.emulator.account.jobs == {}
        assert desk.emulator.account.definitions.all() == []

    @pytest.mark.parametrize(
        "action",
        [
            "batch:DescribeJobQueues",
            "batch:DescribeComputeEnvironments",
            "batch:DescribeJobDefinitions",
            "batch:RegisterJobDefinition",
            "batch:SubmitJob",
            "batch:DescribeJobs",
            "batch:ListJobs",
            "batch:TerminateJob",
            "sqs:GetQueueAttributes",
            "sqs:ReceiveMessage",
            "sqs:DeleteMessage",
            "sqs:ChangeMessageVisibility",
        ],
    )
    def test_a_right_is_missing(self, desk: Desk, action: str) -> None:
        desk.emulator.keys.add(KEY, Principal(USER, SECRET, denied=(action,)))
        (fault,) = rights.faults(Calls(), desk.site(), desk.emulator.events_url)
        assert fault.startswith(f"{action} is not allowed: ")
        assert USER in fault

    def test_credentials_are_no_good(self, desk: Desk) -> None:
        desk.emulator.keys.add(KEY, Principal(USER, "another secret"))
        found = rights.faults(Calls(), desk.site(), desk.emulator.events_url)
        assert found
        assert all("signature" in fault for fault in found)

    def test_queues_that_take_nothing(self, desk: Desk) -> None:
        site = desk.site(queues=Queues(regular="regular", spot="nowhere"), chosen={"big": Queues(regular="closed")})
        found = rights.faults(Calls(), site, "")
        assert found == ["there is no job queue nowhere in us-east-1", "job queue closed is DISABLED, VALID JobQueue Healthy"]

    def test_the_queue_of_events_is_missing(self, desk: Desk) -> None:
        found = rights.faults(Calls(), desk.site(), desk.emulator.events_url + "-2")
        assert found
        assert all("does not exist" in fault for fault in found)

    def test_hosts_that_cannot_run_jobs(self, tmp_path: pathlib.Path) -> None:
        environments = (
            Environment(name="off", hosts=0, enabled=False),
            Environment(name="serverless", hosts=0, kind="FARGATE"),
        )
        queues = (Queue(name="regular", environments=("off",)), Queue(name="spot", environments=("serverless",)))
        with aws_desk.desk(tmp_path, queues=queues, environments=environments) as desk:
            found = rights.faults(Calls(), desk.site(), "")
        assert found == [
            "compute environment off of job queue regular is DISABLED, VALID ComputeEnvironment Healthy",
            "compute environment serverless of job queue spot is FARGATE: tasks need hosts of EC2, whose Docker socket runs their containers",
        ]


# -- means


class Clock:
    """The monotonic clock of the driver; `offset` seconds fast."""

    def __init__(self) -> None:
        self.offset = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.offset


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (driver, looks):
        monkeypatch.setattr(module, "time", made)
    return made


def listens(backend: AwsBatchBackend) -> None:
    """Until its queue of events has answered; before that jobs are asked for."""
    happens(lambda: backend._events is not None and backend._events.fresh, "the queue is read")


def _attempt(handle: Handle) -> Attempt:
    task, _, number = handle.name.rpartition("-")
    return Attempt(task, int(number))
