"""What is due: the rule of `Store.due`, whichever of its ways the embedded store goes, and no more of the queue looked at than that needs."""

from __future__ import annotations

import datetime
import itertools
import pathlib
from collections.abc import Collection

import hypothesis
import hypothesis.strategies as st
import pytest

from tes_server.model.record import ALL_SHARDS, Lane, Record, shard_of
from tes_server.store import base, sqlite
from tests.contract.store_contract import NOW, a_record
from tests.unit.store import sqlite_steps

SECOND = datetime.timedelta(seconds=1)

Waits = tuple[int, int, int | None]
"""number of the owner, seconds from NOW to its creation, and from there to its due time (None: beyond FAR)"""

WAITS = st.tuples(st.integers(0, 2), st.sampled_from((-30, -2, -1, 1, 20)), st.sampled_from((0, 1, 2, 25, None)))


def record(number: int, waits: Waits) -> Record:
    owner, created, after = waits
    at = NOW + created * SECOND
    due = at + (after * SECOND if after is not None else base.FAR + 100 * SECOND)
    return a_record(f"{number:026}", owner=f"o{owner}", created=at, due=due, lane=Lane.WAITING)


def due(records: Collection[Record], shards: Collection[int], limit: int) -> list[str]:
    """The rule, word for word."""
    is_due = [each for each in records if each.due is not None and (each.due <= NOW or each.due == each.created or each.due > NOW + base.FAR)]
    mine = sorted((each for each in is_due if shard_of(each.id) in shards), key=lambda each: (each.created, each.id))
    owners = [[each for each in mine if each.owner == owner] for owner in sorted({each.owner for each in mine})]
    ranks = itertools.zip_longest(*owners)
    return [each.id for rank in ranks for each in sorted((one for one in rank if one), key=lambda one: (one.created, one.id))][:limit]


@hypothesis.settings(max_examples=60)
@hypothesis.given(waits=st.lists(WAITS, max_size=12), limit=st.integers(1, 12), half=st.booleans())
def test_what_is_due_is_the_same_by_every_way(waits: list[Waits], limit: int, half: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    store = sqlite.SqliteStore(tmp_path_factory.mktemp("due") / "tasks.sqlite")
    try:
        records = [record(number, each) for number, each in enumerate(waits)]
        if records:
            store.insert(records).result()
        shards = frozenset(range(32)) if half else ALL_SHARDS
        assert [each.id for each in store.due(Lane.WAITING, shards, NOW, limit)] == due(records, shards, limit)
    finally:
        store.close()


def test_a_crowd_that_was_put_off_is_not_looked_at(tmp_path: pathlib.Path) -> None:
    store = sqlite.SqliteStore(tmp_path / "tasks.sqlite")
    try:
        crowd = [record(number, (0, -30, 100)) for number in range(5000)]
        for start in range(0, len(crowd), 1000):
            store.insert(crowd[start : start + 1000]).result()
        store.insert([record(9000 + number, (1, -1, 0)) for number in range(3)]).result()
        store.due(Lane.WAITING, ALL_SHARDS, NOW, 10)
        with sqlite_steps.counted(store, 100) as hundreds:
            assert len(store.due(Lane.WAITING, ALL_SHARDS, NOW, 10)) == 3
        assert hundreds.so_far < 20
    finally:
        store.close()
