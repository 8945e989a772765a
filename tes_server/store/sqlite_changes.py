"""The changes that the embedded store makes, each a value that is made in the caller's thread and applied in the writer's.

What is costly (encoding) happens when the value is made, outside of the transaction. Must never commit.
"""

# ruff: noqa: S608 - every value is bound; what is pasted into statements are constants of this package
from __future__ import annotations

import functools
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import msgspec

from tes_server import errors
from tes_server.model import record as model
from tes_server.model import run, states
from tes_server.store import base, parts, sqlite_verdicts

MOST_ROWS = 128
"""Rows in one statement: more gain nothing, and every size is a prepared statement that is kept."""

_ENDS = ", ".join(f"'{state}'" for state in sorted(states.ENDS))


class _New(msgspec.Struct, frozen=True):
    """One record, encoded."""

    id: str
    owner: str
    created: int
    revision: int
    columns: tuple[Any, ...]
    bodies: dict[str, bytes]
    long_name: bytes | None
    terms: frozenset[tuple[bytes, bytes]]


class Insert(msgspec.Struct, frozen=True):
    """New records, all or none."""

    news: tuple[_New, ...]

    @property
    def wakes(self) -> bool:
        """True if the reconciler may have something to do now."""
        return True


class Save(msgspec.Struct, frozen=True):
    """Compare-and-swap of each change by itself; the outcome is the set of ids that lost."""

    changes: tuple[model.Change, ...]

    @property
    def wakes(self) -> bool:
        """True if the reconciler may have something to do now."""
        return any(change.lane is not None for change in self.changes)

    def apply(self, connection: sqlite3.Connection) -> set[str]:
        """The ids that lost."""
        return {change.id for change in self.changes if not _save(connection, change, change.revision)}


class Watch(msgspec.Struct, frozen=True):
    """Somebody reads the output of a task. Ignored for a task that has ended."""

    id: str
    until: int
    wakes: bool = True

    def apply(self, connection: sqlite3.Connection) -> None:
        """Keep or prolong the watch."""
        connection.execute(f"INSERT OR REPLACE INTO watches SELECT id, ? FROM tasks WHERE id = ? AND state NOT IN ({_ENDS})", (self.until, self.id))


class Tail(msgspec.Struct, frozen=True):
    """Live output of a task. Ignored for a task that has ended: the logs have it all."""

    id: str
    body: bytes
    wakes: bool = False

    def apply(self, connection: sqlite3.Connection) -> None:
        """Keep it in place of the one before."""
        connection.execute(f"INSERT OR REPLACE INTO tails SELECT id, ? FROM tasks WHERE id = ? AND state NOT IN ({_ENDS})", (self.body, self.id))


class _Gone(msgspec.Struct, frozen=True):
    """A record that goes, and its entries of `tags`."""

    id: str
    revision: int
    terms: frozenset[tuple[bytes, bytes]]


class Expire(msgspec.Struct, frozen=True):
    """Records that go, each if its revision is still the same; the outcome is how many went."""

    gone: tuple[_Gone, ...]
    wakes: bool = False

    def apply(self, connection: sqlite3.Connection) -> int:
        """How many went."""
        return sum(_expire(connection, gone) for gone in self.gone)


class Restore(msgspec.Struct, frozen=True):
    """Records of another store; the outcome is what became of each."""

    news: tuple[tuple[_New, model.Change], ...]
    wakes: bool = True

    def apply(self, connection: sqlite3.Connection) -> dict[str, base.Restored]:
        """What became of each, by id."""
        became = {new.id: _restored(connection, new, change) for new, change in self.news}
        _insert_rows(connection, [new for new, _ in self.news if became[new.id] is base.Restored.MADE])
        return became


Op: TypeAlias = Insert | Save | Watch | Tail | Expire | Restore | sqlite_verdicts.Keep


def insert(records: Iterable[model.Record]) -> Insert:
    """The change that keeps `records`."""
    return Insert(tuple(_new(record) for record in records))


def tail(task_id: str, tails: run.Tails) -> Tail:
    """The change that keeps `tails`."""
    return Tail(task_id, parts.encode(tails))


def expire(records: Iterable[model.Record]) -> Expire:
    """The change that removes `records`, which were read with their tasks."""
    return Expire(tuple(_Gone(record.id, record.revision, frozenset(parts.terms(record.task.tags or {}))) for record in records if record.task))


def restore(records: Iterable[model.Record]) -> Restore:
    """The change that keeps whole `records` of another store."""
    return Restore(tuple((_new(record), parts.arrival(record)) for record in records))


def apply(connection: sqlite3.Connection, ops: Sequence[Op]) -> list[object]:
    """Make the changes inside the open transaction. One outcome for each op: its result, or the `errors.Conflict` that refuses it."""
    refused = _insert(connection, [op for op in ops if isinstance(op, Insert)])
    return [refused.get(id(op)) if isinstance(op, Insert) else op.apply(connection) for op in ops]


def _new(record: model.Record) -> _New:
    if record.task is None:
        raise ValueError("a new record needs its task")
    bare, contents = parts.cut(record.task)
    name = parts.raw(record.task.name or "")
    bodies = {"task": bare, "contents": contents or None, "logs": record.logs, "detail": record.detail}
    return _New(
        id=record.id,
        owner=record.owner,
        created=parts.microseconds(record.created),
        revision=record.revision,
        columns=(
            record.state.value,
            record.canceling,
            record.revision,
            None if record.lane is None else record.lane.value,
            None if record.due is None else parts.microseconds(record.due),
            model.shard_of(record.id),
            name[: parts.NAME_BYTES] or None,
            parts.encode(record.status),
        ),
        bodies={part: parts.encode(body) for part, body in bodies.items() if body is not None},
        long_name=name if len(name) > parts.NAME_BYTES else None,
        terms=frozenset(parts.terms(record.task.tags or {})),
    )


def _insert(connection: sqlite3.Connection, inserts: Sequence[Insert]) -> dict[int, errors.Conflict]:
    """Insert what may be inserted with one statement a table for the whole group; by `id()`, the inserts that met a taken id."""
    if not inserts:
        return {}
    wanted = parts.encode([new.id for op in inserts for new in op.news]).decode()
    taken = {row[0] for row in connection.execute("SELECT id FROM tasks WHERE id IN (SELECT value FROM json_each(?))", (wanted,))}
    refused: dict[int, errors.Conflict] = {}
    news: list[_New] = []
    for op in inserts:
        ids = {new.id for new in op.news}
        if len(ids) < len(op.news) or not ids.isdisjoint(taken):
            refused[id(op)] = errors.Conflict("a task with this id exists")
        else:
            taken |= ids
            news += op.news
    _insert_rows(connection, news)
    return refused


def _insert_rows(connection: sqlite3.Connection, news: Sequence[_New]) -> None:
    owners = {owner: _owner_number(connection, owner) for owner in {new.owner for new in news}}
    (first,) = connection.execute("SELECT coalesce(max(seq), 0) + 1 FROM tasks").fetchone()
    numbered = list(enumerate(news, first))
    _fill(connection, "tasks", [(seq, new.id, owners[new.owner], new.created, *new.columns) for seq, new in numbered])
    for part in parts.PARTS:
        _fill(connection, part, [(seq, new.bodies[part]) for seq, new in numbered if part in new.bodies])
    _fill(connection, "long_names", [(seq, new.long_name) for seq, new in numbered if new.long_name is not None])
    _fill(connection, "tags", [(owners[new.owner], key, value, new.created, new.id) for new in news for key, value in new.terms])


def _fill(connection: sqlite3.Connection, table: str, entries: Sequence[tuple[Any, ...]]) -> None:
    """Insert whole rows, many with one statement: after each statement this thread has to wait for the interpreter's lock again.

    Their numbers are powers of two, so that a few prepared statements serve all.
    """
    begin = 0
    while left := len(entries) - begin:
        chunk = entries[begin : begin + (1 << min(left, MOST_ROWS).bit_length() - 1)]
        connection.execute(_insertion(table, len(chunk), len(chunk[0])), [value for entry in chunk for value in entry])
        begin += len(chunk)


@functools.cache
def _insertion(table: str, count: int, width: int) -> str:
    row = f"({', '.join('?' * width)})"
    return f"INSERT INTO {table} VALUES {', '.join([row] * count)}"


def _owner_number(connection: sqlite3.Connection, owner: str) -> int:
    # Looked up every time: a number remembered from a transaction that was rolled back would belong to somebody else.
    find = "SELECT number FROM owners WHERE owner = ?"
    found = connection.execute(find, (owner,)).fetchone()
    if found is None:
        connection.execute("INSERT INTO owners (owner) VALUES (?)", (owner,))
        found = connection.execute(find, (owner,)).fetchone()
    return int(found[0])


def _save(connection: sqlite3.Connection, change: model.Change, before: int) -> bool:
    """True if the stored revision was `before`."""
    row = (
        change.state.value,
        change.canceling,
        None if change.lane is None else change.lane.value,
        None if change.due is None else parts.microseconds(change.due),
        parts.encode(change.status),
        change.revision + 1,
        change.id,
        before,
    )
    done = connection.execute(
        "UPDATE tasks SET state = ?, canceling = ?, lane = ?, due = ?, status = ?, revision = ? WHERE id = ? AND revision = ?", row
    ).rowcount
    if not done:
        return False
    for part, value in (("logs", change.logs), ("detail", change.detail)):
        if value is not None:
            connection.execute(f"INSERT OR REPLACE INTO {part} SELECT seq, ? FROM tasks WHERE id = ?", (parts.encode(value), change.id))
    if change.state in states.ENDS:
        connection.execute("DELETE FROM tails WHERE id = ?", (change.id,))
        connection.execute("DELETE FROM watches WHERE id = ?", (change.id,))
    return True


def _expire(connection: sqlite3.Connection, gone: _Gone) -> bool:
    """True if it was there with that revision."""
    found = connection.execute("SELECT seq, owner, created FROM tasks WHERE id = ? AND revision = ?", (gone.id, gone.revision)).fetchone()
    if found is None:
        return False
    seq, owner, created = found
    for table in ("tasks", *parts.PARTS, "long_names"):
        connection.execute(f"DELETE FROM {table} WHERE seq = ?", (seq,))
    for key, value in gone.terms:
        connection.execute("DELETE FROM tags WHERE owner = ? AND key = ? AND value = ? AND created = ? AND id = ?", (owner, key, value, created, gone.id))
    for table in ("watches", "tails"):
        connection.execute(f"DELETE FROM {table} WHERE id = ?", (gone.id,))
    return True


def _restored(connection: sqlite3.Connection, new: _New, change: model.Change) -> base.Restored:
    """What becomes of a record; one that is not there yet is left to be inserted."""
    statement = "SELECT owners.owner, created, revision FROM tasks CROSS JOIN owners ON owners.number = tasks.owner WHERE id = ?"
    there = connection.execute(statement, (new.id,)).fetchone()
    if there is None:
        return base.Restored.MADE
    owner, created, revision = there
    if (owner, created) != (new.owner, new.created):
        return base.Restored.OTHER
    if revision >= new.revision:
        return base.Restored.THERE
    _save(connection, change, revision)
    return base.Restored.CHANGED
