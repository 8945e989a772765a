"""The shared store is held to the contract, and each of its commands to what Cosmos DB (RU) takes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tes_server.model import record as model
from tes_server.model import run
from tes_server.store import mongo
from tes_server.store.base import Store
from tes_server.store.mongo_account import Account
from tests import mongo_guard, mongo_server
from tests.contract import store_contract
from tests.contract.store_contract import NOW, a_change, a_record, a_verdict, ids_of

pytestmark = pytest.mark.mongo


@pytest.fixture
def guard() -> Iterator[mongo_guard.Guard]:
    made = mongo_guard.Guard()
    yield made
    assert made.refused == []


@contextlib.contextmanager
def opened(mongo_account: Account, guard: mongo_guard.Guard) -> Iterator[mongo.MongoStore]:
    made = mongo.MongoStore(mongo_account, listeners=[guard])
    try:
        yield made
    finally:
        made.close()


class TestMongoStore(store_contract.StoreContract):
    examples = 25

    @pytest.fixture
    def store(self, mongo_account: Account, guard: mongo_guard.Guard) -> Iterator[Store]:
        with opened(mongo_account, guard) as made:
            yield made

    @pytest.fixture
    def peer(self, store: Store, mongo_account: Account, guard: mongo_guard.Guard) -> Iterator[Store]:
        with opened(mongo_account, guard) as made:
            yield made


def test_what_can_be_reached_from_one_place_only_is_for_whoever_is_there(mongo_account: Account, guard: mongo_guard.Guard) -> None:
    names = [f"t{number:02d}" for number in range(40)]
    places = {name: ("", "here", "there")[number % 3] for number, name in enumerate(names)}
    mine = frozenset(range(32))
    with opened(mongo_account, guard) as store:
        for name, place in places.items():
            status = model.Status(backend="local", rule="r", handle=run.Handle("local", f"{name}-1", place=place))
            store.insert([a_record(name, lane=model.Lane.ACTIVE, due=NOW, status=status)]).result()
        shard = {name: model.shard_of(name) in mine for name in names}
        here = {name for name in names if places[name] == "here"}
        due = {name for name in names if shard[name] and not places[name]} | here
        assert set(ids_of(store.due(model.Lane.ACTIVE, mine, NOW, 100, "here"))) == due
        assert set(ids_of(store.due(model.Lane.ACTIVE, frozenset(), NOW, 100, "here"))) == here
        assert set(ids_of(store.due(model.Lane.ACTIVE, mine, NOW, 100))) == due - here
        assert len(store.due(model.Lane.ACTIVE, mine, NOW, 5, "here")) == 5
        # A sweep sees other places too, so that one that is lost is noticed; page by page it meets each once.
        swept: list[str] = []
        while page := ids_of(store.sweep(mine, swept[-1] if swept else "", 7, "here")):
            swept += page
        assert swept == sorted({name for name in names if shard[name]} | here)
        # At its end it is nowhere.
        [record] = store.load([min(here)])
        ended = model.Status(backend="local", rule="r")
        assert store.save([a_change(record, status=ended, lane=model.Lane.ACTIVE)]) == set()
        assert min(here) not in ids_of(store.due(model.Lane.ACTIVE, frozenset(), NOW, 100, "here"))


def test_reconcilers_know_of_each_other(mongo_account: Account, guard: mongo_guard.Guard) -> None:
    now = 1000.0
    with contextlib.ExitStack() as stack:
        stores = [mongo.MongoStore(mongo_account, mongo.Options(lease=20.0), monotonic=lambda: now, listeners=[guard]) for _ in range(2)]
        for store in stores:
            stack.callback(store.close)
        stores[0].hold("one/a", NOW)
        stores[1].hold("two/b", NOW)
        now += 6
        stores[0].hold("one/a", NOW)
        assert stores[0].alive() == stores[1].alive() == {"one/a", "two/b"}
        for _ in range(4):  # two is stopped
            now += 6
            stores[0].hold("one/a", NOW)
        assert stores[0].alive() == {"one/a"}


def test_a_verdict_that_cannot_be_read_is_told_and_not_there(mongo_account: Account, guard: mongo_guard.Guard, caplog: pytest.LogCaptureFixture) -> None:
    with opened(mongo_account, guard) as store, mongo_server.connected(mongo_account) as connection:
        for number in range(5):
            store.keep(a_verdict(number))
        for number, fields in enumerate(({"verdict": '{"outcome": "MAYBE"}'}, {"verdict": 7, "scanned": None}, {"verdict": None, "scanned": "x"})):
            key = a_verdict(number).key
            assert connection.meta.update_one({"_id": f"verdict/{key.digest}/{key.policy}"}, {"$set": fields}).matched_count
        assert store.verdicts([a_verdict(0).key, a_verdict(3).key]) == {a_verdict(3).key: a_verdict(3)}
        assert store.all_verdicts(None, 2) == [a_verdict(3), a_verdict(4)], "a page is full all the same"
        assert {entry.message for entry in caplog.records} == {"store.verdict_unreadable"}
        for number in range(3):
            store.keep(a_verdict(number))
        assert store.all_verdicts(None, 10) == [a_verdict(number) for number in range(5)]
