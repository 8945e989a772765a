"""The loop on a scripted platform: lives of tasks, and the same lives with a kill at every point."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tes_server import errors
from tes_server.control.service import ListRequest
from tes_server.model.principal import ALL, ANONYMOUS, Principal
from tes_server.model.record import Change, Record, View
from tes_server.model.run import Handle, Later, Observation, Phase, Reason, Refusal, Report, Room
from tes_server.model.states import ENDS, State
from tes_server.model.task import Executor, ExecutorLog, Resources, Task
from tes_server.store.base import Store
from tests.scripted import COMPLETE, T0, Platform, ScriptedBackend, good
from tests.unit.control.conftest import World

TASK = Task(executors=(Executor(image="i", command=("c",)),))


def create(world: World, owner: str = "anonymous", task: Task = TASK, compat: str = "clients") -> str:
    return world.service(compat).create(Principal(owner), task).result()


def record(world: World, task_id: str) -> Record:
    found = world.store.get(ALL, task_id, View.FULL)
    assert isinstance(found, Record)
    return found


def ended(world: World, *ids: str) -> bool:
    return all(one.state in ENDS and not one.status.release for one in (record(world, task_id) for task_id in ids))


def run_to_end(world: World, backend: ScriptedBackend, *ids: str) -> list[Record]:
    world.settle(world.reconciler(backend), lambda: ended(world, *ids))
    return [record(world, task_id) for task_id in ids]


def test_a_good_life(world: World) -> None:
    task_id = create(world)
    backend = ScriptedBackend(world.platform)
    (end,) = run_to_end(world, backend, task_id)
    assert end.state is State.COMPLETE
    assert end.logs is not None
    assert end.logs.executors[0].exit_code == 0
    assert end.detail is not None
    assert end.detail.streams == (("out", "err"),)
    assert world.platform.jobs == {}, "released"
    assert world.platform.started == {f"{task_id}-1": 1}
    assert end.revision <= 6, "at most six writes a task"


def test_a_sweep_without_change_writes_nothing(world: World) -> None:
    world.platform.script = lambda _: [Observation(phase=Phase.RUNNING, start_time=T0)]
    task_id = create(world)
    loop = world.reconciler(ScriptedBackend(world.platform))
    world.settle(loop, lambda: record(world, task_id).state is State.RUNNING)
    before = record(world, task_id).revision
    for _ in range(20):
        loop.tick()
        world.clock.forward(20)
    assert record(world, task_id).revision == before


def test_a_clock_that_is_set_back_holds_nothing_up(world: World) -> None:
    """Neither the end of a task whose news was lost, nor the start of the next."""
    seen = [Observation(phase=Phase.RUNNING, start_time=T0)]
    world.platform.script = lambda _: seen
    task_id = create(world)
    loop = world.reconciler(ScriptedBackend(world.platform))
    world.settle(loop, lambda: record(world, task_id).state is State.RUNNING)
    world.clock.forward(-400 * 86_400)
    after = create(world)
    seen[:] = [Observation(phase=Phase.ENDED, report=Report(start_time=T0, end_time=T0))]
    for _ in range(10):
        loop.tick()
    assert record(world, task_id).state is State.COMPLETE
    assert record(world, after).state is State.COMPLETE


@pytest.mark.parametrize(
    ("last", "state", "attempts"),
    [
        (Observation(phase=Phase.ENDED, report=Report(reason=Reason.EXIT, code="EXECUTOR_FAILED", message="m")), State.EXECUTOR_ERROR, 1),
        (Observation(phase=Phase.ENDED, report=Report(reason=Reason.OOM, code="OOM", message="m")), State.EXECUTOR_ERROR, 1),
        (Observation(phase=Phase.ENDED, report=Report(reason=Reason.TIMEOUT, code="TIMEOUT", message="m")), State.SYSTEM_ERROR, 1),
        (Observation(phase=Phase.ENDED, report=Report(reason=Reason.STAGING, code="INPUT_NOT_FOUND", message="m")), State.SYSTEM_ERROR, 1),
        (Observation(phase=Phase.ENDED, report=Report(reason=Reason.STAGING, transient=True, code="INPUT_ERROR", message="m")), State.SYSTEM_ERROR, 2),
        (Observation(phase=Phase.ENDED, reason=Reason.PREEMPTED, code="PREEMPTED", message="m"), State.SYSTEM_ERROR, 3),
        (Observation(phase=Phase.GONE), State.SYSTEM_ERROR, 3),
    ],
)
def test_each_reason_has_its_own_budget(world: World, last: Observation, state: State, attempts: int) -> None:
    world.platform.script = lambda _: [last]
    task_id = create(world)
    (end,) = run_to_end(world, ScriptedBackend(world.platform), task_id)
    assert end.state is state
    assert end.status.attempt == attempts
    assert set(world.platform.started.values()) == {1}
    assert end.detail is not None
    assert end.detail.system_logs[-1].startswith(tuple(code for code in ("EXECUTOR_FAILED", "OOM", "TIMEOUT", "INPUT", "PREEMPTED", "LOST")))
    assert world.platform.jobs == {}


def test_a_second_attempt_waits_and_then_succeeds(world: World) -> None:
    world.platform.script = lambda plan: [Observation(phase=Phase.GONE)] if plan.attempt == 1 else list(COMPLETE)
    task_id = create(world)
    (end,) = run_to_end(world, ScriptedBackend(world.platform), task_id)
    assert end.state is State.COMPLETE
    assert end.detail is not None
    assert any(line.startswith("RETRY") for line in end.detail.system_logs)


def test_refused_and_later(world: World) -> None:
    refused, later = create(world), create(world)
    backend = ScriptedBackend(world.platform)
    backend.answers = {f"{refused}-1": Refusal(Reason.REJECTED, "REJECTED", "never"), f"{later}-1": Later("WAITING_CAPACITY", "no quota", 30.0)}
    loop = world.reconciler(backend)
    loop.tick()
    assert record(world, refused).state is State.SYSTEM_ERROR
    waiting = json.loads(world.service().get_json(ANONYMOUS, later, View.FULL))
    assert "no quota" in waiting["logs"][0]["system_logs"][-1]
    world.settle(loop, lambda: ended(world, later))
    assert record(world, later).state is State.COMPLETE


def test_a_platform_that_is_down_loses_nothing(world: World) -> None:
    ids = [create(world) for _ in range(5)]
    backend = ScriptedBackend(world.platform)
    loop = world.reconciler(backend)
    backend.down = True
    for _ in range(10):
        loop.tick()
        world.clock.forward(7)
    backend.down = False
    world.settle(loop, lambda: ended(world, *ids))
    assert {record(world, task_id).state for task_id in ids} == {State.COMPLETE}
    assert set(world.platform.started.values()) == {1}


@pytest.mark.parametrize("compat", ["clients", "1.1"])
def test_cancel_is_canceled_only_when_the_compute_is_gone(world: World, compat: str) -> None:
    world.platform.script = lambda _: [Observation(phase=Phase.RUNNING, start_time=T0)]
    task_id = create(world)
    backend = ScriptedBackend(world.platform)
    loop = world.reconciler(backend)
    world.settle(loop, lambda: record(world, task_id).state is State.RUNNING)
    service = world.service(compat)
    service.cancel(ANONYMOUS, task_id)
    service.cancel(ANONYMOUS, task_id)
    shown = json.loads(service.get_json(ANONYMOUS, task_id, View.MINIMAL))["state"]
    assert shown == ("CANCELING" if compat == "1.1" else "RUNNING")
    listed = [task["id"] for task in json.loads(service.list_json(ANONYMOUS, ListRequest(state=State(shown))))["tasks"]]
    assert listed == [task_id]
    world.settle(loop, lambda: ended(world, task_id))
    assert record(world, task_id).state is State.CANCELED
    assert backend.canceled == [f"{task_id}-1"]
    service.cancel(ANONYMOUS, task_id)


def test_cancel_before_anything_was_submitted_ends_at_once(world: World) -> None:
    task_id = create(world)
    world.service().cancel(ANONYMOUS, task_id)
    assert record(world, task_id).state is State.CANCELED
    world.reconciler(ScriptedBackend(world.platform)).tick()
    assert world.platform.started == {}


def one_at_a_time(platform: Platform) -> Room:
    return Room(1.0 - len(platform.alive()), 10**11, 10**12, 1.0, 10**11, 10**12)


def test_admission_never_starts_more_than_fits_and_owners_take_turns(world: World) -> None:
    busy = [create(world, "busy") for _ in range(30)]
    small = create(world, "small")
    backend = ScriptedBackend(world.platform, one_at_a_time)
    loop = world.reconciler(backend)
    world.settle(loop, lambda: ended(world, small))
    assert sum(ended(world, task_id) for task_id in busy) <= 2, "one task of a second owner does not wait behind thirty of a first"
    world.settle(loop, lambda: ended(world, *busy), passes=500)
    assert world.platform.most == 1
    assert set(world.platform.started.values()) == {1}


def test_waiting_tasks_say_why(world: World) -> None:
    _, second = sorted([create(world), create(world)])  # of one age, they start by id
    world.platform.script = lambda _: [Observation(phase=Phase.RUNNING)]
    loop = world.reconciler(ScriptedBackend(world.platform, one_at_a_time))
    loop.tick()
    loop.tick()
    waiting = json.loads(world.service().get_json(ANONYMOUS, second, View.FULL))
    assert waiting["state"] == "QUEUED"
    assert waiting["logs"][0]["system_logs"][-1].startswith("WAITING_CAPACITY: asks for 1 cores")
    before = record(world, second).revision
    for _ in range(5):
        loop.tick()
    assert record(world, second).revision == before, "the same reason is not written again"


def test_a_large_task_is_not_passed_for_ever(world: World) -> None:
    large = create(world, task=Task(executors=TASK.executors, resources=Resources(cpu_cores=2)))
    backend = ScriptedBackend(world.platform, lambda platform: Room(2.0 - len(platform.alive()), 10**11, 10**12, 2.0, 10**11, 10**12))
    world.platform.script = lambda _: [Observation(phase=Phase.RUNNING)] * 3 + [Observation(phase=Phase.ENDED, report=good())]
    loop = world.reconciler(backend)
    for _ in range(60):
        create(world)
        loop.tick()
        world.clock.forward(5)
    assert record(world, large).status.handle is not None or record(world, large).state in ENDS


def test_orphans_are_ended_and_live_attempts_left_alone(world: World) -> None:
    task_id = create(world)
    world.platform.script = lambda _: [Observation(phase=Phase.RUNNING)]
    backend = ScriptedBackend(world.platform)
    loop = world.reconciler(backend)
    loop.tick()
    world.platform.jobs["nobody-1"] = world.platform.jobs[f"{task_id}-1"]
    world.platform.jobs[f"{task_id}-7"] = world.platform.jobs[f"{task_id}-1"]
    world.clock.forward(700)
    loop.tick()
    assert list(world.platform.jobs) == [f"{task_id}-1"]


def test_live_output_reaches_a_watching_client(world: World) -> None:
    task_id = create(world)
    world.platform.script = lambda _: [Observation(phase=Phase.RUNNING, start_time=T0)]
    loop = world.reconciler(ScriptedBackend(world.platform))
    service = world.service()
    world.settle(loop, lambda: record(world, task_id).state is State.RUNNING)
    service.get_json(ANONYMOUS, task_id, View.FULL)
    create(world)  # the mark is written behind; an insert that is durable comes after it
    loop.tick()
    create(world)
    shown: dict[str, Any] = json.loads(service.get_json(ANONYMOUS, task_id, View.FULL))
    assert shown["logs"][0]["logs"] == [{"stdout": "live"}]


# -- a kill at every point -------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process is gone: nothing of ours may catch this."""


class Killer:
    """Kills at the n-th point; `points` counts how many there were."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.points = 0

    def __call__(self, _label: str) -> None:
        self.points += 1
        if self.points == self.at:
            raise Killed


class KillingStore:
    """A store whose process may be killed before a save and after it is durable."""

    def __init__(self, store: Store, kill: Killer) -> None:
        self._store = store
        self._kill = kill

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def save(self, changes: Sequence[Change]) -> set[str]:
        if not changes:
            return set()
        self._kill("before save")
        lost = self._store.save(changes)
        self._kill("after save")
        return lost


def script(plan: Any) -> list[Observation]:
    """One attempt lost, then a good one; a task named `cancel` runs until it is stopped."""
    if plan.executors[0].argv == ("cancel",):
        return [Observation(phase=Phase.RUNNING, start_time=T0)]
    if plan.executors[0].argv == ("lost",) and plan.attempt == 1:
        return [Observation(phase=Phase.RUNNING, start_time=T0), Observation(phase=Phase.ENDED, reason=Reason.LOST)]
    if plan.executors[0].argv == ("fail",):
        report = Report(executors=(ExecutorLog(exit_code=3, stdout="o", stderr="e"),), reason=Reason.EXIT, code="EXECUTOR_FAILED", message="m")
        return [Observation(phase=Phase.ENDED, report=report)]
    return list(COMPLETE)


def live_with_a_kill_at(world: World, point: int) -> int:
    """Four tasks, one reconciler killed at `point`, another one to finish. Returns how many points there were."""
    world.platform.script = script
    kinds = ("good", "lost", "fail", "cancel")
    ids = {kind: create(world, task=Task(executors=(Executor(image="i", command=(kind,)),))) for kind in kinds}
    killer = Killer(point)
    backend = ScriptedBackend(world.platform, fault=killer)
    loop = world.reconciler(backend, KillingStore(world.store, killer))

    def done() -> bool:
        if record(world, ids["cancel"]).state is State.RUNNING:
            world.service().cancel(ANONYMOUS, ids["cancel"])
        return ended(world, *ids.values())

    try:
        world.settle(loop, done)
    except Killed:
        world.settle(world.reconciler(ScriptedBackend(world.platform)), done)
    states = {kind: record(world, task_id) for kind, task_id in ids.items()}
    assert {kind: one.state for kind, one in states.items()} == {
        "good": State.COMPLETE,
        "lost": State.COMPLETE,
        "fail": State.EXECUTOR_ERROR,
        "cancel": State.CANCELED,
    }
    assert set(world.platform.started.values()) == {1}, "no attempt was started twice"
    assert states["lost"].status.attempt == 2
    assert states["good"].status.attempt == states["fail"].status.attempt == 1, "a kill of ours costs no attempt"
    assert world.platform.jobs == {}, "nothing is left on the platform"
    fail = states["fail"]
    assert fail.logs is not None
    assert fail.detail is not None
    assert fail.logs.executors[0].exit_code == 3
    assert fail.detail.streams == (("o", "e"),)
    return killer.points


def test_a_kill_at_every_driver_call_and_after_every_save(tmp_path: Any) -> None:
    first = World(tmp_path / "count.sqlite")
    points = live_with_a_kill_at(first, 0)
    first.store.close()
    assert points > 30
    for point in range(1, points + 1):
        world = World(tmp_path / f"{point}.sqlite")
        live_with_a_kill_at(world, point)
        world.store.close()


class Spoiled(ScriptedBackend):
    """A driver with a fault on one attempt, as a damaged file makes one."""

    bad = ""

    def observe(self, handles: Sequence[Handle]) -> Mapping[Handle, Observation]:
        if any(handle.name == self.bad for handle in handles):
            raise KeyError(self.bad)
        return super().observe(handles)


def test_a_fault_on_one_record_stops_no_other(world: World) -> None:
    bad, *others = [create(world) for _ in range(4)]
    backend = Spoiled(world.platform)
    backend.bad = f"{bad}-1"
    loop = world.reconciler(backend)
    world.settle(loop, lambda: ended(world, *others))
    assert {record(world, task_id).state for task_id in others} == {State.COMPLETE}
    assert record(world, bad).state not in ENDS
    backend.bad = ""
    world.settle(loop, lambda: ended(world, bad))
    assert record(world, bad).state is State.COMPLETE


def test_a_store_that_is_away_is_told_once_and_again_after_it_was_back(world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    loop = world.reconciler(ScriptedBackend(world.platform))
    passes = iter([True, True, True, False, True, True])

    def tick() -> bool:
        away = next(passes, None)
        if away is None:
            loop.stop()
        elif away:
            raise errors.Unavailable("away")
        return True

    monkeypatch.setattr(loop, "tick", tick)
    monkeypatch.setattr(loop, "_rest", lambda: None)
    loop.loop()
    assert [entry.message for entry in caplog.records].count("reconciler.pass.failed") == 2
