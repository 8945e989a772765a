"""Copies between stores of one kind: what is copied, what a repeat does, what is told. Other pairs are in tests/integration."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence

import msgspec
import pytest

from tes_server import errors
from tes_server.model import record as model
from tes_server.store import copy as copying
from tes_server.store.base import Restored, Store
from tes_server.store.copy import Progress, Some
from tes_server.store.sqlite import SqliteStore
from tests.contract.store_contract import LARGE, NOW, SECOND, a_change, a_record, a_verdict, an_end, listed, whole


@pytest.fixture
def source(tmp_path: pathlib.Path) -> Iterator[Store]:
    made = SqliteStore(tmp_path / "source.sqlite")
    yield made
    made.close()


@pytest.fixture
def target(tmp_path: pathlib.Path) -> Iterator[SqliteStore]:
    made = SqliteStore(tmp_path / "target.sqlite")
    yield made
    made.close()


def copied(source: Store, target: Store) -> Progress:
    return copying.copy(source, target, lambda _what, _progress: None)


def figures(progress: Progress) -> tuple[int, int, int, int]:
    return progress.seen, progress.copied, progress.changed, progress.there


def test_all_is_copied_once_and_a_repeat_brings_what_changed(source: Store, target: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "PAGE", 7)
    monkeypatch.setattr(copying, "BATCH", 5)
    records = [LARGE, *(a_record(f"t{number:02d}", revision=number % 3) for number in range(40)), an_end("z")]
    source.insert(records).result()
    target.insert([a_record("0"), a_record("t05x"), a_record("zz")]).result()
    assert figures(copied(source, target)) == (42, 42, 0, 0)
    ids = [record.id for record in records]
    assert whole(target, *ids) == whole(source, *ids) == records
    assert figures(copied(source, target)) == (42, 0, 0, 42)
    assert source.save([a_change(records[3], canceling=True)]) == set()
    source.insert([a_record("new")]).result()
    assert target.save([a_change(records[4], canceling=True)]) == set()
    done = copied(source, target)
    assert figures(done) == (43, 1, 1, 41)
    assert done.missing == Some()
    assert whole(target, records[3].id)[0].canceling
    assert whole(target, records[4].id)[0].canceling, "newer there"
    assert len(listed(target)) == 46


def test_other_tasks_and_large_ones_are_told(source: Store, target: SqliteStore) -> None:
    other = a_record("b", created=NOW + SECOND, revision=0)
    source.insert([a_record("a"), a_record("b", revision=3), a_record("c"), a_record("d")]).result()
    target.insert([other, a_record("c", owner="bob", revision=-1)]).result()

    class Small(SqliteStore):
        def restore(self, records: Sequence[model.Record]) -> dict[str, Restored]:
            fits = [record for record in records if record.id != "d"]
            return {**super().restore(fits), **{record.id: Restored.TOO_LARGE for record in records if record.id == "d"}}

    small = Small(target._path)
    done = copied(source, small)
    small.close()
    assert figures(done) == (4, 1, 0, 0)
    assert (done.other, done.too_large, done.missing) == (Some(2, ["b", "c"]), Some(1, ["d"]), Some(3, ["b", "c", "d"]))
    assert whole(target, "b") == [other]


def test_what_a_store_only_says_it_has_kept_is_missed(source: Store, target: SqliteStore) -> None:
    source.insert([a_record(f"t{number:02d}") for number in range(30)]).result()

    class Forgetful(SqliteStore):
        def restore(self, records: Sequence[model.Record]) -> dict[str, Restored]:
            return {record.id: Restored.MADE for record in records}

    forgetful = Forgetful(target._path)
    done = copied(source, forgetful)
    forgetful.close()
    assert done.copied == done.missing.count == 30
    assert done.missing.first == [f"t{number:02d}" for number in range(copying.NAMED)]


def test_a_copy_that_broke_off_is_taken_up(source: Store, target: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "BATCH", 5)
    source.insert([a_record(f"t{number:02d}") for number in range(30)]).result()
    calls = 0

    class Away(SqliteStore):
        def restore(self, records: Sequence[model.Record]) -> dict[str, Restored]:
            nonlocal calls
            calls += 1
            if calls == 4:
                raise errors.Unavailable("away")
            return super().restore(records)

    away = Away(target._path)
    with pytest.raises(errors.Unavailable):
        copied(source, away)
    assert figures(copied(source, away)) == (30, 15, 0, 15)
    away.close()
    assert listed(target) == listed(source)


def test_progress_is_told(source: Store, target: Store) -> None:
    source.insert([a_record(f"t{number}") for number in range(3)]).result()
    told: list[tuple[str, int]] = []
    copying.copy(source, target, lambda what, progress: told.append((what, progress.seen)))
    assert told == [("copied", 1), ("copied", 2), ("copied", 3), ("checked", 1), ("checked", 2), ("checked", 3)]


def test_running_tasks_keep_their_place(source: Store, target: Store) -> None:
    running = msgspec.structs.replace(a_record("a"), lane=model.Lane.ACTIVE, due=None, revision=2)
    source.insert([running]).result()
    copied(source, target)
    assert [each.id for each in target.sweep(model.ALL_SHARDS, "", 10)] == ["a"]


def test_verdicts_go_along_and_newer_ones_stay(source: Store, target: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "VERDICTS", 2)
    mine = [a_verdict(number) for number in range(5)]
    for verdict in mine:
        source.keep(verdict)
    target.keep(newer := a_verdict(1, late=1))
    target.keep(a_verdict(2, late=-1))
    target.keep(own := a_verdict(7))
    assert copied(source, target).verdicts == 4
    assert target.all_verdicts(None, 10) == [mine[0], newer, *mine[2:], own]
    assert copied(source, target).verdicts == 0
