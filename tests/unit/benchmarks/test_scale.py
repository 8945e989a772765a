"""The stores that `scale` fills: as many tasks as it says, and none that waits."""

from __future__ import annotations

import datetime
import pathlib

import pytest

from benchmarks import scale
from benchmarks.store import made
from tes_server.model.principal import Scope
from tes_server.model.record import ALL_SHARDS, Lane, Query
from tes_server.store import sqlite


def test_a_store_that_is_kept_is_filled_up_and_waits_for_nothing(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "GROUP", 10)
    data = scale.filled(tmp_path, 25)
    now = datetime.datetime.now(datetime.UTC)
    store = sqlite.SqliteStore(data / "tasks.sqlite")
    newest = store.page(Query(scope=Scope(None), size=100)).tasks
    assert len(newest) == 25
    store.insert([made(number, ended=False) for number in range(15)]).result()
    store.close()

    assert scale.filled(tmp_path, 25) == data
    store = sqlite.SqliteStore(data / "tasks.sqlite")
    assert store.due(Lane.WAITING, ALL_SHARDS, now, 100) == []
    assert len(store.page(Query(scope=Scope(None), size=100)).tasks) == 40
    store.close()
