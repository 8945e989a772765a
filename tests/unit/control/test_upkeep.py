"""What a reconciler asks of its store while there is nothing to do."""

from __future__ import annotations

import collections
import datetime
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tes_server import app, errors, telemetry
from tes_server.control import reconciler, upkeep
from tes_server.model.principal import ANONYMOUS, SCANS
from tes_server.model.record import View
from tes_server.model.run import Handle
from tes_server.model.states import State
from tes_server.model.task import Executor, Task
from tes_server.plan.policy import Policy, Target
from tes_server.store.base import Store
from tests.clock import utc
from tests.contract.store_contract import a_record
from tests.scripted import ScriptedBackend
from tests.unit.control.conftest import RULES, World


class CountingStore:
    """Counts the calls of a store by name."""

    def __init__(self, store: Store) -> None:
        self.calls: collections.Counter[str] = collections.Counter()
        self.blocking = store.blocking
        self._store = store

    def __getattr__(self, name: str) -> Any:
        self.calls[name] += 1
        return getattr(self._store, name)


@pytest.fixture
def store(world: World) -> Iterator[CountingStore]:
    """The world's store, while a reconciler's loop runs on it."""
    counting = CountingStore(world.store)
    backend = ScriptedBackend(world.platform)
    target = Target(policy=Policy(), capabilities=backend.capabilities)
    pace = reconciler.Pace(poll=0.005)
    loop = reconciler.Reconciler(counting, {"local": backend}, {"local": target}, RULES, pace, "me", app.clock, lambda: 0.5)
    thread = threading.Thread(target=loop.loop)
    thread.start()
    yield counting
    loop.stop()
    thread.join()


def comes(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not true():
        assert time.monotonic() < until
        time.sleep(0.001)


def test_while_no_task_lives_leases_are_kept_and_little_is_read(store: CountingStore) -> None:
    comes(lambda: store.calls["hold"] >= 20 * (reconciler.IDLE_POLLS + 1))
    assert store.calls["due"] <= 2 * (20 + 3)  # both lanes, in each pass
    assert store.calls["watched"] <= 1
    assert store.calls["census"] == 1
    assert store.calls["save"] == 0


def test_a_new_task_is_seen_at_once_and_looked_after(world: World, store: CountingStore) -> None:
    comes(lambda: store.calls["hold"] >= 20)
    service = world.service()
    task_id = service.create(ANONYMOUS, Task(executors=(Executor(image="i", command=("c",)),))).result()
    comes(lambda: b"QUEUED" not in service.get_json(ANONYMOUS, task_id, View.MINIMAL))
    held, due = store.calls["hold"], store.calls["due"]
    comes(lambda: store.calls["hold"] >= held + 50)
    assert store.calls["due"] >= due + 2 * 45, "with a live task each poll is a whole pass"


class LateBackend(ScriptedBackend):
    """Cannot tell at first what there is."""

    surveys = 0

    def survey(self) -> Iterator[Handle]:
        self.surveys += 1
        if self.surveys == 1:
            raise errors.Unavailable("not yet")
        return super().survey()


def test_a_platform_that_could_not_tell_what_there_is_is_asked_again_soon(world: World) -> None:
    backend = LateBackend(world.platform)
    keeper = upkeep.Upkeep(world.store, {"local": backend})
    now = utc()
    for later in (datetime.timedelta(), upkeep.SURVEY_AGAIN, 2 * upkeep.SURVEY_AGAIN, upkeep.SURVEY_INTERVAL):
        keeper.survey(now + later, frozenset({0}))
    assert backend.surveys == 2
    keeper.survey(now + 2 * upkeep.SURVEY_INTERVAL, frozenset({0}))
    assert backend.surveys == 3


def live() -> dict[str, float]:
    """The metric `tes_tasks`."""
    return {sample.labels["state"]: sample.value for metric in telemetry.TASKS.collect() for sample in metric.samples}


def ended() -> float:
    """The metric `tes_tasks_ended_total`, over all labels."""
    return sum(sample.value for metric in telemetry.TASKS_ENDED.collect() for sample in metric.samples if sample.name.endswith("_total"))


def test_scans_are_work_and_nobodys_tasks(world: World) -> None:
    world.store.insert([a_record("a"), a_record("b", owner=SCANS.owner), a_record("c", owner=SCANS.owner, state=State.RUNNING)]).result()
    backend = ScriptedBackend(world.platform)
    keeper = upkeep.Upkeep(world.store, {"local": backend})
    keeper.count(world.clock())
    assert not keeper.idle
    assert live() == {State.QUEUED: 1, State.INITIALIZING: 0, State.RUNNING: 0}
    before = ended()
    world.settle(world.reconciler(backend), lambda: not any(world.store.census().values()))
    assert ended() - before == 1
