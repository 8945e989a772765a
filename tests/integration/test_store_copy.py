"""`tes-server store copy` between SQLite and MongoDB, and what it refuses."""

from __future__ import annotations

import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping

import pytest

from tes_server import processes
from tes_server.model import record as model
from tes_server.store import mongo
from tes_server.store.base import Store
from tes_server.store.mongo_account import Account
from tes_server.store.sqlite import SqliteStore
from tests import mongo_server
from tests.contract.store_contract import LARGE, NOW, SECOND, a_change, a_record, an_end, listed, whole

BIN = pathlib.Path(sys.executable).parent
RECORDS = [
    LARGE,
    a_record("waits", owner="bob"),
    a_record("runs", lane=model.Lane.ACTIVE, due=None, revision=2),
    *(an_end(f"t{number:03d}", created=NOW + number * SECOND) for number in range(300)),
]
IDS = [record.id for record in RECORDS]


def url_of(account: Account) -> str:
    """With the database, as a user writes it."""
    return re.sub(r"/(\?|$)", rf"/{account.database}\1", account.url, count=1) if re.search(r"//[^/]+/", account.url) else f"{account.url}/{account.database}"


def said(*words: object, environment: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    done = subprocess.run(
        [BIN / "tes-server", "store", "copy", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **(environment or {})},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def data(tmp_path: pathlib.Path) -> pathlib.Path:
    """A data directory with tasks."""
    (tmp_path / "data").mkdir()
    store = SqliteStore(tmp_path / "data" / "tasks.sqlite")
    store.insert(RECORDS).result()
    store.close()
    return tmp_path / "data"


@pytest.fixture
def shared(mongo_account: Account) -> Iterator[Store]:
    made = mongo.MongoStore(mongo_account, mongo.Options(lease=4.0))
    yield made
    made.close()


@pytest.mark.mongo
def test_to_mongodb_again_and_back(data: pathlib.Path, shared: Store, mongo_account: Account, tmp_path: pathlib.Path) -> None:
    secret = tmp_path / "url"
    secret.write_text(url_of(mongo_account) + "\n")
    assert said(data, f"@{secret}") == (0, "ok    of 303 tasks 303 were copied, 0 brought up to date, 0 there already\n", "")
    assert whole(shared, *IDS) == RECORDS
    assert listed(shared, tags=(("k", "v"),)) == ["large"]
    assert said(data, f"@{secret}")[1] == "ok    of 303 tasks 0 were copied, 0 brought up to date, 303 there already\n"
    assert shared.save([a_change(RECORDS[2], canceling=True)]) == set()
    back = tmp_path / "back"
    assert said(url_of(mongo_account), back)[:2] == (0, "ok    of 303 tasks 303 were copied, 0 brought up to date, 0 there already\n")
    assert said(url_of(mongo_account), f"sqlite:{data}/tasks.sqlite")[1] == "ok    of 303 tasks 0 were copied, 1 brought up to date, 302 there already\n"
    for path in (back, data):
        store = SqliteStore(path / "tasks.sqlite")
        assert whole(store, *IDS) == whole(shared, *IDS)
        assert whole(store, "runs")[0].canceling
        store.close()


@pytest.mark.mongo
def test_a_copy_that_is_killed_is_taken_up(data: pathlib.Path, shared: Store, mongo_account: Account) -> None:
    process = subprocess.Popen([BIN / "tes-server", "store", "copy", data, url_of(mongo_account)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with mongo_server.connected(mongo_account) as connection:
        while connection.tasks.find_one({}, {"_id": 1}) is None:
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    code, text, _ = said(data, url_of(mongo_account))
    assert code == 0
    assert text.startswith("ok    of 303 tasks ")
    assert whole(shared, *IDS) == RECORDS


@pytest.mark.mongo
def test_what_cannot_be_copied_is_named(data: pathlib.Path, shared: Store, mongo_account: Account) -> None:
    shared.insert([a_record("waits", owner="carol", created=NOW - SECOND)]).result()
    assert said(data, url_of(mongo_account))[0] == 1
    with mongo_server.connected(mongo_account) as connection:
        connection.tasks.update_one({"_id": "t007"}, {"$set": {"status": "{}"}})
    code, text, log = said(url_of(mongo_account), data.parent / "back")
    assert code == 1
    assert "no    1 tasks are not in" in text
    assert text.rstrip().endswith(": t007")
    assert '"store.record_unreadable"' in log
    code, text, _ = said(data, url_of(mongo_account))
    assert code == 1
    assert "no    1 tasks have the id of another task there, and were left out: waits\n" in text


@pytest.mark.mongo
def test_a_reconciler_at_work_is_seen(data: pathlib.Path, shared: Store, mongo_account: Account) -> None:
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.1):
            shared.hold("somebody", NOW)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        code, _, why = said(data, url_of(mongo_account))
        assert code == 2
        assert "somebody" in why
        assert "stop the servers first" in why
        assert said(data, url_of(mongo_account), "--force")[0] == 0
    finally:
        over.set()
        thread.join()


def test_a_server_on_the_data_directory_is_seen(data: pathlib.Path, tmp_path: pathlib.Path) -> None:
    held = processes.own(data)
    code, _, why = said(data, tmp_path / "other")
    assert (code, "is in use by another tes-server" in why) == (2, True)
    os.close(held)
    store = SqliteStore(data / "tasks.sqlite")
    store.hold("a reconciler", NOW)
    for words in ((data, tmp_path / "other"), (tmp_path / "other", data)):
        SqliteStore(tmp_path / "other" / "tasks.sqlite").close()
        code, _, why = said(*words)
        assert (code, f"{data}/tasks.sqlite: another process is at work on it" in why) == (2, True)
    assert said(data, tmp_path / "other", "--force")[0] == 0
    store.close()
    assert said(data, tmp_path / "other") == (0, "ok    of 303 tasks 0 were copied, 0 brought up to date, 303 there already\n", "")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("{tmp}/none", "{tmp}/other"), "there is no {tmp}/none/tasks.sqlite"),
        (("sqlite:{tmp}/none", "{tmp}/other"), "there is no {tmp}/none"),
        (("@{tmp}/none", "{tmp}/other"), "{tmp}/none cannot be read"),
        (("postgres://host/x", "{tmp}/other"), "must begin with sqlite:, mongodb:// or mongodb+srv://"),
        (("{tmp}/data", "mongodb://user:secret@"), "mongodb"),
    ],
)
def test_what_names_no_store_is_refused(data: pathlib.Path, tmp_path: pathlib.Path, words: tuple[str, ...], why: str) -> None:
    code, _, text = said(*(word.format(tmp=tmp_path) for word in words))
    assert code == 2
    assert why.format(tmp=tmp_path) in text
    assert "secret" not in text
    assert "Traceback" not in text


def test_a_store_is_not_copied_to_itself(data: pathlib.Path) -> None:
    code, _, why = said(data, f"sqlite:{data}/tasks.sqlite")
    assert (code, "FROM and TO are the same" in why) == (2, True)
