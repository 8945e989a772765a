"""So many tasks of one owner at a time: never more, whoever starts them, and nobody else waits for it."""

from __future__ import annotations

import collections
import datetime
import pathlib
import random
import tempfile
from collections.abc import Collection

import pytest

from tes_server.control import admission, running
from tes_server.control.admission import Candidate
from tes_server.model import record as model
from tes_server.model.principal import ALL, SCANS, Principal
from tes_server.model.record import Record, View
from tes_server.model.run import Observation, Phase, Report, Room
from tes_server.model.states import ENDS, State
from tes_server.plan.steps import Limits
from tes_server.store.base import Shares
from tests.scripted import COMPLETE, T0, Clock, ScriptedBackend
from tests.unit.control.conftest import World
from tests.unit.control.test_admission import candidates
from tests.unit.control.test_reconciler import TASK, create, ended, record
from tests.unit.control.test_replicas import Fleet, Shared

RUNS = Observation(phase=Phase.RUNNING, start_time=T0)


def owners(world: World, names: Collection[str]) -> collections.Counter[str]:
    return collections.Counter(record(world, name.rpartition("-")[0]).owner for name in names)


def test_others_start_meanwhile_and_all_come_to_their_turn(world: World) -> None:
    world.platform.script = lambda _: [RUNS]
    ids = sorted(create(world, "alice") for _ in range(7))
    world.clock.forward(1)
    bobs = [create(world, "bob"), create(world, "bob")]
    loop = world.reconciler(ScriptedBackend(world.platform), running=3)
    for _ in range(20):
        loop.tick()
        world.clock.forward(5)
    assert owners(world, world.platform.alive()) == {"alice": 3, "bob": 2}
    assert {name.rpartition("-")[0] for name in world.platform.alive()} == {*ids[:3], *bobs}, "the oldest first"
    waiting = [record(world, task_id) for task_id in ids[3:]]
    assert {(one.state, one.revision, one.status.waiting) for one in waiting} == {(State.QUEUED, 0, waiting[0].status.waiting)}, "no write for those that wait"
    world.platform.jobs[f"{ids[1]}-1"].script = COMPLETE[-1:]
    for _ in range(5):
        loop.tick()
        world.clock.forward(5)
    assert owners(world, world.platform.alive()) == {"alice": 3, "bob": 2}
    for job in world.platform.jobs.values():
        job.script = COMPLETE[-1:]
    world.platform.script = lambda _: COMPLETE[-1:]
    world.settle(loop, lambda: ended(world, *ids, *bobs))
    assert sum(world.platform.started.values()) == 9


def test_each_task_is_told_when_it_is_created(world: World) -> None:
    service = world.service(running=3)
    told = record(world, service.create(Principal("alice"), TASK).result()).status.waiting
    assert told.startswith("WAITING_TURN: in the queue of the backend local; of one owner's tasks 3 are under way at a time (")


def test_an_attempt_that_begins_again_waits_for_its_turn_as_others_do(world: World) -> None:
    world.platform.script = lambda plan: [Observation(phase=Phase.ENDED, report=Report(reason=None))] if plan.attempt > 1 else [RUNS]
    ids = sorted(create(world, "alice") for _ in range(4))
    loop = world.reconciler(ScriptedBackend(world.platform), running=2)
    world.settle(loop, lambda: len(world.platform.alive()) == 2)
    world.platform.jobs.pop(f"{ids[0]}-1")  # lost
    most = 0
    for _ in range(30):
        loop.tick()
        most = max(most, len(world.platform.alive()))
        world.clock.forward(5)
    assert most == 2
    world.platform.jobs[f"{ids[1]}-1"].script = COMPLETE[-1:]
    for task_id in ids[2:]:
        world.settle(loop, lambda task_id=task_id: f"{task_id}-1" in world.platform.jobs)  # type: ignore[misc]
        world.platform.jobs[f"{task_id}-1"].script = COMPLETE[-1:]
    world.settle(loop, lambda: ended(world, *ids))
    assert record(world, ids[0]).status.attempt == 2


def test_a_task_that_does_not_fit_lets_others_of_its_owner_pass() -> None:
    room = Room(4.0, 10**11, 10**12, 8.0, 10**11, 10**12)
    large, small = Limits(cpus=8, ram_bytes=1), Limits(cpus=1, ram_bytes=1)
    waiting = candidates(large, small, small, small)
    now = T0 + datetime.timedelta(seconds=1)

    def started(left: dict[str, int], room: Room | None = room) -> list[str]:
        return [one.record.id for one in admission.admit(waiting, room, now, left).start]

    assert started({"o": 2}) == ["t1", "t2"]
    assert started({"o": 2}, None) == ["t0", "t1"]
    assert started({"o": 0}) == started({"o": 0}, None) == []
    assert started({"somebody": 0}) == ["t1", "t2", "t3"]
    assert admission.admit(waiting, room, now, {"o": 0}).wait == [], "it is not for want of room that they wait"


def test_scans_are_not_counted(world: World) -> None:
    bound = running.Running(world.store, 1)
    assert bound.left({"alice", SCANS.owner}) == {"alice": 1}
    assert bound.shares([SCANS.owner])[SCANS.owner] > 1000
    scan = Candidate(
        Record(id="s", state=State.QUEUED, owner=SCANS.owner, created=T0, status=model.Status(backend="local", rule="")), Limits(cpus=1, ram_bytes=1)
    )
    assert admission.admit([scan, scan], None, T0, bound.left({SCANS.owner})).start == [scan, scan]


# -- several reconcilers ---------------------------------------------------------------------------------------------


class Meeting(Shared):
    """A store before and after whose calls others may have their passes."""

    def under_way(self, owners: Collection[str]) -> dict[str, int]:
        self.before_save([])
        counts = self._store.under_way(owners)
        self.before_save([])
        return counts

    def due(self, lane: model.Lane, shards: frozenset[int], now: datetime.datetime, limit: int, here: str = "", shares: Shares | None = None) -> list[Record]:
        return self._store.due(lane, shards, now, limit, here, shares)


class Crowd(Fleet):
    """Three reconcilers of one platform, each with a third of the shards."""

    def _loop(self, backend: ScriptedBackend, store: Shared, who: str, clock: Clock | None) -> object:  # type: ignore[override]
        store.__class__ = Meeting
        return self.reconciler(backend, store, who=who, clock=clock, running=2)


@pytest.mark.parametrize("seed", range(12))
def test_several_reconcilers_never_start_too_many_between_them(seed: int) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        crowd = Crowd(pathlib.Path(place) / "tasks.sqlite")
        names = ("one", "two", "three")
        depth = 0
        most = 0

        def meet(_: object) -> None:
            """Whatever one of them does, another may have a pass in between, and another in between that."""
            nonlocal depth, most
            most = max(most, len(crowd.platforms[""].alive()))
            if depth < len(busy) and chance.random() < 0.3:
                who = chance.choice([name for name in names if name not in busy[: depth + 1]] or list(names))
                if who in busy[: depth + 1]:
                    return
                depth += 1
                busy[depth] = who
                crowd.loops[who].tick()
                busy[depth] = ""
                depth -= 1

        busy = [""] * (len(names) + 1)
        for number, name in enumerate(names):
            crowd.start(name, place=False, fault=meet)
            crowd.stores[name].before_save = meet
            crowd.shards[name] = frozenset(range(number, model.SHARDS, len(names)))
        crowd.platforms[""].script = lambda _: [RUNS, *COMPLETE[1:]]
        ids = [crowd.create() for _ in range(9)]
        for _ in range(300):
            for name in names:
                busy[0] = name
                crowd.loops[name].tick()
            crowd.clock.forward(1)
            if all(record(crowd, task_id).state in ENDS for task_id in ids):
                break
        states = [found.state for task_id in ids if (found := crowd.store.get(ALL, task_id, View.MINIMAL))]
        assert states == [State.COMPLETE] * 9
        assert most == 2
        assert set(crowd.started().values()) == {1}
        crowd.store.close()
