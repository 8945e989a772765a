"""Tasks on their way to Azure Batch, on bad days: calls that fail or are turned away, jobs that are full or ended, pools without nodes."""

from __future__ import annotations

import datetime
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from azure.batch import models

from tes_server import errors
from tes_server.backends.azure_batch import attempts, calls, driver, looks, pool_looks
from tes_server.backends.azure_batch.classify import Bounds
from tes_server.backends.azure_batch.site import Pool, Shape
from tes_server.filer.spool import Attempt
from tes_server.model.run import Handle, Phase, Reason, Refusal
from tests.clock import utc
from tests.integration import azure_desk
from tests.integration.azure_desk import GB, GOOD, POLL, REGULAR, SIZE, Clock, Desk, added, happens, later, look, many, plan, reported, submit, until

pytestmark = pytest.mark.azure_batch

TEN_MINUTES = datetime.timedelta(minutes=10)


@pytest.fixture
def desk(tmp_path: pathlib.Path) -> Iterator[Desk]:
    with azure_desk.desk(tmp_path) as made:
        yield made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Of the backend; waits between tries take no time."""
    made = azure_desk.forward(monkeypatch, (driver, attempts, looks, pool_looks, calls))
    made.sleep = lambda _: None
    return made


class TestSubmit:
    @pytest.mark.parametrize(("tasks", "collections"), [(1, 1), (100, 1), (101, 2), (250, 3)])
    def test_in_hundreds(self, desk: Desk, tasks: int, collections: int) -> None:
        handles = added(desk.backend(looks=False), *many(tasks))
        assert len({handle.name for handle in handles}) == tasks
        assert desk.called("create_task_collection") == collections
        assert len(desk.jobs()[0].tasks) == tasks
        assert desk.called("create_job") == 1

    def test_what_is_there_is_taken_for_added(self, desk: Desk) -> None:
        """By another process, or by this one before it was started anew."""
        one = plan()
        (handle,) = added(desk.backend(looks=False), one)
        assert added(desk.backend(looks=False), one) == [handle]
        assert len(desk.of(handle.name)) == 1

    def test_what_is_there_and_has_ended_is_heard_of(self, desk: Desk) -> None:
        """Its last change is long before the last look at its job."""
        backend = desk.backend()
        desk.resize("regular", dedicated=1)
        one = plan()
        (handle,) = added(desk.backend(looks=False), one)
        desk.runs(handle)
        desk.end(handle, GOOD)
        task = desk.task(handle)
        task.since -= TEN_MINUTES
        added(backend)
        until(backend, added(backend)[0], Phase.RUNNING)  # its job has been looked at
        assert added(backend, one) == [handle]
        assert until(backend, handle, Phase.ENDED).report == GOOD

    def test_one_that_is_refused_does_not_hold_up_the_others(self, desk: Desk) -> None:
        """By itself, in the answer of its collection."""
        slots = Shape(cpus=64, ram_bytes=256 * GB)
        with desk.emulator.account.lock:
            desk.emulator.account.pool("regular").spec["taskSlotsPerNode"] = 300  # which Azure does not allow
        plans = [plan(), plan(ram_bytes=240 * GB), plan()]
        answers = submit(desk.backend(desk.site(pools=(Pool(id="regular", vm_size=SIZE, shape=slots),)), looks=False), *plans)
        assert isinstance(answers[1], Refusal)
        assert answers[1].reason is Reason.REJECTED
        assert [isinstance(answer, Handle) for answer in answers] == [True, False, True]

    def test_a_collection_that_is_refused_as_a_whole(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        """One task of it is at fault: the others are added without it."""
        backend = desk.backend(looks=False)
        plans = many(7)
        rendered = [backend.render(one) for one in plans]
        bad = msgspec.structs.replace(rendered[3], body=rendered[3].body.replace(b'"maxTaskRetryCount":0', b'"maxTaskRetryCount":"x"'))
        answers = backend.submit([*rendered[:3], bad, *rendered[4:]])
        assert isinstance(answers[bad.name], Refusal)
        assert sum(isinstance(answer, Handle) for answer in answers.values()) == 6

    def test_a_body_that_is_too_large(self, desk: Desk) -> None:
        backend = desk.backend(desk.site(image="r.example/" + "x" * 30_000), looks=False)
        added(backend, *many(100))
        assert desk.emulator.calls.refused == {"create_task_collection RequestBodyTooLarge": 3}
        assert desk.called("create_task_collection") == 7

    @pytest.mark.parametrize(("call", "times"), [("create_job", 1), ("create_task_collection", 1), ("create_task_collection", 2)])
    def test_a_lost_answer(self, desk: Desk, clock: Clock, call: str, times: int) -> None:
        """The next try is told that it is there."""
        desk.emulator.bad_days.lose_answers(times, call)
        backend = desk.backend(looks=False)
        (handle,) = added(backend)
        assert len(desk.of(handle.name)) == 1
        assert len(desk.jobs()) == 1
        assert desk.called(call) == times + 1

    def test_no_answer_at_all(self, desk: Desk, clock: Clock) -> None:
        """Nobody knows whether there is a task: it is found by its name."""
        backend = desk.backend(looks=False)
        desk.emulator.bad_days.lose_answers(3)
        one = plan()
        assert submit(backend, one) == [None]
        assert desk.called("create_task_collection") == 3
        name = backend.render(one).name
        (handle,) = backend.find([name]).values()
        assert desk.of(name) == [desk.task(handle)]
        assert added(backend, one) == [handle]

    @pytest.mark.parametrize("then", ["throttle", "busy", "refused"])
    def test_a_try_that_was_done_before_the_next_was_turned_away(self, desk: Desk, clock: Clock, then: str) -> None:
        """That is no `nothing was started`: a cancel would believe it."""
        backend = desk.backend(looks=False)
        added(backend)
        desk.emulator.bad_days.lose_answers()
        if then == "refused":
            desk.emulator.bad_days.refuse("create_task_collection", "AuthenticationFailed", "no", 403)
        else:
            getattr(desk.emulator.bad_days, then)("create_task_collection", times=1)
        # The first fault strikes first; the second one waits for the second try.
        desk.emulator.calls._faults[1].every, desk.emulator.calls._faults[1].seen = 2, 0
        one = plan()
        assert submit(backend, one) == [None]
        assert len(desk.of(backend.render(one).name)) == 1

    @pytest.mark.parametrize("code", ["InternalError", "OperationTimedOut"])
    def test_no_more_than_an_error(self, desk: Desk, clock: Clock, code: str) -> None:
        """It may have been done all the same."""
        backend = desk.backend(looks=False)
        added(backend)
        desk.emulator.bad_days.refuse("create_task_collection", code, "The server encountered an internal error.", 500, times=-1)
        one = plan()
        before = desk.called("create_task_collection")
        assert submit(backend, one) == [None]
        assert desk.called("create_task_collection") == before + 3
        desk.emulator.bad_days.mend()
        assert backend.find([backend.render(one).name]) == {}
        assert len(desk.of(added(backend, one)[0].name)) == 1

    def test_5xx_for_a_while(self, desk: Desk, clock: Clock) -> None:
        desk.emulator.bad_days.fail(every=2)
        handles = added(desk.backend(looks=False), *many(150))
        assert len(desk.jobs()) == 1
        assert len(desk.jobs()[0].tasks) == len(handles) == 150


class TestThrottled:
    @pytest.mark.parametrize("how", ["throttle", "busy"])
    def test_a_task_waits_as_long_as_azure_says(self, desk: Desk, clock: Clock, how: str) -> None:
        backend = desk.backend(looks=False)
        getattr(desk.emulator.bad_days, how)("create_task_collection", retry_after=30)
        told = later(backend)
        assert (told.code, told.seconds) == ("WAITING_BACKEND", 30.0)
        assert desk.called("create_task_collection") == 1, "it is not tried again"

    def test_nobody_asks_before(self, desk: Desk, clock: Clock) -> None:
        """However many there are, until Retry-After is over."""
        backend = desk.backend(looks=False)
        handles = added(backend, *many(150))
        desk.emulator.bad_days.throttle("terminate_task", retry_after=30)
        for _ in range(3):
            with pytest.raises(errors.Unavailable):
                backend.cancel(handles)
        assert desk.called("terminate_task") <= driver.THREADS
        before = desk.called("terminate_task")
        clock.offset += 31
        desk.emulator.bad_days.mend()
        backend.cancel(handles)
        assert desk.called("terminate_task") == before + 150
        assert {task.state for task in desk.jobs()[0].tasks.values()} == {"completed"}

    def test_other_calls_are_not_held_back(self, desk: Desk, clock: Clock) -> None:
        backend = desk.backend(looks=False)
        desk.emulator.bad_days.throttle("create_task_collection", retry_after=30)
        later(backend)
        assert backend.find(["abc-1"]) == {}
        assert list(backend.survey()) == []

    def test_looks_wait_too(self, desk: Desk) -> None:
        backend = desk.backend(poll=0.05)
        (handle,) = added(backend)
        happens(lambda: desk.called("list_tasks"), "its job is looked at")
        desk.emulator.bad_days.throttle("list_tasks", retry_after=2)
        happens(lambda: backend._looks.error(handle.ref), "a look fails")
        before = desk.called("list_tasks")
        time.sleep(0.5)
        assert desk.called("list_tasks") == before
        with pytest.raises(errors.Unavailable, match="too high"):
            backend.observe([handle])
        desk.emulator.bad_days.mend()
        assert until_known(backend, handle) is Phase.PENDING

    def test_every_third_call(self, desk: Desk) -> None:
        backend = desk.backend()
        desk.resize("regular", dedicated=1)
        desk.emulator.bad_days.throttle(every=3)
        handles: list[Handle] = []
        while len(handles) < 4:
            handles += [answer for answer in submit(backend) if isinstance(answer, Handle)]
            time.sleep(0.1)
        for handle in handles:
            desk.runs(handle)
            desk.end(handle, GOOD)
        happens(lambda: all(reported(backend, handle) == GOOD for handle in handles), "all have ended")


class TestJobs:
    def test_the_next_one_is_begun_in_time(self, desk: Desk) -> None:
        """The one before ends with its last task, and is deleted a week later with all that is known of its tasks."""
        desk.resize("regular", dedicated=4)
        backend = desk.backend(job_tasks=100)
        first = added(backend, *many(100))
        second = added(backend, *many(50))
        assert [handle.ref[-2:] for handle in (first[0], first[-1], second[0])] == ["_1", "_1", "_2"]
        fresh = desk.backend(job_tasks=100)  # which tidies
        happens(lambda: desk.jobs()[0].spec["onAllTasksComplete"] == "terminatejob", "the first job is to end")
        assert desk.jobs()[1].spec["onAllTasksComplete"] == "noaction"
        for handle in first:
            desk.runs(handle)
            desk.end(handle, GOOD)
        happens(lambda: desk.jobs()[0].state == "completed", "it ends")
        for handle in first:
            assert until(fresh, handle, Phase.ENDED).report == GOOD
        desk.backend(job_tasks=100)
        desk.jobs()[0].ended = utc() - datetime.timedelta(days=7, seconds=1)
        desk.backend(job_tasks=100)
        happens(lambda: len(desk.jobs()) == 1, "it is deleted")
        assert desk.jobs()[0].id == second[0].ref
        assert look(desk.backend(), first[0]).report == GOOD, "the spool still knows"

    def test_a_process_that_comes_anew_counts_what_is_there(self, desk: Desk) -> None:
        added(desk.backend(job_tasks=100, looks=False), *many(90))
        fresh = desk.backend(job_tasks=100, looks=False)
        assert {handle.ref[-2:] for handle in added(fresh, *many(20))} == {"_1"}
        assert {handle.ref[-2:] for handle in added(fresh, *many(20))} == {"_2"}

    @pytest.mark.parametrize("end", ["terminate", "delete", "disable"])
    def test_somebody_ends_the_job(self, desk: Desk, end: str) -> None:
        """Tasks go into the next one."""
        backend = desk.backend(looks=False)
        (before,) = added(backend)
        with desk.emulator.client() as client:
            if end == "terminate":
                client.begin_terminate_job(before.ref, {"terminateReason": "too dear"}, polling_interval=3600)  # type: ignore[arg-type]
            elif end == "delete":
                client.begin_delete_job(before.ref, polling_interval=3600)
            else:
                client.begin_disable_job(before.ref, models.BatchJobDisableOptions(disable_tasks="requeue"), polling_interval=3600)
        if end == "disable":
            backend = desk.backend(looks=False)  # a job that is disabled takes tasks: who comes anew does not use it
        (after,) = added(backend)
        assert (before.ref[-2:], after.ref[-2:]) == ("_1", "_2")

    def test_no_job_takes_tasks(self, desk: Desk) -> None:
        """Whatever it is, jobs are not begun without end: an account has few."""
        backend = desk.backend(looks=False)
        desk.emulator.bad_days.refuse("create_task_collection", "JobNotFound", "The specified job does not exist.", 404, times=-1)
        assert "does not exist" in later(backend).message
        assert len(desk.jobs()) == 2

    def test_tasks_of_a_job_that_is_deleted(self, desk: Desk) -> None:
        backend = desk.backend()
        desk.resize("regular", dedicated=1)
        waiting, running, ended = added(backend, *many(3))
        for handle in (running, ended):
            desk.runs(handle)
            until(backend, handle, Phase.RUNNING)
        desk.spool.put_report(Attempt(ended.name[:-2], 1), GOOD)
        with desk.emulator.client() as client:
            client.begin_delete_job(running.ref, polling_interval=3600)
        for handle in (waiting, running):
            assert until(backend, handle, lambda seen: seen.phase in (Phase.GONE, Phase.ENDED)).report is None
        assert until(backend, ended, Phase.ENDED).report == GOOD

    def test_a_disabled_job_still_has_its_tasks(self, desk: Desk) -> None:
        """They begin when somebody enables it: nobody may take them for gone."""
        backend = desk.backend(looks=False)
        (handle,) = added(backend)
        with desk.emulator.client() as client:
            client.begin_disable_job(handle.ref, models.BatchJobDisableOptions(disable_tasks="requeue"), polling_interval=3600)
        happens(lambda: desk.jobs()[0].state == "disabled", "it is disabled")
        fresh = desk.backend(looks=False)
        assert fresh.find([handle.name]) == {handle.name: handle}
        assert list(desk.backend(looks=False).survey()) == [handle]
        fresh.cancel([handle])
        assert desk.task(handle).state == "completed"

    def test_a_quota_of_jobs(self, tmp_path: pathlib.Path) -> None:
        with azure_desk.desk(tmp_path, active_jobs=1) as desk:
            backend = desk.backend(looks=False)
            added(backend)
            other = desk.backend(desk.site("other"), looks=False)
            told = later(other)
            assert told.code == "WAITING_BACKEND"
            assert "active job and job schedule quota" in told.message
            assert told.seconds >= 60
            assert desk.called("create_job") == 2

    def test_each_priority_has_its_own(self, desk: Desk) -> None:
        backend = desk.backend(desk.site(priorities={"high": 500}), looks=False)
        usual, urgent = added(backend, plan(), plan(parameters={"priority": "high"}))
        assert usual.ref != urgent.ref
        assert {job.id: job.priority for job in desk.jobs()} == {usual.ref: 0, urgent.ref: 500}

    def test_two_reconcilers_use_the_same_one(self, desk: Desk) -> None:
        one, two = desk.backend(), desk.backend()
        mine, its = added(one, *many(20)), added(two, *many(20))
        assert {handle.ref for handle in (*mine, *its)} == {desk.jobs()[0].id}
        assert set(one.survey()) == {*mine, *its}
        desk.resize("regular", dedicated=1)
        for handle in (*mine, *its):
            desk.runs(handle)
            desk.end(handle, GOOD)
        for handle in its:
            assert until(one, handle, Phase.ENDED).report == GOOD
        for handle in mine:
            assert until(one, handle, Phase.ENDED).report == GOOD

    def test_other_servers_on_the_same_pools(self, desk: Desk) -> None:
        mine, other = desk.backend(looks=False), desk.backend(desk.site("desk2"), looks=False)
        one, same = plan(), plan()
        handles = set(added(mine, one, same))
        (foreign,) = added(other, same)
        assert set(mine.survey()) == handles
        assert list(other.survey()) == [foreign]
        assert other.find([f"{one.task_id}-1"]) == {}
        assert look(mine, added(other)[0]).phase is Phase.GONE


class TestPools:
    def test_there_is_none(self, tmp_path: pathlib.Path) -> None:
        with azure_desk.desk(tmp_path, pools=False) as desk:
            told = later(desk.backend(looks=False))
            assert told.message == "; ".join(f"there is no pool {name}: `tes-server pools apply` makes it" for name in ("regular", "spot"))
            assert desk.jobs() == []

    def test_nothing_tells_what_its_nodes_have(self, tmp_path: pathlib.Path) -> None:
        with azure_desk.desk(tmp_path, pools=False) as desk:
            desk.pool("regular")
            told = later(desk.backend(desk.site(pools=(Pool(id="regular", vm_size=SIZE),)), looks=False))
            assert told.message.startswith("nothing tells what the nodes of pool regular have")

    def test_its_notes_tell(self, tmp_path: pathlib.Path) -> None:
        with azure_desk.desk(tmp_path, pools=False) as desk:
            desk.pool("regular", slots=10, metadata={"tes-cpus": "10", "tes-ram-gb": "100", "tes-disk-gb": "x"})
            (handle,) = added(desk.backend(desk.site(pools=(Pool(id="regular", vm_size=SIZE),)), looks=False), plan(ram_bytes=30 * GB))
            assert desk.task(handle).slots == 4

    def test_one_that_is_being_deleted_takes_none(self, desk: Desk) -> None:
        desk.resize("regular", dedicated=1)
        with desk.emulator.account.lock:
            desk.emulator.account.pool("regular").state = "deleting"
        backend = desk.backend(looks=False)
        assert later(backend).message == "pool regular is being deleted"
        (handle,) = added(backend, plan(preemptible=True))
        assert desk.jobs()[0].pool == "spot", handle

    def test_the_quota_of_cores(self, desk: Desk, clock: Clock) -> None:
        """Tasks that wait say so, and no more once it is over."""
        desk.emulator.bad_days.exhaust("regular")
        grow(desk)
        backend = desk.backend()
        (handle,) = added(backend)
        clock.offset += driver.WAITED
        seen = until(backend, handle, lambda seen: seen.message)
        assert (seen.phase, seen.code) == (Phase.PENDING, "WAITING_CAPACITY")
        assert seen.message == "pool regular: AccountCoreQuotaReached: The specified account has reached core quota"
        desk.emulator.bad_days.mend()
        desk.emulator.wait(handle.ref, handle.name, "running")
        assert until(backend, handle, Phase.RUNNING).message == ""

    @pytest.mark.parametrize(
        ("state", "words"), [("unusable", "3 nodes are unusable: "), ("starttaskfailed", "3 nodes are starttaskfailed: the start task failed")]
    )
    def test_nodes_that_take_no_tasks(self, desk: Desk, clock: Clock, state: str, words: str) -> None:
        desk.emulator.bad_days.stick("regular", state)
        with desk.emulator.account.lock:
            pool = desk.emulator.account.pool("regular")
            pool.dedicated, pool.allocation = 3, "resizing"
        desk.emulator.wait_nodes("regular", 3, state)
        backend = desk.backend()
        (handle,) = added(backend)
        clock.offset += driver.WAITED
        seen = until(backend, handle, lambda seen: seen.message)
        assert seen.code == "WAITING_CAPACITY"
        assert seen.message.startswith(f"pool regular: {words}")
        happens(lambda: desk.called("get_pool") and desk.called("list_pool_node_counts"), "they are counted")
        before = desk.called("list_pool_node_counts"), desk.called("get_pool")
        time.sleep(5 * POLL)
        assert (desk.called("list_pool_node_counts"), desk.called("get_pool")) == before, "at most once a minute"

    def test_one_good_node_is_enough(self, desk: Desk, clock: Clock) -> None:
        desk.resize("regular", dedicated=2)
        desk.emulator.bad_days.lose(desk.emulator.nodes("regular")[0].id)
        backend = desk.backend()
        handles = added(backend, *many(65))
        clock.offset += driver.WAITED
        happens(lambda: desk.called("list_pool_node_counts"), "they are counted")
        time.sleep(3 * POLL)
        assert {look(backend, handle).message for handle in handles} == {""}

    def test_it_goes_while_tasks_wait(self, desk: Desk, clock: Clock) -> None:
        backend = desk.backend()
        (handle,) = added(backend)
        with desk.emulator.client() as client:
            client.begin_delete_pool("regular", polling_interval=3600)
        clock.offset += pool_looks.SOON + driver.WAITED
        assert "deleted" in until(backend, handle, lambda seen: seen.message).message or desk.called("get_pool")
        clock.offset += pool_looks.SOON
        seen = until(backend, handle, lambda seen: "there is no pool" in seen.message)
        assert seen.message == "there is no pool regular: `tes-server pools apply` makes it"

    def test_what_waits_waits_as_long_as_the_site_says(self, desk: Desk, clock: Clock) -> None:
        backend = desk.backend(bounds=Bounds(capacity=0.5, reap=0.0))
        (handle,) = added(backend)
        seen = until(backend, handle, Phase.ENDED)
        assert (seen.reason, seen.code) == (Reason.CAPACITY, "WAITING_CAPACITY")
        assert desk.task(handle).state == "completed", "it is ended"

    def test_a_burst_is_told_to_it_once(self, desk: Desk, clock: Clock) -> None:
        desk.pool("scaled", formula="$TargetDedicatedNodes = min(2, $PendingTasks);")
        backend = desk.backend(desk.site(pools=(Pool(id="scaled", vm_size=SIZE, shape=REGULAR.shape),)))
        desk.emulator.account.wait(lambda: desk.emulator.account.pool("scaled").run)
        (handle,) = added(backend)
        clock.offset += driver.EAGER
        desk.emulator.wait(handle.ref, handle.name, "running")
        assert desk.called("enable_pool_auto_scale") == 1
        added(backend, *many(200))
        time.sleep(3 * POLL)
        assert desk.called("enable_pool_auto_scale") == 1, "not twice in half a minute"


# -- means


def until_known(backend: Any, handle: Handle) -> Phase:
    """Its phase, once Azure answers again."""
    end = time.monotonic() + azure_desk.PATIENCE
    while True:
        try:
            phase = look(backend, handle).phase
        except errors.Unavailable:
            phase = Phase.UNKNOWN
        if phase is not Phase.UNKNOWN:
            return phase
        assert time.monotonic() < end
        time.sleep(0.05)


def grow(desk: Desk) -> None:
    """The pool tries to have one node."""
    with desk.emulator.account.lock:
        pool = desk.emulator.account.pool("regular")
        pool.dedicated, pool.allocation = 1, "resizing"
