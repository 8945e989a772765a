"""The shared store on bad days: throttled, cut between a write and its answer, electing, away, frozen. Through `tests/mongo_proxy.py`."""

from __future__ import annotations

import concurrent.futures
import logging
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tes_server import errors
from tes_server.model import record as model
from tes_server.model import task
from tes_server.model.principal import ALL
from tes_server.model.states import State
from tes_server.store import mongo, mongo_doubts
from tes_server.store import mongo_documents as documents
from tes_server.store.mongo_account import Account
from tes_server.store.mongo_account import account as account_of
from tests import mongo_proxy, mongo_server
from tests.contract.store_contract import NOW, a_change, a_record, a_task, listed

pytestmark = pytest.mark.mongo

BIG = a_task(inputs=(task.Input(path="/a", content="x" * 2_000_000),))


@pytest.fixture
def proxy(mongo_account: Account) -> Iterator[mongo_proxy.Proxy]:
    made = mongo_proxy.Proxy(mongo_account.url)
    yield made
    made.close()


@pytest.fixture
def store(mongo_account: Account, proxy: mongo_proxy.Proxy) -> Iterator[mongo.MongoStore]:
    made = mongo.MongoStore(account_of(proxy.url, mongo_account.database), mongo.Options(patience=3.0))
    made.check()
    yield made
    made.close()


def stored(mongo_account: Account) -> tuple[list[dict[str, Any]], int]:
    """What is there, seen without the proxy: tasks, and how many pieces."""
    with mongo_server.connected(mongo_account) as direct:
        return list(direct.tasks.find()), direct.parts.count_documents({})


REFUSALS = {
    "cut": None,
    "throttled": mongo_proxy.throttled(30),
    "time is over": mongo_proxy.failure(50),
    "no primary": mongo_proxy.failure(10107),
    "stepping down": mongo_proxy.failure(189),
}


@pytest.mark.parametrize("reaches", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("answer", REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize("collection", ["parts", "tasks"])
def test_a_create_that_is_not_answered_is_made_once(
    store: mongo.MongoStore, proxy: mongo_proxy.Proxy, mongo_account: Account, collection: str, answer: dict[str, Any] | None, reaches: bool
) -> None:
    rule = proxy.rule("insert", answer, collection=collection, times=2, reaches=reaches)
    record = a_record("a", task=BIG)
    store.insert([record]).result(10)
    assert rule.met == 2
    tasks, pieces = stored(mongo_account)
    assert [each["_id"] for each in tasks] == ["a"]
    assert pieces == 2
    assert store.get(ALL, "a", model.View.FULL) == record
    with pytest.raises(errors.Conflict):
        store.insert([a_record("a")]).result(10)
    assert stored(mongo_account)[1] == pieces, "what was refused leaves no pieces"


@pytest.mark.parametrize("reaches", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("answer", REFUSALS.values(), ids=REFUSALS)
def test_a_save_that_is_not_answered_wins_once(store: mongo.MongoStore, proxy: mongo_proxy.Proxy, answer: dict[str, Any] | None, reaches: bool) -> None:
    records = [a_record(name) for name in "abc"]
    store.insert(records).result(10)
    rule = proxy.rule("update", answer, collection="tasks", times=2, reaches=reaches)
    stale = a_change(a_record("b", revision=7))
    assert store.save([a_change(records[0], state=State.RUNNING), stale, a_change(records[2], state=State.RUNNING)]) == {"b"}
    assert rule.met == 2
    found = {each.id: (each.state, each.revision) for each in store.load("abc")}
    assert found == {"a": (State.RUNNING, 1), "b": (State.QUEUED, 0), "c": (State.RUNNING, 1)}


def test_a_save_that_is_told_as_lost_but_was_made_keeps_its_parts(store: mongo.MongoStore, proxy: mongo_proxy.Proxy, mongo_account: Account) -> None:
    """Its answer was lost, and another save came on top before it could be read back: that one still points to what it brought."""
    store.insert([a_record("a")]).result()
    logs = model.Logs(outputs=tuple(task.OutputFileLog(url=f"file:///{number}", path="/p", size_bytes="1") for number in range(1000)))
    rule = proxy.rule("update", collection="tasks", times=1000, reaches=True)
    other = mongo.MongoStore(mongo_account)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        lost = pool.submit(store.save, [a_change(a_record("a"), state=State.RUNNING, logs=logs)])
        until = time.monotonic() + 10
        while other.save([a_change(a_record("a", revision=1), state=State.RUNNING, canceling=True)]):
            assert time.monotonic() < until
        rule.left = 0
        assert lost.result(20) == {"a"}
    other.close()
    found = store.get(ALL, "a", model.View.FULL)
    assert isinstance(found, model.Record)
    assert (found.canceling, found.logs, found.revision) == (True, logs, 2)


@pytest.mark.parametrize("answer", REFUSALS.values(), ids=REFUSALS)
def test_reads_are_repeated(store: mongo.MongoStore, proxy: mongo_proxy.Proxy, answer: dict[str, Any] | None) -> None:
    store.insert([a_record("a", task=BIG)]).result(10)
    for collection in ("tasks", "parts"):
        proxy.rule("find", answer, collection=collection)
    proxy.rule("aggregate", answer)
    assert store.page(model.Query(scope=ALL, view=model.View.FULL)).tasks == [store.get(ALL, "a", model.View.FULL)]
    assert store.census()[State.QUEUED] == 1


def test_parts_of_a_group_that_are_throttled_are_sent_again(store: mongo.MongoStore, proxy: mongo_proxy.Proxy, mongo_account: Account) -> None:
    """Cosmos DB carries out some documents of a call and refuses others."""
    some = {"ok": 1.0, "n": 0, "writeErrors": [{"index": 0, "code": 16500, "errmsg": "RetryAfterMs=20"}]}
    for collection in ("parts", "tasks"):
        proxy.rule("insert", some, collection=collection, reaches=True)
    store.insert([a_record("a", task=BIG), a_record("b", task=BIG)]).result(10)
    proxy.rule("update", {**some, "nModified": 0}, collection="tasks", reaches=True)
    assert store.save([a_change(a_record("a"), canceling=True), a_change(a_record("b"), canceling=True)]) == set()
    assert [each["revision"] for each in stored(mongo_account)[0]] == [1, 1]


def test_the_server_says_how_long_to_wait(store: mongo.MongoStore, proxy: mongo_proxy.Proxy) -> None:
    proxy.rule("find", mongo_proxy.throttled(600), collection="tasks")
    begun = time.monotonic()
    assert store.get(ALL, "a", model.View.MINIMAL) is None
    assert time.monotonic() - begun >= 0.45


def test_an_outage_is_told_once_and_ends_by_itself(
    store: mongo.MongoStore, proxy: mongo_proxy.Proxy, mongo_account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with proxy.away(), concurrent.futures.ThreadPoolExecutor(8) as pool:
        begun = time.monotonic()
        calls = [pool.submit(store.get, ALL, "a", model.View.MINIMAL) for _ in range(8)]
        create = store.insert([a_record("a")])
        waiting: list[concurrent.futures.Future[Any]] = [*calls, create]
        for call in waiting:
            with pytest.raises(errors.Unavailable, match="does not answer") as caught:
                call.result(20)
            assert caught.value.retry_after >= 1
        assert time.monotonic() - begun < 10
        with pytest.raises(errors.Unavailable):
            store.check()
    store.check()
    store.insert([a_record("a")]).result(10)
    assert listed(store) == ["a"]
    said = [entry.message for entry in caplog.records if entry.message.startswith("store.")]
    assert said == ["store.lost", "store.found"]


def test_a_short_outage_is_waited_out(store: mongo.MongoStore, proxy: mongo_proxy.Proxy) -> None:
    with proxy.away():
        create = store.insert([a_record("a")])
        threading.Event().wait(0.8)
    create.result(10)
    assert listed(store) == ["a"]


def test_a_frozen_connection_costs_no_more_than_patience(store: mongo.MongoStore, proxy: mongo_proxy.Proxy) -> None:
    store.insert([a_record("a")]).result(10)
    with proxy.frozen():
        begun = time.monotonic()
        with pytest.raises(errors.Unavailable):
            store.get(ALL, "a", model.View.MINIMAL)
        assert time.monotonic() - begun < 6
    found = store.get(ALL, "a", model.View.MINIMAL)
    assert found is not None


def test_a_slow_store_is_no_dead_one(store: mongo.MongoStore, proxy: mongo_proxy.Proxy) -> None:
    proxy.delay = 0.3
    store.insert([a_record("a")]).result(20)
    assert listed(store) == ["a"]


def test_a_renewal_that_is_not_answered_keeps_the_work(store: mongo.MongoStore, proxy: mongo_proxy.Proxy) -> None:
    rule = proxy.rule("update", collection="meta", times=2, reaches=True)
    assert store.hold("one", NOW) == model.ALL_SHARDS
    assert rule.met == 2


def test_secrets_are_in_no_error_and_no_log(mongo_account: Account, caplog: pytest.LogCaptureFixture) -> None:
    secret = "s3cr3t%2Fkey=="
    caplog.set_level(logging.DEBUG, "tes_server")
    wrong = account_of(f"mongodb://user:{secret}@127.0.0.1:1/?retryWrites=false", mongo_account.database)
    made = mongo.MongoStore(wrong, mongo.Options(patience=0.3))
    with pytest.raises(errors.Unavailable) as caught:
        made.check()
    made.close()
    text = caplog.text + str(caught.value) + str([entry.__dict__ for entry in caplog.records])
    assert "store.lost" in text
    assert not any(form in text for form in (secret, "s3cr3t/key=="))


def test_a_create_of_which_nobody_knows_is_taken_back(
    store: mongo.MongoStore, proxy: mongo_proxy.Proxy, mongo_account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    rule = proxy.rule("insert", collection="tasks", times=1000, reaches=True)
    moved: list[str] = []
    unknown = [store.insert([a_record("a", task=BIG)], undo=moved.append), store.insert([a_record("k", task=BIG)])]
    for create in unknown:
        with pytest.raises(errors.Unavailable):
            create.result(20)
    assert rule.met > 2
    until = time.monotonic() + 20
    while [each["_id"] for each in stored(mongo_account)[0]] != ["k"]:
        assert time.monotonic() < until
        time.sleep(0.05)
    rule.left = 0
    store.insert([a_record("a")]).result(10)
    with pytest.raises(errors.Conflict):
        store.insert([a_record("k", task=BIG)]).result(10)
    assert sorted(each["_id"] for each in stored(mongo_account)[0]) == ["a", "k"]
    assert stored(mongo_account)[1] == 2, "the pieces of what was taken back are gone"
    assert [entry.message for entry in caplog.records].count("create.taken_back") == 1
    assert not moved


def test_a_create_that_runs_already_is_left_to_its_caller(store: mongo.MongoStore, proxy: mongo_proxy.Proxy, mongo_account: Account) -> None:
    proxy.rule("insert", collection="tasks", times=1000, reaches=True)
    proxy.rule("delete", mongo_proxy.failure(10107), times=2)  # the store is slow to come back
    moved: queue.SimpleQueue[str] = queue.SimpleQueue()
    failures = iter([errors.Unavailable("away again")])

    def undo(task_id: str) -> None:
        for failure in failures:
            raise failure
        moved.put(task_id)

    create = store.insert([a_record("a")], undo=undo)
    other = mongo.MongoStore(mongo_account)
    until = time.monotonic() + 10
    while other.save([a_change(a_record("a"), state=State.RUNNING)]):
        assert time.monotonic() < until
    other.close()
    with pytest.raises(errors.Unavailable):
        create.result(20)
    assert moved.get(timeout=20) == "a"
    (there,) = stored(mongo_account)[0]
    assert there["state"] == "RUNNING"
    found = store.get(ALL, "a", model.View.FULL)
    assert isinstance(found, model.Record)
    assert found.task == a_task()


@pytest.mark.parametrize("moved", [False, True], ids=["as it came", "moved"])
def test_a_create_that_comes_after_it_was_taken_back_goes_too(
    store: mongo.MongoStore, proxy: mongo_proxy.Proxy, mongo_account: Account, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, moved: bool
) -> None:
    """The write lay in a server that stood still."""
    monkeypatch.setattr(mongo_doubts, "LATE", 2.0)
    caplog.set_level(logging.WARNING)
    new = documents.new(a_record("a"))
    rule = proxy.rule("insert", collection="tasks", times=1000)
    monkeypatch.setattr(documents, "new", lambda record: new)
    undone: queue.SimpleQueue[str] = queue.SimpleQueue()
    with pytest.raises(errors.Unavailable):
        store.insert([a_record("a")], undo=undone.put).result(20)
    assert rule.met
    until = time.monotonic() + 20
    while not any(entry.message == "create.taken_back" for entry in caplog.records):
        assert time.monotonic() < until
        time.sleep(0.01)
    with mongo_server.connected(mongo_account) as direct:
        direct.tasks.insert_one({**new.document, "revision": int(moved)})
    if moved:
        assert undone.get(timeout=20) == "a"
        return
    while stored(mongo_account)[0]:
        assert time.monotonic() < until
        time.sleep(0.05)
