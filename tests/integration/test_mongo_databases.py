"""Databases as a server may find them: not prepared, of a newer version, with tasks that an older or newer program or a person wrote."""

from __future__ import annotations

import datetime
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

import click.testing
import msgspec
import pytest

from tes_server import cli, errors
from tes_server.model import record as model
from tes_server.model import task
from tes_server.model.principal import ALL
from tes_server.model.states import State
from tes_server.store import mongo, mongo_documents, mongo_reads, mongo_schema, parts
from tes_server.store.mongo_account import Account, Product
from tes_server.store.mongo_connection import Connection
from tests import mongo_proxy, mongo_server
from tests.contract.store_contract import NOW, SECOND, a_change, a_record, a_task, ids_of, listed

pytestmark = pytest.mark.mongo


@pytest.fixture
def store(mongo_account: Account) -> Iterator[mongo.MongoStore]:
    made = mongo.MongoStore(mongo_account)
    yield made
    made.close()


@pytest.fixture
def direct(mongo_account: Account) -> Iterator[Connection]:
    with mongo_server.connected(mongo_account) as connection:
        yield connection


@pytest.fixture
def bare(mongo_account: Account) -> Iterator[Account]:
    """A database that nobody prepared."""
    with mongo_server.database(mongo_account.url) as made:
        with mongo_server.connected(made) as connection:
            connection.database.client.drop_database(made.database)
        yield made


def said(mongo_account: Account, *words: str, data: pathlib.Path) -> tuple[int, str]:
    environment = {"TES_SERVER__STORE__URL": mongo_account.url, "TES_SERVER__STORE__DATABASE": mongo_account.database}
    done = click.testing.CliRunner().invoke(cli.main, ["store", *words, "--data", str(data)], env=environment)
    return done.exit_code, done.output


@pytest.fixture
def quiet() -> Iterator[None]:
    """The commands set the root logger up."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("quiet")
def test_init_check_and_migrate(bare: Account, tmp_path: pathlib.Path) -> None:
    with mongo_server.connected(bare) as connection:
        connection.database["theirs"].insert_one({})
    store = mongo.MongoStore(bare)
    with pytest.raises(errors.Unavailable, match="tes-server store init"):
        store.insert([a_record("a")]).result()
    code, text = said(bare, "check", data=tmp_path)
    assert code == 1
    assert "is not prepared" in text
    assert "index tasks.newest is missing" in text
    code, text = said(bare, "init", data=tmp_path)
    assert code == 0
    assert text.count("made ") == len(mongo_schema.COLLECTIONS) + len(mongo_schema.indexes(Product.MONGODB))
    assert said(bare, "init", data=tmp_path)[1].count("made ") == 0
    assert said(bare, "check", data=tmp_path)[0] == 0
    store.insert([a_record("a")]).result()  # the same store goes on without a restart
    assert said(bare, "migrate", data=tmp_path) == (0, f"ok    0 tasks rewritten in the database '{bare.database}' (MongoDB)\n")
    with mongo_server.connected(bare) as connection:
        connection.tasks.drop_index("by_tag")
    assert said(bare, "check", data=tmp_path) == (1, "no    index tasks.by_tag is missing\n")
    store.close()


def test_an_empty_database_is_prepared_by_whoever_comes_first(bare: Account) -> None:
    stores = [mongo.MongoStore(bare) for _ in range(3)]
    for insert in [store.insert([a_record(f"t{number}")]) for number, store in enumerate(stores)]:
        insert.result(30)
    assert listed(stores[0]) == ["t2", "t1", "t0"]
    with mongo_server.connected(bare) as connection:
        assert mongo_schema.check(connection) == []
        connection.meta.delete_one({"_id": "schema"})
    with pytest.raises(errors.Unavailable, match="tes-server store init"):  # not empty: somebody should look at it
        stores[0].check()
    for store in stores:
        store.close()


def test_a_database_that_another_has_just_prepared_is_as_good(bare: Account) -> None:
    """Between a server's look and its own try: it must not ask for `tes-server store init`."""
    with mongo_server.connected(bare) as connection:
        mongo_schema.init(connection)
        assert mongo_schema.prepare_empty(connection)
        connection.meta.delete_one({"_id": "schema"})
        connection.tasks.insert_one({"_id": "a"})
        assert not mongo_schema.prepare_empty(connection)


def test_a_preparation_that_was_cut_off_is_taken_up(bare: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at its first start, a server would never find the database empty again, nor prepared."""
    monkeypatch.setattr(mongo_schema, "OTHERS", 0.2)
    with mongo_server.connected(bare) as connection:
        connection.meta.insert_one({"_id": "preparing", "by": "one that was killed"})
        store = mongo.MongoStore(bare)
        store.insert([a_record("t0")]).result(30)
        store.close()
        assert mongo_schema.check(connection) == []
        assert connection.meta.find_one({"_id": "preparing"}) is None


@pytest.mark.parametrize(
    "edited", [{name: value} for name in ("revision", "members", "owners") for value in ("x", None, 7.5, [7], [{"name": "a", "beat": "b"}])], ids=str
)
def test_leases_that_were_edited_by_hand_are_nobodys(store: mongo.MongoStore, direct: Connection, edited: dict[str, Any]) -> None:
    direct.meta.insert_one({"_id": "shards", "revision": 7, "write": "", "members": [], "owners": [], **edited})
    assert store.hold("one", NOW) == model.ALL_SHARDS
    assert store.alive() == {"one"}


def test_live_output_of_another_version_is_none(store: mongo.MongoStore, direct: Connection) -> None:
    store.insert([a_record("a")]).result()
    direct.live.insert_one({"_id": "a", "tails": '{"attempt": "newer"}', "until": "soon"})
    assert store.tail("a") is None
    assert store.watched(NOW) == set()


def test_cosmos_db_is_never_prepared_by_a_server(bare: Account) -> None:
    """Collections cost money there."""
    store = mongo.MongoStore(msgspec.structs.replace(bare, product=Product.COSMOS_RU))
    with pytest.raises(errors.Unavailable, match="tes-server store init"):
        store.check()
    store.close()


@pytest.mark.usefixtures("quiet")
def test_a_newer_database_is_refused(mongo_account: Account, direct: Connection, store: mongo.MongoStore, tmp_path: pathlib.Path) -> None:
    direct.meta.update_one({"_id": "schema"}, {"$set": {"version": mongo_schema.VERSION + 1}})
    try:
        with pytest.raises(errors.Unavailable, match="use a newer tes-server"):
            store.check()
        for command in ("init", "check"):
            code, text = said(mongo_account, command, data=tmp_path)
            assert code == 2
            assert "use a newer tes-server" in text
    finally:
        direct.meta.update_one({"_id": "schema"}, {"$set": {"version": mongo_schema.VERSION}})


@pytest.mark.usefixtures("quiet")
def test_tasks_of_the_version_before_are_read_moved_and_rewritten(
    mongo_account: Account, direct: Connection, store: mongo.MongoStore, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    names = [f"t{number}" for number in range(5)]
    store.insert([a_record(name) for name in names]).result()
    # As if this program were the next version, which renamed a field.
    monkeypatch.setattr(mongo_documents, "VERSION", 2)
    direct.tasks.update_many({}, {"$rename": {"token": "mark"}})

    def upgrade(old: dict[str, Any]) -> dict[str, Any]:
        return {**{name: value for name, value in old.items() if name != "mark"}, "token": old["mark"], "v": 2}

    monkeypatch.setattr(mongo_documents, "UPGRADES", {1: upgrade})
    assert store.load(["t0"]) == [msgspec.structs.replace(a_record("t0"), task=None)]
    assert store.save([a_change(a_record("t0"), state=State.RUNNING)]) == set()
    assert "older version" in said(mongo_account, "check", data=tmp_path)[1]
    assert "5 tasks rewritten" in said(mongo_account, "migrate", data=tmp_path)[1]
    assert direct.tasks.count_documents({"v": 2, "token": {"$exists": True}, "mark": {"$exists": False}}) == 5
    assert said(mongo_account, "check", data=tmp_path)[0] == 0
    assert [(each.id, each.state) for each in store.load(["t0"])] == [("t0", State.RUNNING)]


@pytest.mark.parametrize(
    "edited",
    [{"v": mongo_documents.VERSION + 1}, {"status": "{}"}, {"parts": 7}, {"owner": 7}],
    ids=["newer", "status", "parts", "owner"],
)
def test_one_unreadable_task_stops_no_other(store: mongo.MongoStore, direct: Connection, caplog: pytest.LogCaptureFixture, edited: dict[str, Any]) -> None:
    lanes = [model.Lane.WAITING, model.Lane.ACTIVE]
    store.insert([a_record(f"{lane[0]}{number}", lane=lane, created=NOW + number * SECOND) for lane in lanes for number in range(3)]).result()
    direct.tasks.update_many({"_id": {"$in": ["W1", "A1"]}}, {"$set": edited})
    assert sorted(ids_of(store.due(model.Lane.WAITING, model.ALL_SHARDS, NOW, 10))) == ["W0", "W2"]
    assert sorted(ids_of(store.due(model.Lane.ACTIVE, model.ALL_SHARDS, NOW, 10))) == ["A0", "A2"]
    assert ids_of(store.sweep(model.ALL_SHARDS, "", 10)) == ["A0", "A2"]
    assert {entry.message for entry in caplog.records} == {"store.record_unreadable"}
    with pytest.raises(errors.Unavailable, match="cannot be read"):
        store.get(ALL, "W1", model.View.FULL)
    for view in model.View:
        page = store.page(model.Query(scope=ALL, view=view))
        assert sorted(ids_of(page.tasks)) == ["A0", "A1", "A2", "W0", "W1", "W2"]
    assert store.save([a_change(a_record("W0"), state=State.RUNNING)]) == set()


@pytest.mark.parametrize("edited", [{"$unset": {"at": ""}}, *({"$set": {"at": at}} for at in ("zzz", "1/", ["a"], 7, None))], ids=str)
@pytest.mark.parametrize("due", [NOW, NOW + 60 * SECOND], ids=["due", "put off"])
def test_one_task_without_a_place_in_lists_stops_none(store: mongo.MongoStore, direct: Connection, edited: dict[str, Any], due: datetime.datetime) -> None:
    store.insert([a_record(f"t{number}", created=NOW + number * SECOND) for number in range(4)]).result()
    direct.tasks.update_one({"_id": "t1"}, {**edited, "$set": {**edited.get("$set", {}), "due": parts.microseconds(due)}})
    for limit in (1, 3, 10):
        found = ids_of(store.due(model.Lane.WAITING, model.ALL_SHARDS, NOW + 10 * SECOND, limit))
        assert [each for each in found if each != "t1"] == ["t0", "t2", "t3"][: len(found)]
        assert len(found) >= min(limit, 3) - 1
    for view in model.View:
        for size in (1, 2, 4):
            shown: list[str] = []
            page = store.page(model.Query(scope=ALL, view=view, size=size))
            while page.after is not None:
                shown += ids_of(page.tasks)
                page = store.page(model.Query(scope=ALL, view=view, size=size, after=page.after))
            assert [*shown, *ids_of(page.tasks)] == ["t3", "t2", "t0"]
    store.wait(0.01)


def test_a_replaced_part_leaves_no_pieces(store: mongo.MongoStore, direct: Connection) -> None:
    store.insert([a_record("a", detail=model.Detail(("x" * 9000,)))]).result()
    assert direct.parts.count_documents({}) == 1
    first = model.Detail(("y" * 9000,))
    assert store.save([a_change(a_record("a"), detail=first)]) == set()
    assert store.save([a_change(a_record("a"), detail=model.Detail(("lost" * 9000,)))]) == {"a"}
    assert direct.parts.count_documents({}) == 1
    found = store.get(ALL, "a", model.View.FULL)
    assert isinstance(found, model.Record)
    assert found.detail == first


@pytest.mark.parametrize("now", [0, mongo_documents.INLINE_BYTES], ids=["by the version before", "by this version"])
def test_parts_are_read_wherever_they_lie(store: mongo.MongoStore, direct: Connection, monkeypatch: pytest.MonkeyPatch, now: int) -> None:
    """Servers of both versions share a database for a while: one puts small parts inline, the other puts every part apart."""
    whole = a_record("a", task=a_task(inputs=(task.Input(path="/a", content="x"),)), detail=model.Detail(("y",)), logs=model.Logs())
    with monkeypatch.context() as patch:
        patch.setattr(mongo_documents, "INLINE_BYTES", now)
        store.insert([whole]).result()
    assert direct.parts.count_documents({}) == (0 if now else 4)
    basic = store.get(ALL, "a", model.View.BASIC)
    assert isinstance(basic, model.Record)
    assert (basic.task, basic.logs, basic.detail) == (a_task(inputs=(task.Input(path="/a"),)), model.Logs(), None)
    assert store.get(ALL, "a", model.View.FULL) == whole
    assert store.page(model.Query(scope=ALL, view=model.View.FULL)).tasks == [whole]
    (waiting,) = store.due(model.Lane.WAITING, model.ALL_SHARDS, NOW, 10)
    assert (waiting.task, waiting.detail, waiting.logs) == (whole.task, whole.detail, None)
    assert [(each.task, each.detail) for each in store.load(["a"])] == [(None, whole.detail)]
    assert store.save([a_change(whole, detail=model.Detail(("z",)))]) == set()
    assert [each.detail for each in store.load(["a"])] == [model.Detail(("z",))]


def test_a_read_between_two_saves_sees_the_newer_one(store: mongo.MongoStore, direct: Connection) -> None:
    """A reader that has the task's document and comes too late for its pieces looks again."""
    store.insert([a_record("a", detail=model.Detail(("x" * 9000,)))]).result()
    old = direct.tasks.find_one({"_id": "a"})
    assert old is not None
    newer = model.Detail(("y" * 9000,))
    store.save([a_change(a_record("a"), detail=newer)])
    (read,) = mongo_reads.records(direct, [old], ("detail",))
    assert isinstance(read, model.Record)
    assert (read.detail, read.revision) == (newer, 1)


def test_a_status_update_rewrites_no_contents(store: mongo.MongoStore, direct: Connection) -> None:
    whole = a_record("a", task=a_task(inputs=(task.Input(path="/a", content="x" * 3_000_000),)))
    store.insert([whole]).result()
    before = {piece["_id"] for piece in direct.parts.find({}, {"_id": 1})}
    store.save([a_change(whole, state=State.RUNNING)])
    assert {piece["_id"] for piece in direct.parts.find({}, {"_id": 1})} == before
    document = direct.tasks.find_one({"_id": "a"})
    assert document is not None
    assert len(str(document)) < 1000


def test_many_owners_share_fairly_behind_a_long_queue(store: mongo.MongoStore) -> None:
    alice = [a_record(f"a{number:03d}", created=NOW + number * SECOND) for number in range(120)]
    others = [a_record(f"o{number:02d}", owner=f"owner{number:02d}", created=NOW + (1000 + number) * SECOND) for number in range(15)]
    store.insert([*alice, *others]).result()
    found = ids_of(store.due(model.Lane.WAITING, model.ALL_SHARDS, NOW + 5000 * SECOND, 20))
    assert found == ["a000", *(f"o{number:02d}" for number in range(15)), "a001", "a002", "a003", "a004"]


def test_two_reconcilers_share_the_work_and_one_that_stops_is_replaced(mongo_account: Account) -> None:
    time = [1000.0]
    options = mongo.Options(lease=20.0)
    first = mongo.MongoStore(mongo_account, options, monotonic=lambda: time[0])
    second = mongo.MongoStore(mongo_account, options, monotonic=lambda: time[0] - 1e6)
    try:
        assert first.hold("one:1", NOW) == model.ALL_SHARDS
        assert second.hold("two:1", NOW + 3600 * SECOND) == frozenset()
        time[0] += 5
        mine = first.hold("one:1", NOW)
        theirs = second.hold("two:1", NOW)
        assert (len(mine), mine | theirs, mine & theirs) == (32, model.ALL_SHARDS, frozenset())
        for _ in range(5):
            time[0] += 5
            theirs = second.hold("two:1", NOW)
        assert theirs == model.ALL_SHARDS
        assert first.hold("one:1", NOW) == frozenset()
    finally:
        first.close()
        second.close()


def test_the_commands_for_cosmos_db() -> None:
    """No server here knows them: held as data against its documentation (custom commands of Azure Cosmos DB for MongoDB)."""
    assert list(mongo_schema.creations(4000, autoscale=True))[:2] == [
        {"customAction": "CreateDatabase", "autoScaleSettings": {"maxThroughput": 4000}},
        {"customAction": "CreateCollection", "collection": "tasks", "shardKey": "_id"},
    ]
    assert next(iter(mongo_schema.creations(400, autoscale=False))) == {"customAction": "CreateDatabase", "offerThroughput": 400}
    assert next(iter(mongo_schema.creations(0, autoscale=False))) == {"customAction": "CreateDatabase"}
    assert all(len(index.keys) == 1 for index in mongo_schema.indexes(Product.COSMOS_RU))
    assert len({index.keys for index in mongo_schema.indexes(Product.COSMOS_RU) if index.collection == "tasks"}) < 500


def test_init_on_cosmos_db_sends_its_commands_and_makes_its_indexes(bare: Account) -> None:
    """The proxy answers Cosmos DB's own commands in its place, as a database that somebody else made, and else the server here does."""
    proxy = mongo_proxy.Proxy(bare.url)
    there = proxy.rule("customAction", mongo_proxy.failure(117, "Resource with specified id or name already exists."))
    made = proxy.rule("customAction", {"ok": 1.0}, times=100)
    cosmos = msgspec.structs.replace(bare, url=proxy.url, product=Product.COSMOS_RU)
    try:
        with mongo_server.connected(cosmos) as connection:
            done = mongo_schema.init(connection, 1000, autoscale=True)
            assert (there.met, made.met) == (1, len(mongo_schema.COLLECTIONS))
            assert done == [*mongo_schema.COLLECTIONS, *(f"index {index.collection}.{index.name}" for index in mongo_schema.indexes(Product.COSMOS_RU))]
            assert mongo_schema.check(connection) == []
        store = mongo.MongoStore(cosmos)
        store.insert([a_record("a", task=a_task(tags={"k": "v"}))]).result()
        assert listed(store, tags=(("k", ""),)) == ["a"]
        assert store.hold("one", NOW) == model.ALL_SHARDS
        store.close()
    finally:
        proxy.close()
