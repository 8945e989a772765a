"""Lists of the embedded store: the right index, no more of it than needed, and the right page by every way there is."""

from __future__ import annotations

import datetime
import pathlib
import re
from collections.abc import Iterator

import pytest

from tes_server.model import record as model
from tes_server.model.principal import ALL, Scope
from tes_server.model.states import LIVE, State
from tes_server.store import sqlite, sqlite_lists
from tests.contract.store_contract import ALICE, NOW, a_record, a_task, hold_pages_to_the_model, ids_of
from tests.unit.store import sqlite_steps

MANY = 20_000
QUEUED = model.StateFilter(frozenset({State.QUEUED}))
FAILED = model.StateFilter(frozenset({State.SYSTEM_ERROR}))
COMPLETE = model.StateFilter(frozenset({State.COMPLETE}))

QUERIES = {
    "all": model.Query(scope=ALICE),
    "behind": model.Query(scope=ALICE, after=(NOW + datetime.timedelta(seconds=MANY // 2), "")),
    "state": model.Query(scope=ALICE, state=COMPLETE),
    "states": model.Query(scope=ALICE, state=model.StateFilter(LIVE, canceling=True)),
    "rare state": model.Query(scope=ALICE, state=FAILED),
    "tag": model.Query(scope=ALICE, tags=(("all", "v"),)),
    "rare tag": model.Query(scope=ALICE, tags=(("rare", "v"),)),
    "any tag": model.Query(scope=ALICE, tags=(("all", ""),)),
    "tags": model.Query(scope=ALICE, tags=(("all", "v"), ("rare", ""))),
    "tag and state": model.Query(scope=ALICE, tags=(("all", "v"),), state=FAILED),
    "rare name": model.Query(scope=ALICE, name_prefix="flow-7/"),
    "old name": model.Query(scope=ALICE, name_prefix="flow-0/"),
    "common name": model.Query(scope=ALICE, name_prefix="flow"),
    "no name": model.Query(scope=ALICE, name_prefix="nothing"),
    "name and state": model.Query(scope=ALICE, name_prefix="flow", state=FAILED),
    "name and tag": model.Query(scope=ALICE, name_prefix="flow", tags=(("rare", "v"),)),
    "other owner": model.Query(scope=Scope("bob"), name_prefix="flow", tags=(("all", "v"),), state=COMPLETE),
    "all owners": model.Query(scope=ALL),
}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite.SqliteStore]:
    """Many tasks of alice, ten of bob: every 2,000th failed and has the tag `rare`; names in flows of 500."""
    store = sqlite.SqliteStore(tmp_path_factory.mktemp("full") / "tes.db")
    ended = [
        a_record(
            f"{number * 7919 % 100_003:06d}",
            created=NOW + datetime.timedelta(seconds=number),
            owner="bob" if number % 2000 == 7 else "alice",
            state=State.SYSTEM_ERROR if number % 2000 == 0 else State.COMPLETE,
            lane=None,
            due=None,
            task=a_task(name=f"flow-{number // 500}/{number}", tags={"all": "v", "rare": "v"} if number % 2000 == 0 else {"all": "v"}),
        )
        for number in range(MANY)
    ]
    store.insert(ended).result()
    yield store
    store.close()


def statements_of(store: sqlite.SqliteStore, query: model.Query) -> list[str]:
    """The statements that a page runs, values filled in."""
    store.page(query)
    (connection,) = store._readers
    seen: list[str] = []
    connection.set_trace_callback(seen.append)
    try:
        store.page(query)
    finally:
        connection.set_trace_callback(None)
    return [each for each in seen if each.startswith("SELECT")]


def plan_of(store: sqlite.SqliteStore, statement: str) -> list[str]:
    (connection,) = store._readers
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]


@pytest.mark.parametrize("name", QUERIES)
def test_a_minimal_list_reads_indexes_only_and_sorts_no_table(full: sqlite.SqliteStore, name: str) -> None:
    for statement in statements_of(full, QUERIES[name]):
        assert not re.search(r"\b(FROM|JOIN) (task|contents|logs|detail)\b", statement)
        steps = [step for step in plan_of(full, statement) if step.startswith(("SEARCH", "SCAN")) and "subquery" not in step]
        # A name that is no driver is checked in the small rows of `tasks`: no other index holds it.
        allowed = ("COVERING INDEX", "PRIMARY KEY", "SCAN owners", *(["SEARCH t USING INDEX"] if "t.name" in statement else []))
        assert all(any(words in step for words in allowed) for step in steps), steps
        if "USE TEMP B-TREE FOR ORDER BY" in plan_of(full, statement):  # only ever what the budget bounds, and the few owners
            assert "by_name" in statement or "owners" in statement


@pytest.mark.parametrize("name", QUERIES)
def test_a_list_looks_at_a_bounded_part_of_many_tasks(full: sqlite.SqliteStore, name: str) -> None:
    full.page(QUERIES[name])
    with sqlite_steps.counted(full, 1000) as thousands:
        page = full.page(QUERIES[name])
    # A scan of all tasks takes over 100, a look-up in each of them over 200.
    assert thousands.so_far < 60
    assert bool(page.tasks) == (name not in {"states", "no name"})


@pytest.mark.parametrize("budget", [1, 3])
def test_pages_equal_the_model_however_the_rounds_fall(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    monkeypatch.setattr(sqlite_lists, "FIRST_BUDGET", budget)
    store = sqlite.SqliteStore(tmp_path / "tes.db")
    hold_pages_to_the_model(store, examples=60)
    store.close()


def test_owners_whose_tasks_are_older_than_the_page_are_not_asked(tmp_path: pathlib.Path) -> None:
    store = sqlite.SqliteStore(tmp_path / "tes.db")
    old = [a_record(f"old-{number}", owner=f"owner-{number}") for number in range(50)]
    store.insert([*old, *(a_record(f"new-{number}", created=NOW + datetime.timedelta(seconds=1 + number)) for number in range(3))]).result()
    query = model.Query(scope=ALL, size=2)
    assert ids_of(store.page(query).tasks) == ["new-2", "new-1"]
    assert len(statements_of(store, query)) == 2  # the heads of all owners, and one owner's page
    store.close()


def test_one_owner_waiting_with_many_is_not_scanned(tmp_path: pathlib.Path) -> None:
    store = sqlite.SqliteStore(tmp_path / "tes.db")
    store.insert([a_record(f"a{number}", created=NOW + datetime.timedelta(seconds=number)) for number in range(5000)] + [a_record("b", owner="bob")]).result()
    store.due(model.Lane.WAITING, model.ALL_SHARDS, NOW, 4)
    with sqlite_steps.counted(store, 100) as hundreds:
        assert ids_of(store.due(model.Lane.WAITING, model.ALL_SHARDS, NOW, 4)) == ["a0", "b", "a1", "a2"]
    assert hundreds.so_far < 10
    store.close()


def test_a_status_update_leaves_the_spec_alone(tmp_path: pathlib.Path) -> None:
    store = sqlite.SqliteStore(tmp_path / "tes.db")
    record = a_record("a", task=a_task(description="x" * 1_000_000))
    store.insert([record]).result()
    log = tmp_path / "tes.db-wal"
    before = log.stat().st_size
    change = model.Change(id="a", revision=0, state=State.RUNNING, canceling=False, lane=model.Lane.ACTIVE, due=NOW, status=record.status)
    assert store.save([change]) == set()
    assert log.stat().st_size - before < 50_000
    store.close()


@pytest.mark.parametrize("view", model.View)
def test_a_task_of_somebody_else_is_not_read(tmp_path: pathlib.Path, view: model.View) -> None:
    """How long the answer takes would tell that it is there."""
    store = sqlite.SqliteStore(tmp_path / "tes.db")
    store.insert([a_record("a", owner="bob", task=a_task(description="x" * 1_000_000))]).result()
    assert store.get(Scope("bob"), "a", view) is not None
    assert store.get(ALICE, "b", view) is None
    statements: list[str] = []
    with store._reading() as connection:
        connection.set_trace_callback(statements.append)
    assert store.get(ALICE, "a", view) is None
    assert statements
    assert not any("t.id" in each for each in statements), statements
    store.close()
