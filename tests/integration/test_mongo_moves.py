"""Records that go and come on bad days: calls that are not answered, and what is left in the collections."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tes_server.control.retention import Retention
from tes_server.model import record as model
from tes_server.model.states import State
from tes_server.store import mongo
from tes_server.store.base import Restored
from tes_server.store.mongo_account import Account
from tes_server.store.mongo_account import account as account_of
from tests import mongo_guard, mongo_proxy, mongo_server
from tests.contract.store_contract import LARGE, NOW, a_change, a_record, an_end, listed, rested, whole

pytestmark = pytest.mark.mongo

REFUSALS = {"cut": None, "throttled": mongo_proxy.throttled(30), "no primary": mongo_proxy.failure(10107)}
YEAR = datetime.timedelta(days=365)


@pytest.fixture
def proxy(mongo_account: Account) -> Iterator[mongo_proxy.Proxy]:
    made = mongo_proxy.Proxy(mongo_account.url)
    yield made
    made.close()


@pytest.fixture
def store(mongo_account: Account, proxy: mongo_proxy.Proxy) -> Iterator[mongo.MongoStore]:
    guard = mongo_guard.Guard()
    made = mongo.MongoStore(account_of(proxy.url, mongo_account.database), mongo.Options(patience=3.0), listeners=[guard])
    made.check()
    yield made
    made.close()
    assert guard.refused == []


def left(mongo_account: Account) -> dict[str, int]:
    """How many documents there are, seen without the proxy."""
    with mongo_server.connected(mongo_account) as direct:
        return {name: direct.database[name].count_documents({}) for name in ("tasks", "parts", "live")}


@pytest.mark.parametrize("reaches", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("answer", REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize("collection", ["tasks", "parts", "live"])
def test_a_removal_that_is_not_answered_leaves_nothing(
    store: mongo.MongoStore, proxy: mongo_proxy.Proxy, mongo_account: Account, collection: str, answer: dict[str, Any] | None, reaches: bool
) -> None:
    changed = msgspec.structs.replace(LARGE, id="changed")
    store.insert([LARGE, an_end("small"), changed]).result(10)
    old = rested(store)
    assert store.save([a_change(changed, status=changed.status)]) == set()
    before = left(mongo_account)["parts"]
    rule = proxy.rule("delete", answer, collection=collection, times=2, reaches=reaches)
    assert store.expire(old) == 2
    assert rule.met == 2
    assert left(mongo_account) == {"tasks": 1, "parts": before // 2, "live": 0}
    assert [each.id for each in whole(store, "changed", "large", "small")] == ["changed"]


@pytest.mark.parametrize("reaches", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("answer", REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize(("command", "collection"), [("insert", "tasks"), ("insert", "parts"), ("update", "tasks")])
def test_what_is_restored_without_an_answer_is_there_once(
    store: mongo.MongoStore, proxy: mongo_proxy.Proxy, mongo_account: Account, command: str, collection: str, answer: dict[str, Any] | None, reaches: bool
) -> None:
    older = msgspec.structs.replace(LARGE, id="older", revision=1, state=State.RUNNING)
    newer = msgspec.structs.replace(LARGE, id="older", revision=9)
    store.insert([older]).result(10)
    rule = proxy.rule(command, answer, collection=collection, times=2, reaches=reaches)
    assert store.restore([LARGE, newer]) == {"large": Restored.MADE, "older": Restored.CHANGED}
    assert rule.met == 2
    assert whole(store, "large", "older") == [LARGE, newer]
    pieces = left(mongo_account)["parts"]
    assert store.expire([LARGE]) == 1
    assert left(mongo_account)["parts"] == pieces // 2, "nothing was kept twice"


def test_live_output_goes_with_its_task(store: mongo.MongoStore, mongo_account: Account) -> None:
    running = a_record("a", state=State.RUNNING, lane=model.Lane.ACTIVE)
    store.insert([running]).result(10)
    store.watch("a", NOW)
    store.close()
    again = mongo.MongoStore(mongo_account)
    assert left(mongo_account)["live"] == 1
    assert again.save([a_change(running, state=State.COMPLETE, lane=None, due=None)]) == set()
    assert again.expire(rested(again)) == 1
    assert left(mongo_account) == {"tasks": 0, "parts": 0, "live": 0}
    again.close()


def test_two_reconcilers_remove_their_own_and_meet_without_harm(store: mongo.MongoStore, mongo_account: Account) -> None:
    store.insert([an_end(f"t{number:03d}") for number in range(120)]).result(10)
    other = mongo.MongoStore(mongo_account)
    half = frozenset(range(32))
    mine, theirs = (Retention(each, YEAR / 2) for each in (store, other))
    now = NOW + YEAR
    gone = mine.batch(half, now) + theirs.batch(model.ALL_SHARDS - half, now)
    assert gone == 120
    assert listed(store) == []
    store.insert([an_end(f"u{number:03d}") for number in range(50)]).result(10)
    old = rested(store)
    assert (other.expire(old), store.expire(old)) == (50, 0), "while shards change hands"
    other.close()


def test_one_that_cannot_be_read_stays_and_holds_up_no_other(store: mongo.MongoStore, mongo_account: Account, caplog: pytest.LogCaptureFixture) -> None:
    store.insert([an_end(name) for name in "abc"]).result(10)
    with mongo_server.connected(mongo_account) as direct:
        direct.tasks.update_one({"_id": "b"}, {"$set": {"status": "{}"}})
    assert Retention(store, YEAR / 2).batch(model.ALL_SHARDS, NOW + YEAR) == 2
    assert listed(store) == ["b"]
    assert "store.record_unreadable" in {entry.message for entry in caplog.records}
