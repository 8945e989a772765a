"""A scan that waits for one backend does not hold back the tasks of another one for long."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import msgspec
import pytest

from tes_server.control.reconciler import Reconciler
from tes_server.control.scans import ELSEWHERE
from tes_server.model.principal import Principal
from tes_server.model.run import Observation, Phase, Room
from tes_server.model.states import State
from tests.scripted import digest_of
from tests.unit.control.scan_case import BAD, ScanWorld, told

FULL = Room(0.0, 10**11, 10**12, 1.0, 10**11, 10**12)
ANN = Principal("ann")
PATIENCE = ELSEWHERE.total_seconds()


@pytest.fixture
def world(tmp_path: pathlib.Path) -> Iterator[ScanWorld]:
    made = ScanWorld(tmp_path / "tasks.sqlite")
    yield made
    made.store.close()


def both(world: ScanWorld) -> Reconciler:
    """`local` is full, `other` is not."""
    other = world.backend()
    other.name = "other"
    return world.reconciler(world.backend(room=lambda _: FULL), others={"other": other})


def on_other(world: ScanWorld) -> str:
    """A task of the backend `other`."""
    there = world.record(world.create())
    moved = msgspec.structs.replace(there, id=f"z{there.id[1:]}", status=msgspec.structs.replace(there.status, backend="other"))
    world.store.insert([moved]).result()
    world.service().cancel(ANN, there.id)
    return moved.id


def test_it_is_made_where_there_is_room_after_a_while(world: ScanWorld) -> None:
    first = world.create()
    loop = both(world)
    loop.tick()
    second = on_other(world)
    for _ in range(int(PATIENCE) - 5):
        loop.tick()
        world.clock.forward(1)
    assert [scan.status.backend for scan in world.scans()] == ["local"], "there may be room any moment"
    world.settle(loop, lambda: world.ended(second))
    assert world.record(second).state is State.COMPLETE
    assert [scan.status.backend for scan in world.scans()] == ["local", "other"]
    assert world.platform.scanned == [f"tool@{digest_of('tool:1')}"]
    for _ in range(100):
        loop.tick()
        world.clock.forward(1)
    assert world.lines(first)[-1].startswith("WAITING_CAPACITY"), "the verdict is there for all"
    assert len(world.scans()) == 2
    assert world.unproven == []


def test_a_scan_that_runs_is_waited_for(world: ScanWorld) -> None:
    world.platform.looks = 10**6
    world.create()
    other = world.backend()
    other.name = "other"
    loop = world.reconciler(others={"other": other})
    loop.tick()
    second = on_other(world)
    for _ in range(2 * int(PATIENCE)):
        loop.tick()
        world.clock.forward(1)
    assert [(scan.status.backend, scan.state) for scan in world.scans()] == [("local", State.RUNNING)]
    assert world.record(second).state is State.QUEUED


def test_the_second_one_refuses_as_well_and_fails_as_well(world: ScanWorld) -> None:
    for end, words in ((told(BAD), "SCAN_REFUSED"), (Observation(phase=Phase.ENDED, report=None), "SCAN_FAILED")):
        world.platform.ends = {"tool": end}
        world.create()
        loop = both(world)
        loop.tick()
        world.clock.forward(PATIENCE)
        second = on_other(world)
        world.settle(loop, lambda second=second: world.ended(second))  # type: ignore[misc]
        assert world.record(second).state is State.SYSTEM_ERROR
        assert world.lines(second)[0].startswith(words), world.lines(second)
        world.clock.forward(4000)


def test_a_failure_that_nobody_looked_at_in_time_is_followed_by_another_round(world: ScanWorld) -> None:
    """The first one still waits for its turn."""
    world.create()
    loop = both(world)
    loop.tick()
    world.clock.forward(PATIENCE)
    second = on_other(world)
    for _ in range(3):
        loop.tick()
    assert len(world.scans()) == 2
    world.service().cancel(ANN, second)
    for _ in range(5):
        loop.hear([world.scans()[1].id])
        loop.tick()
        world.clock.forward(1)
    assert world.scans()[1].state is State.COMPLETE
    world.clock.forward(10_000)
    third = on_other(world)
    world.settle(loop, lambda: world.ended(third))
    assert world.record(third).state is State.COMPLETE
    assert world.unproven == []
