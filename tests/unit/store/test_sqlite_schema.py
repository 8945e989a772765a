"""The embedded store's file: made once, kept private, refused where it is not ours or too new."""

from __future__ import annotations

import pathlib
import sqlite3
import stat

import pytest

from tes_server import errors
from tes_server.model.principal import ALL
from tes_server.model.record import Lane, View
from tes_server.store import sqlite, sqlite_schema
from tests.contract.store_contract import a_record, a_verdict


def change(path: pathlib.Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


def test_it_is_there_again_after_a_restart(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "tes.db"
    for number in range(3):
        store = sqlite.SqliteStore(path)
        store.insert([a_record(f"{number}")]).result()
        assert all(store.get(ALL, f"{earlier}", View.FULL) for earlier in range(number + 1))
        store.close()


def test_a_newer_file_is_refused_and_says_so(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "tes.db"
    sqlite.SqliteStore(path).close()
    change(path, f"PRAGMA user_version = {sqlite_schema.VERSION + 1}")
    with pytest.raises(errors.SettingsError, match=f"schema version {sqlite_schema.VERSION + 1}.*newer tes-server"):
        sqlite.SqliteStore(path)


def test_a_file_of_the_first_version_is_brought_up_and_its_tasks_stay(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "tes.db"
    store = sqlite.SqliteStore(path)
    store.insert([a_record("a")]).result()
    store.close()
    change(path, "DROP TABLE verdicts")
    change(path, "DROP INDEX under_way")
    change(path, "PRAGMA user_version = 1")
    store = sqlite.SqliteStore(path)
    assert store.get(ALL, "a", View.FULL) == a_record("a")
    store.keep(a_verdict(1))
    assert store.all_verdicts(None, 10) == [a_verdict(1)]
    store.close()


def test_a_verdict_that_cannot_be_read_is_told_and_not_there(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "tes.db"
    store = sqlite.SqliteStore(path)
    for number in range(4):
        store.keep(a_verdict(number))
    change(path, f"""UPDATE verdicts SET body = '{{"outcome": "MAYBE"}}' WHERE key < '{a_verdict(2).key.digest}'""")
    assert store.verdicts([a_verdict(0).key, a_verdict(2).key]) == {a_verdict(2).key: a_verdict(2)}
    assert store.all_verdicts(None, 2) == [a_verdict(2), a_verdict(3)], "a page is full all the same"
    assert {entry.message for entry in caplog.records} == {"store.verdict_unreadable"}
    store.keep(a_verdict(0))
    assert store.all_verdicts(None, 1) == [a_verdict(0)]
    store.close()


def test_the_file_of_another_program_is_left_alone(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "tes.db"
    change(path, "CREATE TABLE photos (id)")
    before = path.read_bytes()
    with pytest.raises(errors.SettingsError, match="another program"):
        sqlite.SqliteStore(path)
    assert path.read_bytes() == before


def test_what_is_no_database_or_cannot_be_opened(tmp_path: pathlib.Path) -> None:
    (tmp_path / "text.db").write_text("no database at all" * 1000)
    (tmp_path / "dir.db").mkdir()
    (tmp_path / "taken.db.hint").write_text("no FIFO")
    for name in ("text.db", "dir.db", "taken.db", "missing/tes.db"):
        with pytest.raises(errors.SettingsError):
            sqlite.SqliteStore(tmp_path / name)


def test_only_the_owner_may_read_it(tmp_path: pathlib.Path) -> None:
    store = sqlite.SqliteStore(tmp_path / "tes.db")
    store.insert([a_record("a")]).result()
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()}
    assert set(modes) == {"tes.db", "tes.db-wal", "tes.db-shm", "tes.db.lock", "tes.db.reconciler", "tes.db.hint"}
    assert set(modes.values()) == {0o600}
    store.close()


def test_commits_are_synced_and_readers_cannot_write(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "tes.db"
    sqlite.SqliteStore(path).close()
    writer, reader = sqlite_schema.writer(path), sqlite_schema.reader(path)
    assert writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert writer.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL: each commit is on disk
    assert writer.execute("PRAGMA secure_delete").fetchone() == (2,)  # FAST: what is removed is not written over page by page
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("DELETE FROM tasks")
    writer.close()
    reader.close()


def test_what_is_under_way_in_a_file_of_the_second_version_is_counted(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "tes.db"
    store = sqlite.SqliteStore(path)
    store.insert([a_record("a", lane=Lane.ACTIVE), a_record("b")]).result()
    store.close()
    change(path, "DROP INDEX under_way")
    change(path, "PRAGMA user_version = 2")
    store = sqlite.SqliteStore(path)
    assert store.under_way(["alice"]) == {"alice": 1}
    store.close()
