"""What tasks on Azure Batch cost in calls: counted by the emulator, never timed."""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Iterator

import pytest

from tes_server import errors
from tes_server.backends.azure_batch import attempts, calls, driver, looks, pool_looks
from tes_server.backends.azure_batch.driver import AzureBatchBackend
from tes_server.filer.spool import Attempt
from tes_server.model.run import Handle, Phase
from tests.emulators.azure_batch.protocol import now
from tests.integration import azure_desk
from tests.integration.azure_desk import GOOD, Clock, Desk, added, happens, look, many, until

pytestmark = pytest.mark.azure_batch

POLLS = frozenset({"list_tasks", "get_pool"})
"""Calls that follow from time, not from tasks."""

RUNNING = 10_000


@pytest.fixture
def desk(tmp_path: pathlib.Path) -> Iterator[Desk]:
    with azure_desk.desk(tmp_path) as made:
        yield made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Of the backend."""
    return azure_desk.forward(monkeypatch, (driver, attempts, looks, pool_looks, calls))


def page(desk: Desk, backend: AzureBatchBackend) -> int:
    """Pages of one look at each job, which is taken at once."""
    before = desk.called("list_tasks")
    azure_desk.look_at_jobs(backend)
    return desk.called("list_tasks") - before


class TestTasks:
    def test_what_300_cost_from_first_to_last(self, desk: Desk, clock: Clock) -> None:
        """All calls but polls: at most one for 20 tasks."""
        backend = desk.backend()
        desk.resize("regular", dedicated=5)
        plans = many(300)
        handles = [handle for first in range(0, 300, 100) for handle in added(backend, *plans[first : first + 100])]
        for handle in handles:
            desk.runs(handle)
            desk.end(handle, GOOD)
        for handle in handles:
            assert until(backend, handle, Phase.ENDED).report == GOOD
        backend.release(handles)
        made = collections.Counter({name: number for name, number in desk.emulator.calls.seen.items() if name not in POLLS})
        assert sum(made.values()) <= 0.05 * 300, made
        assert made["create_task_collection"] == 3
        assert not made["get_task"], "their jobs tell"
        assert not made["delete_task"]
        assert desk.called("get_pool") <= 4

    def test_a_look_at_300_of_which_none_has_changed(self, desk: Desk, clock: Clock) -> None:
        backend = desk.backend(looks=False)
        desk.resize("regular", dedicated=5)
        handles = added(backend, *many(300))
        for handle in handles:
            desk.runs(handle)
        assert page(desk, backend) == 1
        assert {seen.phase for seen in backend.observe(handles).values()} == {Phase.RUNNING}
        before = desk.calls_made
        for _ in range(20):
            assert page(desk, backend) == 1
            backend.observe(handles)
        assert desk.calls_made == before + 20

    def test_each_priority_and_pool_is_one_job_to_look_at(self, desk: Desk, clock: Clock) -> None:
        backend = desk.backend(desk.site(priorities={"high": 500}), looks=False)
        plans = [azure_desk.plan(preemptible=spot, parameters={"priority": "high"} if high else {}) for spot in (True, False) for high in (True, False)]
        added(backend, *plans)
        assert page(desk, backend) == 4

    def test_a_job_of_which_nothing_is_looked_after_is_left_alone(self, desk: Desk, clock: Clock) -> None:
        """And when a task comes to it, all that ended in it before is not looked at again."""
        backend = desk.backend(looks=False)
        desk.resize("regular", dedicated=30)
        handles = added(backend, *many(1500))
        for handle in handles:
            desk.runs(handle, take=False)
            desk.end(handle)
        assert page(desk, backend) == 2
        backend.release(handles)
        assert page(desk, backend) == 0
        with desk.emulator.account.lock:
            for handle in handles:
                desk.task(handle).since -= 10 * looks.OVERLAP
        (late,) = added(backend)
        assert page(desk, backend) == 1
        assert look(backend, late).phase in (Phase.STAGING, Phase.RUNNING)

    def test_a_restart_with_250(self, desk: Desk) -> None:
        """One page shows them all."""
        handles = added(desk.backend(looks=False), *many(250))
        desk.resize("regular", dedicated=5)
        desk.runs(handles[0])
        desk.end(handles[0], GOOD)
        desk.runs(handles[1])
        desk.emulator.calls.reset()
        fresh = desk.backend(poll=600.0)
        assert {one.phase for one in fresh.observe(handles).values()} == {Phase.UNKNOWN}, "nothing is concluded before"
        happens(lambda: all(seen.phase is not Phase.UNKNOWN for seen in fresh.observe(handles[1:]).values()), "all are known")
        assert look(fresh, handles[0]).report == GOOD
        assert (desk.called("list_tasks"), desk.called("get_task")) == (1, 0)

    def test_a_few_are_asked_for_by_their_names(self, desk: Desk) -> None:
        handles = added(desk.backend(looks=False), *many(driver.FEW))
        fresh = desk.backend(looks=False)
        assert {one.phase for one in fresh.observe(handles).values()} == {Phase.PENDING}
        assert (desk.called("list_tasks"), desk.called("get_task")) == (0, driver.FEW)


class TestTenThousand:
    @pytest.fixture
    def running(self, desk: Desk) -> tuple[AzureBatchBackend, list[Handle]]:
        """So many tasks, all seen to run."""
        backend = desk.backend(looks=False)
        handles = [handle for first in range(0, RUNNING, 1000) for handle in added(backend, *many(1000)) if first >= 0]
        with desk.emulator.account.lock:
            for handle in handles:
                _begins(desk, handle)
        assert page(desk, backend) == RUNNING // 1000
        assert backend.observe(handles[:200]).keys() == set(handles[:200])
        with desk.emulator.account.lock:
            for handle in handles:
                desk.task(handle).since -= 10 * looks.OVERLAP
        return backend, handles

    def test_a_look_follows_changes(self, desk: Desk, running: tuple[AzureBatchBackend, list[Handle]]) -> None:
        backend, handles = running
        told: set[str] = set()
        backend.listen(told.update)
        before = desk.calls_made
        assert page(desk, backend) == 1
        assert not told
        for changes, pages in ((10, 1), (1500, 2)):
            with desk.emulator.account.lock:
                for handle in handles[:changes]:
                    _ends(desk, handle)
            assert page(desk, backend) == pages
            assert len(told) == changes
            told.clear()
            with desk.emulator.account.lock:
                for handle in handles[:changes]:
                    desk.task(handle).since -= 10 * looks.OVERLAP
            assert page(desk, backend) == 1
            assert not told
            del handles[:changes]
        assert desk.calls_made == before + 6
        assert {seen.phase for seen in backend.observe(handles[:500]).values()} == {Phase.RUNNING}
        assert desk.calls_made == before + 6, "a sweep over them asks for nothing"


class TestStorm:
    def test_azure_is_away(self, desk: Desk, clock: Clock) -> None:
        """However many ask, and however often: each of them gets its error."""
        backend = desk.backend(looks=False)
        handles = added(backend, *many(200))
        desk.emulator.bad_days.throttle(retry_after=60)
        before = desk.calls_made
        for _ in range(50):
            azure_desk.later(backend)
            with pytest.raises(errors.Unavailable):
                backend.cancel(handles)
            with pytest.raises(errors.Unavailable):
                list(backend.survey())
        assert desk.calls_made - before <= 2 + driver.THREADS


def _begins(desk: Desk, handle: Handle) -> None:
    """As Azure Batch shows a task that runs; the emulator's nodes are too few for so many."""
    task = desk.task(handle)
    desk.emulator.account.job(handle.ref).waiting.pop(task.key[1])
    task.state, task.since = "running", now()


def _ends(desk: Desk, handle: Handle) -> None:
    desk.spool.put_report(Attempt(handle.name[:-2], 1), GOOD)
    desk.emulator.account.complete(desk.task(handle), 0, None)
