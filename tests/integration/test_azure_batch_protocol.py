"""Tasks that Azure Batch has, on bad days: nodes that go, cancels, strangers, a service that is away, a clock that is wrong."""

from __future__ import annotations

import datetime
import pathlib
import time
from collections.abc import Iterator

import pytest

from tes_server import errors
from tes_server.backends.azure_batch import attempts, calls, driver, looks, pool_looks
from tes_server.backends.azure_batch.classify import Bounds
from tes_server.filer.spool import Attempt
from tes_server.model.run import Handle, Phase, Reason
from tests.clock import utc
from tests.integration import azure_desk
from tests.integration.azure_desk import GOOD, POLL, Clock, Desk, added, happens, later, look, many, plan, reported, until

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


class TestPreempted:
    def test_seen_live(self, desk: Desk) -> None:
        """The task waits for another node: the attempt is over."""
        backend = desk.backend()
        desk.resize("spot", spot=1)
        (handle,) = added(backend, plan(preemptible=True))
        node = desk.runs(handle)
        until(backend, handle, Phase.RUNNING)
        desk.emulator.bad_days.preempt(node, restore=None)
        seen = until(backend, handle, Phase.ENDED)
        assert (seen.reason, seen.code, seen.transient) == (Reason.PREEMPTED, "PREEMPTED", True)
        assert node in seen.message
        happens(lambda: desk.task(handle).state == "completed", "the task is ended: it would run for nothing")

    def test_seen_only_after_a_restart(self, desk: Desk) -> None:
        """While the task waits, perhaps for days, for a node that nobody has."""
        (handle,) = added(desk.backend(looks=False), plan(preemptible=True))
        desk.resize("spot", spot=1)
        node = desk.runs(handle)
        desk.emulator.bad_days.preempt(node, restore=None)
        desk.emulator.wait(handle.ref, handle.name, "active")
        seen = until(desk.backend(), handle, Phase.ENDED)
        assert (seen.reason, seen.transient) == (Reason.PREEMPTED, True)

    def test_seen_by_the_next_runner_alone(self, desk: Desk) -> None:
        (handle,) = added(desk.backend(looks=False), plan(preemptible=True))
        desk.resize("spot", spot=2)
        node = desk.runs(handle)
        desk.emulator.bad_days.preempt(node, restore=None)
        desk.emulator.account.wait(lambda: elsewhere(desk, handle, node))
        desk.emulator.wait(handle.ref, handle.name, "running")
        desk.end(handle, code=75)
        seen = until(desk.backend(), handle, Phase.ENDED)
        assert (seen.reason, seen.transient) == (Reason.PREEMPTED, True)
        assert node in seen.message

    def test_before_its_runner_began(self, desk: Desk) -> None:
        """Nothing has happened: the attempt is the next runner's."""
        backend = desk.backend()
        desk.resize("spot", spot=2)
        (handle,) = added(backend, plan(preemptible=True))
        node = desk.runs(handle, take=False)
        until(backend, handle, Phase.RUNNING)
        desk.emulator.bad_days.preempt(node, restore=None)
        desk.emulator.account.wait(lambda: elsewhere(desk, handle, node))
        desk.runs(handle)
        until(backend, handle, lambda seen: seen.where.get("node") not in (None, node))
        desk.end(handle, GOOD)
        assert until(backend, handle, Phase.ENDED).report == GOOD

    def test_after_its_report(self, desk: Desk) -> None:
        """The node went before Azure Batch knew of the end."""
        backend = desk.backend()
        desk.resize("spot", spot=1)
        (handle,) = added(backend, plan(preemptible=True))
        node = desk.runs(handle)
        until(backend, handle, Phase.RUNNING)
        desk.spool.put_report(Attempt(handle.name[:-2], 1), GOOD)
        desk.emulator.bad_days.preempt(node, restore=None)
        assert until(backend, handle, Phase.ENDED).report == GOOD

    def test_the_node_is_back_under_its_name(self, desk: Desk) -> None:
        backend = desk.backend()
        desk.resize("spot", spot=1)
        (handle,) = added(backend, plan(preemptible=True))
        node = desk.runs(handle)
        until(backend, handle, Phase.RUNNING)
        desk.emulator.bad_days.preempt(node, restore=0.0)
        desk.emulator.account.wait(lambda: desk.task(handle).run and desk.emulator.nodes("spot", "running"))
        happens(lambda: desk.task(handle).state in ("running", "completed"), "it runs again")
        if desk.task(handle).state == "running":
            desk.end(handle, code=75)
        assert until(backend, handle, Phase.ENDED).reason is Reason.PREEMPTED

    def test_the_next_attempt_goes_to_regular_nodes(self, desk: Desk) -> None:
        backend = desk.backend(looks=False)
        task = plan().task_id
        (first,) = added(backend, plan(task, 1, preemptible=True))
        (second,) = added(backend, plan(task, 2))
        assert [job.pool for job in desk.jobs()] == ["spot", "regular"]
        assert (first.name, second.name) == (f"{task}-1", f"{task}-2")


class TestLostNodes:
    def test_that_may_run_on(self, desk: Desk) -> None:
        """The attempt is waited for: its report may come."""
        backend = desk.backend()
        desk.resize("regular", dedicated=1)
        (handle,) = added(backend)
        node = desk.runs(handle)
        until(backend, handle, Phase.RUNNING)
        desk.emulator.bad_days.lose(node, alive=True)
        desk.emulator.wait(handle.ref, handle.name, "active")
        until(backend, handle, Phase.UNKNOWN)
        for _ in range(10):
            assert look(backend, handle).phase is Phase.UNKNOWN
            time.sleep(0.03)
        desk.spool.put_report(Attempt(handle.name[:-2], 1), GOOD)
        assert until(backend, handle, Phase.ENDED).report == GOOD

    def test_no_longer_than_allowed(self, desk: Desk) -> None:
        backend = desk.backend(bounds=Bounds(reap=0.0, node=1.0))
        desk.resize("regular", dedicated=1)
        (handle,) = added(backend)
        node = desk.runs(handle)
        until(backend, handle, Phase.RUNNING)
        desk.emulator.bad_days.lose(node, alive=True)
        seen = until(backend, handle, Phase.ENDED)
        assert (seen.reason, seen.transient) == (Reason.LOST, True)
        assert f"has not reached the node {node}" in seen.message

    def test_that_are_gone(self, desk: Desk) -> None:
        backend = desk.backend()
        desk.resize("regular", dedicated=1)
        (handle,) = added(backend)
        node = desk.runs(handle)
        until(backend, handle, Phase.RUNNING)
        with desk.emulator.account.lock:
            gone = desk.emulator.account.node("regular", node)
            desk.emulator.account.pool("regular").dedicated = 0
            desk.emulator.account.force_node(gone, "leavingpool")
            desk.emulator.account.retire(gone)
        seen = until(backend, handle, Phase.ENDED)
        assert (seen.reason, seen.message) == (Reason.LOST, f"the node {node} went, or was started anew")


class TestCancel:
    def test_while_it_waits(self, desk: Desk) -> None:
        """At once: it has no node on which anything could be left."""
        backend = desk.backend(bounds=Bounds(reap=3600.0))
        (handle,) = added(backend)
        backend.cancel([handle])
        assert desk.spool.plan(Attempt(handle.name[:-2], 1)) is None
        assert until(backend, handle, Phase.ENDED).reason is Reason.CANCELED
        assert desk.task(handle).state == "completed"

    def test_while_it_runs(self, desk: Desk) -> None:
        """Not before its containers are gone."""
        backend = desk.backend(bounds=Bounds(reap=1.0))
        desk.resize("regular", dedicated=1)
        (handle,) = added(backend)
        desk.runs(handle)
        until(backend, handle, Phase.RUNNING)
        desk.emulator.bad_days.slow_stop(0.3)
        backend.cancel([handle])
        assert look(backend, handle).phase is Phase.RUNNING
        until(backend, handle, Phase.UNKNOWN)
        seen = until(backend, handle, Phase.ENDED)
        assert seen.reason is Reason.CANCELED
        ended = desk.task(handle).info["endTime"]
        assert utc() - datetime.datetime.fromisoformat(ended) >= datetime.timedelta(seconds=1)

    def test_after_its_end(self, desk: Desk) -> None:
        backend = desk.backend()
        desk.resize("regular", dedicated=1)
        (handle,) = added(backend)
        desk.runs(handle)
        desk.end(handle, GOOD)
        backend.cancel([handle])
        assert until(backend, handle, Phase.ENDED).report == GOOD
        backend.cancel([handle])

    def test_while_it_waits_anew(self, desk: Desk) -> None:
        backend = desk.backend()
        desk.resize("spot", spot=1)
        (handle,) = added(backend, plan(preemptible=True))
        desk.emulator.bad_days.preempt(desk.runs(handle), restore=None)
        desk.emulator.wait(handle.ref, handle.name, "active")
        backend.cancel([handle])
        assert until(backend, handle, Phase.ENDED).report is None
        assert desk.task(handle).state == "completed"

    def test_a_lost_answer(self, desk: Desk, clock: Clock) -> None:
        backend = desk.backend(looks=False)
        (handle,) = added(backend)
        desk.emulator.bad_days.lose_answers(1, "terminate_task")
        backend.cancel([handle])
        assert desk.called("terminate_task") == 2
        assert desk.task(handle).state == "completed"

    def test_azure_is_away(self, desk: Desk, clock: Clock) -> None:
        """It is told, and done at the next try."""
        backend = desk.backend(looks=False)
        (handle,) = added(backend)
        desk.emulator.bad_days.fail("terminate_task")
        with pytest.raises(errors.Unavailable):
            backend.cancel([handle])
        assert desk.called("terminate_task") == 3
        desk.emulator.bad_days.mend()
        backend.cancel([handle])
        assert desk.task(handle).state == "completed"

    def test_what_is_not_there(self, desk: Desk) -> None:
        backend = desk.backend(looks=False)
        (handle,) = added(backend)
        with desk.emulator.account.lock:
            desk.emulator.account.jobs.clear()
        backend.cancel([handle])


class TestNobodys:
    @pytest.mark.parametrize("job", ["", "nightly", "other_regular_0123456789_1", "desk_regular_0123456789_1"])
    def test_handles_that_lead_nowhere(self, desk: Desk, job: str) -> None:
        """What is no job of this server is never touched."""
        backend = desk.backend(looks=False)
        handle = Handle(backend.name, "nobody-1", job)
        assert look(backend, handle).phase is Phase.GONE
        backend.cancel([handle])
        backend.release([handle])
        ours = job.startswith("desk_")
        assert (desk.called("get_task"), desk.called("terminate_task")) == (ours, ours)


class TestTwoTasksOfOneAttempt:
    def test_the_one_that_has_it_counts(self, desk: Desk) -> None:
        """Its first job ended before the answer came, and it was added to the next one."""
        desk.resize("regular", dedicated=1)
        one = plan()
        (first,) = added(desk.backend(looks=False), one)
        desk.runs(first)
        with desk.emulator.account.lock:
            desk.emulator.account.move(desk.jobs()[0], "terminating")
        (second,) = added(desk.backend(looks=False), one)
        assert first.ref != second.ref
        backend = desk.backend()
        desk.emulator.wait(second.ref, second.name, "running")
        desk.end(second, code=75)
        assert until(backend, second, Phase.RUNNING).where["job"] == first.ref
        desk.end(first, GOOD)
        assert until(backend, second, Phase.ENDED).report == GOOD


class TestStrangers:
    def test_a_task_that_somebody_ended(self, desk: Desk) -> None:
        backend = desk.backend()
        desk.resize("regular", dedicated=1)
        handles = added(backend, *many(2))
        desk.runs(handles[0])
        desk.resize("regular")
        with desk.emulator.client() as client:
            for handle in handles:
                client.terminate_task(handle.ref, handle.name)
        for handle in handles:
            seen = until(backend, handle, Phase.ENDED)
            assert (seen.reason, seen.transient) == (Reason.LOST, True)
            assert "was ended on Azure Batch: TaskEnded: Task Was Ended by User Request" in seen.message

    def test_tasks_that_somebody_deleted(self, desk: Desk, clock: Clock) -> None:
        """They change no more: seldom, all that has not ended is looked at."""
        backend = desk.backend()
        desk.resize("regular", dedicated=1)
        deleted, other = added(backend, *many(2))
        for handle in (deleted, other):
            desk.runs(handle)
            until(backend, handle, Phase.RUNNING)
        with desk.emulator.client() as client:
            client.delete_task(deleted.ref, deleted.name)
        clock.offset += looks.AUDIT
        until(backend, deleted, Phase.GONE)
        assert look(backend, other).phase is Phase.RUNNING
        assert desk.called("get_task") == 1, "what its job shows is not asked for"

    def test_a_change_that_no_look_has_shown(self, desk: Desk, clock: Clock) -> None:
        backend = desk.backend()
        desk.resize("regular", dedicated=1)
        (handle,) = added(backend)
        desk.runs(handle)
        until(backend, handle, Phase.RUNNING)
        with desk.emulator.account.lock:
            desk.end(handle, GOOD)
            desk.task(handle).since -= TEN_MINUTES
        time.sleep(3 * POLL)
        assert look(backend, handle).phase is Phase.RUNNING
        clock.offset += looks.AUDIT
        assert until(backend, handle, Phase.ENDED).report == GOOD

    def test_one_that_is_young_is_not_gone(self, desk: Desk) -> None:
        backend = desk.backend(poll=30.0)
        (handle,) = added(backend)
        desk.emulator.account.jobs.clear()
        assert look(backend, handle).phase is Phase.PENDING


class TestAway:
    def test_what_changed_meanwhile_is_heard_of(self, desk: Desk) -> None:
        backend = desk.backend()
        desk.resize("regular", dedicated=1)
        handles = added(backend, *many(30))
        for handle in handles:
            desk.runs(handle)
            until(backend, handle, Phase.RUNNING)
        desk.emulator.bad_days.fail("list_tasks")
        for handle in handles:
            desk.end(handle, GOOD)
        happens(lambda: backend._looks.error(handles[0].ref), "looks fail")
        with pytest.raises(errors.Unavailable):
            backend.observe(handles)
        desk.emulator.bad_days.mend()
        happens(lambda: all(reported(backend, handle) == GOOD for handle in handles), "all ends are heard of")

    def test_what_is_known_is_told_all_the_same(self, desk: Desk) -> None:
        backend = desk.backend()
        desk.resize("regular", dedicated=1)
        ended, other = added(backend, *many(2))
        desk.runs(ended)
        desk.end(ended)
        until(backend, ended, Phase.ENDED)
        desk.emulator.bad_days.fail("list_tasks")
        happens(lambda: backend._looks.error(other.ref), "looks fail")
        assert backend.observe([ended, other]).keys() == {ended}

    def test_a_service_that_nobody_reaches(self, desk: Desk, clock: Clock) -> None:
        far = calls.Calls(calls.Account("https://127.0.0.1:9", "tesbatch", "a2V5"))
        told = later(desk.backend(calls=far, looks=False))
        assert told.code == "WAITING_BACKEND"


class TestClock:
    """This machine's is wrong. Shared keys allow for a quarter of an hour; nothing else may depend on it."""

    def test_that_is_ahead(self, desk: Desk) -> None:
        """Nothing is given up too early."""
        backend = desk.backend(bounds=Bounds(reap=300.0, capacity=300.0), clock=lambda: utc() + TEN_MINUTES)
        desk.resize("regular", dedicated=1)
        handles = added(backend, *many(66))
        desk.runs(handles[0])
        until(backend, handles[0], Phase.RUNNING)
        waiting = [handle for handle in handles if desk.task(handle).run is None]
        assert {seen.phase for seen in backend.observe(waiting).values()} == {Phase.PENDING}
        desk.end(handles[0], code=137)
        assert until(backend, handles[0], lambda seen: seen.phase is not Phase.RUNNING).phase is Phase.UNKNOWN
        desk.emulator.task(handles[0].ref, handles[0].name).info["endTime"] = "2026-01-01T00:00:00.000000Z"
        desk.task(handles[0]).since = utc()
        until(backend, handles[0], Phase.ENDED)

    def test_that_is_behind(self, desk: Desk) -> None:
        """Nor too late."""
        backend = desk.backend(bounds=Bounds(reap=2.0), clock=lambda: utc() - TEN_MINUTES)
        desk.resize("regular", dedicated=1)
        (handle,) = added(backend)
        desk.runs(handle)
        until(backend, handle, Phase.RUNNING)
        desk.end(handle, code=137)
        assert until(backend, handle, Phase.ENDED).reason is Reason.LOST


# -- means


def elsewhere(desk: Desk, handle: Handle, node: str) -> bool:
    """True if the task has another node."""
    run = desk.task(handle).run
    return run is not None and run.node.id != node
