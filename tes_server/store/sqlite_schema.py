"""The embedded store's file: its tables, its version, and how a connection to it is set up.

Must never hold a query or a change; `sqlite_lists`, `sqlite_rows` and `sqlite_changes` do.
"""

from __future__ import annotations

import os
import pathlib
import sqlite3

from tes_server import errors

APPLICATION = 0x54455353
"""PRAGMA application_id ("TESS"): tells our file from any other SQLite database."""

PATIENCE = 30.0
"""Seconds for SQLite's own locks (recovery after a crash, the last connection's checkpoint). Writers do not meet here: they take turns."""

CHECKPOINT_PAGES = 4096
"""Write-ahead log pages before a checkpoint (16 MiB): pages that many commits touch reach the database once, not a hundred times."""

LOG_BYTES = 64 * 1024 * 1024
"""The log file is cut back to this after a burst."""

WRITER_CACHE_KIB = 32 * 1024
READER_CACHE_KIB = 8 * 1024
"""Upper bounds; a quiet process uses a fraction. The kernel caches the rest of the file once for all processes."""

# The parts of a record (model/record.py) are tables of their own, so that a status update rewrites one small row and a
# list reads indexes only. Every index starts with the owner: one tenant's volume never slows another one's list.
# Text that a user chose is kept as UTF-8 bytes: SQLite's text functions stop at a NUL, its byte comparisons do not.
TABLES = """
CREATE TABLE owners (number INTEGER PRIMARY KEY, owner TEXT NOT NULL UNIQUE);

CREATE TABLE tasks (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    owner INTEGER NOT NULL,
    created INTEGER NOT NULL,
    state TEXT NOT NULL,
    canceling INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    lane TEXT,
    due INTEGER,
    shard INTEGER NOT NULL,
    name BLOB,
    status BLOB NOT NULL
);
CREATE INDEX newest ON tasks (owner, created, id, state, canceling);
CREATE INDEX by_state ON tasks (owner, state, canceling, created, id);
CREATE INDEX by_name ON tasks (owner, name, created, id) WHERE name IS NOT NULL;
CREATE INDEX queue ON tasks (lane, due, shard) WHERE lane IS NOT NULL;
CREATE INDEX active ON tasks (id, shard) WHERE lane = 'ACTIVE';
CREATE INDEX waiting ON tasks (owner, created, id, due, shard) WHERE lane = 'WAITING';

CREATE TABLE task (seq INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE contents (seq INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE logs (seq INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE detail (seq INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE long_names (seq INTEGER PRIMARY KEY, name BLOB NOT NULL);

CREATE TABLE tags (
    owner INTEGER NOT NULL,
    key BLOB NOT NULL,
    value BLOB NOT NULL,
    created INTEGER NOT NULL,
    id TEXT NOT NULL,
    PRIMARY KEY (owner, key, value, created, id)
) WITHOUT ROWID;

CREATE TABLE watches (id TEXT PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE tails (id TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
"""

VERDICTS = """
CREATE TABLE verdicts (key TEXT PRIMARY KEY, scanned INTEGER NOT NULL, expires INTEGER NOT NULL, body BLOB NOT NULL);
CREATE INDEX verdicts_expire ON verdicts (expires);
"""

UNDER_WAY = """
CREATE INDEX under_way ON tasks (owner) WHERE lane = 'ACTIVE' AND state IN ('INITIALIZING', 'QUEUED', 'RUNNING');
"""
"""How many tasks of an owner are under way, without a look at those that wait. Written twice a task: when it begins, and when it ends."""

STEPS = (TABLES, VERDICTS, UNDER_WAY)
"""What leads from each version to the next one. Each only adds: other processes of this machine may have the file open."""

VERSION = len(STEPS)
"""PRAGMA user_version. A newer file is refused: an older program would not know what it breaks."""


def prepare(path: pathlib.Path) -> None:
    """Make the file and its tables where there are none, or bring an older file up. The caller holds the write turn.

    Raises `errors.SettingsError` for a file that this program cannot or must not use.
    """
    try:
        # The log and its index inherit the mode of the database file.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = _connect(path)
    except (OSError, sqlite3.Error) as error:
        raise errors.SettingsError(f"the database cannot be opened: {error}", str(path)) from error
    try:
        _create(connection, path)
    except sqlite3.Error as error:
        raise errors.SettingsError(f"the database cannot be used: {error}", str(path)) from error
    finally:
        connection.close()


def _create(connection: sqlite3.Connection, path: pathlib.Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if (tables or version) and application != APPLICATION:
        raise errors.SettingsError("this is the database of another program", str(path))
    if version > VERSION:
        raise errors.SettingsError(f"the database has schema version {version}, this program knows {VERSION}: use a newer tes-server", str(path))
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise errors.SettingsError(f"the file system allows no write-ahead log (journal_mode {mode}): use a local disk", str(path))
    if version < VERSION:
        steps = " ".join(STEPS[version:])
        connection.executescript(f"BEGIN IMMEDIATE; {steps} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION}; COMMIT;")


def writer(path: pathlib.Path) -> sqlite3.Connection:
    """The connection that changes the file; every commit is on disk when it returns."""
    connection = _connect(path)
    connection.execute("PRAGMA synchronous = FULL")
    # Debian's SQLite would write zeros over all that is removed, first to the log and then to the file.
    connection.execute("PRAGMA secure_delete = FAST")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
    connection.execute(f"PRAGMA cache_size = -{WRITER_CACHE_KIB}")
    return connection


def reader(path: pathlib.Path) -> sqlite3.Connection:
    """A connection that cannot change anything. One thread at a time may use it."""
    connection = _connect(path)
    connection.execute("PRAGMA query_only = ON")
    connection.execute(f"PRAGMA cache_size = -{READER_CACHE_KIB}")
    return connection


def _connect(path: pathlib.Path) -> sqlite3.Connection:
    # isolation_level None: transactions are ours alone. Connections move between threads but are never shared.
    return sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, check_same_thread=False, cached_statements=256)
