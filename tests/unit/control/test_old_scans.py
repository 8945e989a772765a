"""Which records of scans leave the store, and when."""

from __future__ import annotations

import datetime

import pytest

from tes_server.control import old_scans
from tes_server.control.old_scans import OldScans
from tes_server.model import record as model
from tes_server.model.principal import ALL, SCANS
from tes_server.store.base import VERDICTS_KEPT
from tests.contract.store_contract import a_record, an_end, listed
from tests.scripted import ScriptedBackend
from tests.unit.control.conftest import World

LATE = datetime.timedelta(seconds=1)


def test_scans_that_ended_long_ago_go_and_nothing_else(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(old_scans, "BATCH", 3)
    now = world.clock()
    old = now - VERDICTS_KEPT - LATE
    world.store.insert([an_end(f"old{number}", owner=SCANS.owner, created=old - number * LATE) for number in range(7)]).result()
    kept = [
        an_end("new", owner=SCANS.owner, created=now - VERDICTS_KEPT + LATE),
        an_end("task", created=old),
        an_end("left", owner=SCANS.owner, created=old, lane=model.Lane.ACTIVE, due=now),
        a_record("runs", owner=SCANS.owner, created=old),
    ]
    world.store.insert(kept).result()
    keeper = OldScans(world.store)
    gone = []
    for _ in range(5):
        gone.append(keeper.turn(model.ALL_SHARDS, now))
        assert keeper.turn(model.ALL_SHARDS, now) == 0, "not at once again"
        now += old_scans.PAUSE
    assert sum(gone) == 7
    assert max(gone) <= 3
    assert sorted(listed(world.store, scope=ALL)) == sorted(record.id for record in kept)
    assert keeper.turn(model.ALL_SHARDS, now + old_scans.ROUND) == 1, "new has become old"


def test_each_reconciler_removes_its_own(world: World) -> None:
    now = world.clock()
    ids = [f"scan{number}" for number in range(10)]
    world.store.insert([an_end(each, owner=SCANS.owner, created=now - 2 * VERDICTS_KEPT) for each in ids]).result()
    mine = frozenset(range(32))
    OldScans(world.store).turn(mine, now)
    assert sorted(listed(world.store)) == [each for each in ids if model.shard_of(each) not in mine]


def test_the_reconciler_does_it(world: World) -> None:
    world.store.insert([an_end("old", owner=SCANS.owner, created=world.clock() - 2 * VERDICTS_KEPT)]).result()
    world.reconciler(ScriptedBackend(world.platform)).tick()
    assert listed(world.store) == []
