"""Several reconcilers on one store, each with a platform that only it reaches: shards move, processes stop, places are lost."""

from __future__ import annotations

import datetime
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from tes_server.control.reconciler import Reconciler
from tes_server.model import record as model
from tes_server.model.principal import ALL, ANONYMOUS
from tes_server.model.record import Change, Lane, Record, View
from tes_server.model.run import Observation, Phase
from tes_server.model.states import ENDS, State
from tes_server.model.task import Executor, Task
from tes_server.store.base import Shares, Store
from tests.scripted import COMPLETE, T0, Clock, Platform, ScriptedBackend
from tests.unit.control.conftest import World

TASK = Task(executors=(Executor(image="i", command=("c",)),))
RUNNING = [Observation(phase=Phase.RUNNING, start_time=T0)]


class Shared:
    """The store as one of several reconcilers sees it: the shards and the company that a test gives it."""

    def __init__(self, store: Store, fleet: Fleet, who: str) -> None:
        self._store = store
        self._fleet = fleet
        self._who = who
        self.saved: list[Change] = []
        self.before_save: Callable[[Sequence[Change]], None] = lambda _: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def hold(self, who: str, now: datetime.datetime) -> frozenset[int]:
        return self._fleet.shards.get(self._who, frozenset())

    def alive(self) -> frozenset[str]:
        return frozenset(self._fleet.alive)

    def _mine(self, record: Record, here: str) -> bool:
        place = model.place_of(record.status)
        return place == here if place else model.shard_of(record.id) in self.hold("", T0)

    def due(self, lane: Lane, shards: frozenset[int], now: datetime.datetime, limit: int, here: str = "", shares: Shares | None = None) -> list[Record]:
        found = self._store.due(lane, model.ALL_SHARDS if lane is Lane.ACTIVE else shards, now, limit, shares=shares)
        return [record for record in found if self._mine(record, here)]

    def sweep(self, shards: frozenset[int], after: str, limit: int, here: str = "") -> list[Record]:
        found = self._store.sweep(model.ALL_SHARDS, after, limit)
        return [record for record in found if model.shard_of(record.id) in shards or model.place_of(record.status) == here]

    def save(self, changes: Sequence[Change]) -> set[str]:
        self.before_save(changes)
        lost = self._store.save(changes)
        self.saved += [change for change in changes if change.id not in lost]
        return lost


class Fleet(World):
    """Machines by name, each with a platform of its own."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__(path)
        self.shards: dict[str, frozenset[int]] = {}
        self.alive: set[str] = set()
        self.platforms: dict[str, Platform] = {}
        self.backends: dict[str, ScriptedBackend] = {}
        self.stores: dict[str, Shared] = {}
        self.loops: dict[str, Reconciler] = {}

    def start(self, name: str, *, place: bool = True, clock: Clock | None = None, fault: Callable[[str], None] = lambda _: None) -> None:
        """A reconciler process on the machine `name`; again: it was killed and comes back."""
        here = f"{name}/0123" if place else ""
        platform = self.platforms.setdefault(name if place else "", Platform())
        backend = self.backends[name] = ScriptedBackend(platform, fault=fault, place=here)
        store = self.stores[name] = Shared(self.store, self, name)
        self.alive.add(here or name)
        self.loops[name] = self._loop(backend, store, here or name, clock)

    def _loop(self, backend: ScriptedBackend, store: Shared, who: str, clock: Clock | None) -> Reconciler:
        return self.reconciler(backend, store, who=who, clock=clock)

    def stop(self, name: str) -> None:
        self.alive -= {f"{name}/0123", name}

    def own(self, name: str) -> None:
        """All shards move to this one."""
        self.shards = {name: model.ALL_SHARDS}

    def pass_(self, *names: str, times: int = 1, seconds: float = 5.0) -> None:
        for _ in range(times):
            for name in names:
                self.loops[name].tick()
            self.clock.forward(seconds)

    def create(self) -> str:
        return self.service().create(ANONYMOUS, TASK).result()

    def record(self, task_id: str) -> Record:
        found = self.store.get(ALL, task_id, View.FULL)
        assert isinstance(found, Record)
        return found

    def started(self) -> dict[str, int]:
        return {name: count for platform in self.platforms.values() for name, count in platform.started.items()}


@pytest.fixture
def fleet(tmp_path: pathlib.Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path / "tasks.sqlite")
    made.start("one")
    made.start("two")
    made.own("one")
    yield made
    made.store.close()


def runs_on_one(fleet: Fleet) -> str:
    """A task that runs at the first place; its shard is then the second one's."""
    fleet.platforms["one"].script = lambda _: list(RUNNING)
    task_id = fleet.create()
    fleet.pass_("one", times=2)
    assert fleet.record(task_id).state is State.RUNNING
    fleet.own("two")
    return task_id


def test_whoever_is_there_goes_on_and_the_shards_owner_concludes_nothing(fleet: Fleet) -> None:
    task_id = runs_on_one(fleet)
    before = fleet.record(task_id).revision
    fleet.pass_("two", "one", times=30)
    assert fleet.record(task_id).revision == before
    assert fleet.backends["two"].calls["observe"] == fleet.backends["two"].calls["find"] == 0
    fleet.platforms["one"].jobs[f"{task_id}-1"].script = COMPLETE[-1:]
    fleet.pass_("two", "one", times=8)
    assert fleet.record(task_id).state is State.COMPLETE
    assert fleet.platforms["one"].jobs == {}, "released by the one that can"
    assert fleet.stores["two"].saved == []


def test_a_cancel_is_seen_at_the_next_pass_in_whatever_shard(fleet: Fleet) -> None:
    task_id = runs_on_one(fleet)
    fleet.pass_("two", "one", times=4)
    fleet.service().cancel(ANONYMOUS, task_id)
    fleet.pass_("two", "one", times=3, seconds=0.5)
    assert fleet.record(task_id).state is State.CANCELED
    assert fleet.backends["one"].canceled == [f"{task_id}-1"]
    assert fleet.backends["two"].canceled == []


@pytest.mark.parametrize("reached", [False, True])
def test_an_intent_of_a_killed_one_waits_for_its_place(fleet: Fleet, reached: bool) -> None:
    """Killed after the intent was saved, before or after it reached the platform; the shard is another's before it is back."""

    class Killed(BaseException):
        pass

    def kill(label: str) -> None:
        if label == ("submit done" if reached else "submit"):
            raise Killed

    fleet.start("one", fault=kill)
    task_id = fleet.create()
    with pytest.raises(Killed):
        fleet.pass_("one")
    fleet.own("two")
    fleet.pass_("two", times=6)
    assert fleet.record(task_id).status.submitting is not None, "nothing was concluded from the other side"
    fleet.start("one")
    fleet.pass_("one", "two", times=16)
    assert fleet.record(task_id).state is State.COMPLETE
    assert fleet.record(task_id).status.attempt == 1
    assert fleet.started() == {f"{task_id}-1": 1}
    assert len(fleet.platforms["one" if reached else "two"].started) == 1


def test_a_lost_place_is_told_then_given_up_and_ends_what_it_has_when_it_is_back(fleet: Fleet) -> None:
    task_id = runs_on_one(fleet)
    fleet.stop("one")
    fleet.pass_("two", times=5)
    assert fleet.stores["two"].saved == [], "a start anew takes some time"
    fleet.pass_("two", times=170)
    silent = fleet.record(task_id)
    assert silent.status.waiting.startswith("MACHINE_SILENT: nothing is heard of one,")
    assert len(fleet.stores["two"].saved) == 1, "one write, not one a sweep"
    assert silent.status.attempt == 1
    fleet.pass_("two", times=20)
    end = fleet.record(task_id)
    assert end.state is State.COMPLETE
    assert end.status.attempt == 2
    assert end.status.failures == {"LOST": 1}
    assert end.detail is not None
    assert any(line.startswith("LOST: nothing was heard of one for 15 minutes") for line in end.detail.system_logs)
    assert list(fleet.platforms["two"].started) == [f"{task_id}-2"]
    fleet.start("one")
    fleet.pass_("two", "one", times=10)
    assert fleet.platforms["one"].jobs == {}
    assert fleet.started() == {f"{task_id}-1": 1, f"{task_id}-2": 1}


def test_a_place_that_is_back_in_time_goes_on(fleet: Fleet) -> None:
    task_id = runs_on_one(fleet)
    fleet.stop("one")
    fleet.pass_("two", times=100)
    assert fleet.record(task_id).status.waiting.startswith("MACHINE_SILENT")
    fleet.start("one")
    fleet.pass_("two", "one", times=300)
    there = fleet.record(task_id)
    assert (there.state, there.status.attempt, there.status.waiting) == (State.RUNNING, 1, "")


def test_whoever_was_stopped_itself_does_not_take_others_for_lost(fleet: Fleet) -> None:
    """The second one is stopped for an hour while the first one is silent, comes back, and is silent again."""
    task_id = runs_on_one(fleet)
    fleet.stop("one")
    fleet.pass_("two", times=100)
    fleet.clock.forward(3600)
    fleet.pass_("two", times=100)
    assert fleet.record(task_id).status.attempt == 1, "it begins to count anew"
    fleet.pass_("two", times=100)
    assert fleet.record(task_id).status.attempt == 2


def test_a_stale_look_at_a_place_that_is_back_changes_nothing(fleet: Fleet) -> None:
    """Stopped between its judgement and its save, while the place comes back and says so."""
    task_id = runs_on_one(fleet)
    fleet.stop("one")
    fleet.pass_("two", times=150)

    def stopped(changes: Sequence[Change]) -> None:
        if any(change.status.attempt == 2 for change in changes):
            fleet.stores["two"].before_save = lambda _: None
            fleet.start("one")
            fleet.loops["one"].tick()

    fleet.stores["two"].before_save = stopped
    fleet.pass_("two", "one", times=60)
    there = fleet.record(task_id)
    assert (there.state, there.status.attempt, there.status.waiting) == (State.RUNNING, 1, "")
    assert fleet.started() == {f"{task_id}-1": 1}


def test_a_canceled_task_of_a_lost_place_is_canceled_and_an_ended_one_is_released(fleet: Fleet) -> None:
    canceled = runs_on_one(fleet)
    fleet.own("one")
    ended = fleet.create()
    fleet.pass_("one", times=2)
    fleet.platforms["one"].jobs[f"{ended}-1"].script = COMPLETE[-1:]
    fleet.backends["one"].release = lambda handles: (_ for _ in ()).throw(SystemExit)  # type: ignore[method-assign]
    with pytest.raises(SystemExit):
        fleet.pass_("one", times=8)
    fleet.stop("one")
    fleet.own("two")
    fleet.service().cancel(ANONYMOUS, canceled)
    fleet.pass_("two", times=220)
    assert fleet.record(canceled).state is State.CANCELED
    assert fleet.record(ended).state is State.COMPLETE
    assert fleet.record(ended).status.release == ()


def test_a_submit_that_comes_late_is_left_out(fleet: Fleet) -> None:
    """Stopped while the intent was saved: whatever others think by then, nothing is submitted on its strength."""
    task_id = fleet.create()

    def stopped(changes: Sequence[Change]) -> None:
        fleet.stores["one"].before_save = lambda _: None
        fleet.clock.forward(11)

    fleet.stores["one"].before_save = stopped
    fleet.loops["one"].tick()
    assert fleet.started() == {}
    assert fleet.record(task_id).status.submitting is not None
    fleet.pass_("one", "two", times=5)
    assert fleet.record(task_id).state is State.COMPLETE
    assert fleet.started() == {f"{task_id}-1": 1}


def test_a_lease_that_ended_under_way_stops_the_submit(fleet: Fleet) -> None:
    task_id = fleet.create()
    fleet.stores["one"].before_save = lambda _: fleet.own("two")
    fleet.loops["one"].tick()
    assert fleet.started() == {}
    fleet.stores["one"].before_save = lambda _: None
    fleet.pass_("one", "two", times=8)
    assert fleet.record(task_id).state is State.COMPLETE
    assert fleet.started() == {f"{task_id}-1": 1}
    assert list(fleet.platforms["two"].started) == [f"{task_id}-1"]


def test_stopped_within_a_submit_until_its_place_was_lost(fleet: Fleet) -> None:
    """The attempt begins after it was given up: it is ended as soon as that is known, and not after the next survey."""

    def stopped(label: str) -> None:
        if label == "submit":
            fleet.stop("one")
            fleet.own("two")
            fleet.pass_("two", times=220)

    fleet.platforms["one"].script = lambda _: list(RUNNING)
    fleet.start("one", fault=stopped)
    task_id = fleet.create()
    fleet.loops["one"].tick()
    assert fleet.record(task_id).state is State.COMPLETE
    assert fleet.record(task_id).status.attempt == 2
    assert fleet.platforms["one"].jobs == {}


def test_a_clock_that_is_ahead_does_not_take_anothers_submit_for_over(tmp_path: pathlib.Path) -> None:
    """A platform that both reach. The first one's submit hangs; the second one's clock is a minute ahead."""
    fleet = Fleet(tmp_path / "tasks.sqlite")
    ahead = Clock()
    ahead.forward(60)

    def slow(label: str) -> None:
        if label == "submit" and fleet.shards["one"]:
            fleet.own("two")
            for _ in range(18):  # of the twenty seconds that it may take
                fleet.clock.forward(1)
                ahead.forward(1)
                fleet.loops["two"].tick()
            assert fleet.record(task_id).status.submitting is not None

    fleet.start("one", place=False, fault=slow)
    fleet.start("two", place=False, clock=ahead)
    fleet.own("one")
    task_id = fleet.create()
    fleet.loops["one"].tick()
    for _ in range(40):
        fleet.clock.forward(5)
        ahead.forward(5)
        fleet.loops["two"].tick()
    assert fleet.record(task_id).state is State.COMPLETE
    assert fleet.platforms[""].started == {f"{task_id}-1": 1}
    fleet.store.close()


def test_a_pause_anywhere_in_a_pass_runs_nothing_twice(tmp_path: pathlib.Path) -> None:
    """Stopped at each save and each call in turn, for as long as the other one needs to do what it can; then it goes on."""
    points = _paused_at(tmp_path / "count.sqlite", 0)
    assert points > 8
    for point in range(1, points + 1):
        _paused_at(tmp_path / f"{point}.sqlite", point)


def _paused_at(path: pathlib.Path, at: int) -> int:
    fleet = Fleet(path)
    met = 0

    def point(_: object = None) -> None:
        nonlocal met
        met += 1
        if met == at:
            fleet.own("two")
            fleet.pass_("two", times=20)

    fleet.start("one", fault=point)
    fleet.start("two")
    fleet.own("one")
    fleet.stores["one"].before_save = point
    ids = [fleet.create() for _ in range(3)]
    for _ in range(30):
        fleet.pass_("one")
        fleet.pass_("two")
    assert {fleet.record(task_id).state for task_id in ids} == {State.COMPLETE}
    assert fleet.started() == {f"{task_id}-1": 1 for task_id in ids}
    assert all(platform.jobs == {} for platform in fleet.platforms.values())
    assert {fleet.record(task_id).status.attempt for task_id in ids} == {1}
    assert all(fleet.record(task_id).state in ENDS for task_id in ids)
    fleet.store.close()
    return met
