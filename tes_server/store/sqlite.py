"""The embedded store: one SQLite file (write-ahead log) for all processes of one machine, behind `store.base.Store`.

Reads use a connection of their own and never wait for a writer; writes go to the process's one writer thread. A store must
be opened in the process that uses it: neither its thread nor its locks live through a fork.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import datetime
import pathlib
import sqlite3
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence

from tes_server import errors
from tes_server.model import record as model
from tes_server.model.principal import ALL, Scope
from tes_server.model.run import Tails
from tes_server.model.states import State
from tes_server.model.verdict import ScanKey, Verdict
from tes_server.store import base, parts, sqlite_changes, sqlite_lists, sqlite_peers, sqlite_queue, sqlite_rows, sqlite_schema, sqlite_verdicts, sqlite_writer

PAGE_BYTES = 16 * 1024 * 1024
"""A page of whole tasks ends once it holds so much: a task may have megabytes of contents, and a page 2,047 tasks."""


EXPIRED = 10
"""Records that one transaction removes: whoever writes meanwhile waits for some milliseconds, also where each holds a megabyte."""


class SqliteStore:
    """The store in the file `path`; beside it live SQLite's own files, two locks and a FIFO (`.lock`, `.reconciler`, `.hint`).

    Raises `errors.SettingsError` where the file cannot be used. The directory must exist.
    """

    blocking = False

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        with contextlib.ExitStack() as opened:
            try:
                self._turn = sqlite_peers.Turn(path.with_name(f"{path.name}.lock"))
                opened.callback(self._turn.close)
                self._claim = sqlite_peers.Claim(path.with_name(f"{path.name}.reconciler"))
                opened.callback(self._claim.close)
                self._hint = sqlite_peers.Hint(path.with_name(f"{path.name}.hint"))
                opened.callback(self._hint.close)
            except OSError as error:
                raise errors.SettingsError(f"the store cannot be opened: {error}", str(path)) from error
            with self._turn:
                sqlite_schema.prepare(path)
            self._readers: deque[sqlite3.Connection] = deque()
            self._owners: dict[str, int] = {}
            self._who = ""
            self._closed = False
            self._writer = sqlite_writer.Writer(lambda: sqlite_schema.writer(path), self._turn, sqlite_changes.apply, self._committed)
            self._opened = opened.pop_all()

    def insert(self, records: Sequence[model.Record], *, undo: Callable[[str], None] | None = None) -> concurrent.futures.Future[None]:  # noqa: ARG002 - a commit is known
        """`Store.insert`."""
        return self._writer.submit(sqlite_changes.insert(records))

    def save(self, changes: Sequence[model.Change]) -> set[str]:
        """`Store.save`."""
        lost: set[str] = self._writer.submit(sqlite_changes.Save(tuple(changes))).result()
        return lost

    def get(self, scope: Scope, task_id: str, view: model.View) -> model.Brief | None:
        """`Store.get`."""
        with self._reading() as connection:
            # Whose it is comes first: others' tasks must not take longer than those that are not there.
            row = connection.execute("SELECT id, state, canceling, owner FROM tasks WHERE id = ?", (task_id,)).fetchone()
            if row is None or (scope.owner is not None and row[3] != self._owner(connection, scope.owner)):
                return None
            if view == model.View.MINIMAL:
                return sqlite_rows.brief_of(*row[:3])
            found = sqlite_queue.by_id(connection, (task_id,), parts.BY_VIEW[view])
        return found[0] if found else None

    def page(self, query: model.Query) -> model.Page:
        """`Store.page`."""
        after = None if query.after is None else (parts.microseconds(query.after[0]), query.after[1])
        wanted = query.size + 1  # one more than is shown tells whether a next page would be empty
        with self._reading() as connection, _snapshot(connection):
            if query.scope.owner is None:
                found = sqlite_lists.merged_page(connection, query, after, wanted)
            elif (owner := self._owner(connection, query.scope.owner)) is None:
                found = []
            else:
                found = sqlite_lists.owner_page(connection, owner, query, after, wanted)
            shown = found[: query.size]
            tasks: list[model.Brief]
            if query.view == model.View.MINIMAL:
                tasks = [sqlite_rows.brief_of(row.id, row.state, row.canceling) for row in shown]
            else:
                tasks = [*sqlite_queue.by_seq(connection, [row.seq for row in shown], parts.BY_VIEW[query.view], PAGE_BYTES)]
                shown = shown[: len(tasks)]
        return model.Page(tasks, (parts.moment(shown[-1].created), shown[-1].id) if len(found) > len(shown) > 0 else None)

    def hold(self, who: str, now: datetime.datetime) -> frozenset[int]:  # noqa: ARG002 - the kernel knows until when
        """`Store.hold`: all shards for the first process that asks, until it ends; none for others."""
        self._who = who
        return model.ALL_SHARDS if self._claim.take() else frozenset()

    def alive(self) -> frozenset[str]:
        """`Store.alive`: there are no others."""
        return frozenset({self._who})

    def due(
        self,
        lane: model.Lane,
        shards: frozenset[int],
        now: datetime.datetime,
        limit: int,
        here: str = "",  # noqa: ARG002
        shares: base.Shares | None = None,
    ) -> list[model.Record]:
        """`Store.due`. One reconciler works on all there is."""
        with self._reading() as connection, _snapshot(connection):
            if lane == model.Lane.ACTIVE:
                found = sqlite_queue.due_active(connection, shards, parts.microseconds(now), limit)
            else:
                found = sqlite_queue.due_waiting(connection, shards, parts.microseconds(now), limit, shares)
            return sqlite_queue.by_seq(connection, found, parts.BY_LANE[lane])

    def load(self, ids: Collection[str]) -> list[model.Record]:
        """`Store.load`."""
        with self._reading() as connection:
            return sqlite_queue.by_id(connection, ids, parts.BY_LANE[model.Lane.ACTIVE])

    def sweep(self, shards: frozenset[int], after: str, limit: int, here: str = "") -> list[model.Record]:  # noqa: ARG002
        """`Store.sweep`."""
        with self._reading() as connection, _snapshot(connection):
            return sqlite_queue.by_seq(connection, sqlite_queue.sweep(connection, shards, after, limit), parts.BY_LANE[model.Lane.ACTIVE])

    def wait(self, seconds: float) -> bool:
        """`Store.wait`. For one thread of one process at a time, the reconciler; others would take its hints."""
        return self._hint.wait(seconds)

    def watch(self, task_id: str, until: datetime.datetime) -> None:
        """`Store.watch`. Returns at once."""
        self._writer.submit(sqlite_changes.Watch(task_id, parts.microseconds(until)))

    def watched(self, now: datetime.datetime) -> set[str]:
        """`Store.watched`."""
        with self._reading() as connection:
            return {row[0] for row in connection.execute("SELECT id FROM watches WHERE until > ?", (parts.microseconds(now),))}

    def tail(self, task_id: str, tails: Tails | None = None) -> Tails | None:
        """`Store.tail`."""
        if tails is not None:
            self._writer.submit(sqlite_changes.tail(task_id, tails)).result()
            return tails
        with self._reading() as connection:
            row = connection.execute("SELECT body FROM tails WHERE id = ?", (task_id,)).fetchone()
        return None if row is None else parts.tails_of(row[0])

    def census(self, scope: Scope = ALL) -> dict[State, int]:
        """`Store.census`."""
        with self._reading() as connection:
            return sqlite_queue.census(connection, scope.owner)

    def under_way(self, owners: Collection[str]) -> dict[str, int]:
        """`Store.under_way`."""
        with self._reading() as connection, _snapshot(connection):
            return sqlite_queue.under_way(connection, owners)

    def verdicts(self, keys: Collection[ScanKey]) -> dict[ScanKey, Verdict]:
        """`Store.verdicts`."""
        with self._reading() as connection:
            return {verdict.key: verdict for verdict in sqlite_verdicts.by_key(connection, keys)}

    def keep(self, verdict: Verdict) -> None:
        """`Store.keep`."""
        self._writer.submit(sqlite_verdicts.keep(verdict)).result()

    def all_verdicts(self, after: ScanKey | None, limit: int) -> list[Verdict]:
        """`Store.all_verdicts`."""
        with self._reading() as connection:
            return sqlite_verdicts.page(connection, after, limit)

    def at_rest(self, shards: frozenset[int], before: datetime.datetime, after: str, limit: int) -> tuple[list[model.Record], str]:
        """`Store.at_rest`."""
        with self._reading() as connection, _snapshot(connection):
            found, behind = sqlite_queue.at_rest(connection, shards, parts.microseconds(before), after, limit)
            return sqlite_queue.by_seq(connection, found, ()), behind

    def expire(self, records: Sequence[model.Record]) -> int:
        """`Store.expire`. In small transactions; the pages that get free are used again, the file does not get smaller."""
        gone = 0
        for begin in range(0, len(records), EXPIRED):
            revisions = {record.id: record.revision for record in records[begin : begin + EXPIRED]}
            with self._reading() as connection:
                found = sqlite_queue.by_id(connection, revisions, ("task",))
            same = [record for record in found if record.revision == revisions[record.id]]
            gone += self._writer.submit(sqlite_changes.expire(same)).result()
        return gone

    def walk(self, after: str, limit: int) -> list[base.Seen]:
        """`Store.walk`."""
        with self._reading() as connection:
            found = connection.execute("SELECT id, created, revision FROM tasks WHERE id > ? ORDER BY id LIMIT ?", (after, limit)).fetchall()
        return [base.Seen(task_id, parts.moment(created), revision) for task_id, created, revision in found]

    def whole(self, ids: Collection[str]) -> Iterator[list[model.Record]]:
        """`Store.whole`."""
        with self._reading() as connection:
            yield from sqlite_queue.portions(connection, ids, parts.PORTION_BYTES)

    def restore(self, records: Sequence[model.Record]) -> dict[str, base.Restored]:
        """`Store.restore`."""
        became: dict[str, base.Restored] = self._writer.submit(sqlite_changes.restore(records)).result()
        return became

    def count(self) -> int:
        """`Store.count`."""
        with self._reading() as connection:
            return int(connection.execute("SELECT count(*) FROM tasks").fetchone()[0])

    def at_work(self) -> str:
        """`Store.at_work`. Nobody else can begin until this store is closed."""
        return "" if self._claim.take() else "another process"

    def check(self) -> None:
        """`Store.check`."""
        with self._reading() as connection:
            connection.execute("SELECT 1 FROM tasks LIMIT 1").fetchone()

    def close(self) -> None:
        """`Store.close`. Writes what was handed in before."""
        self._writer.close()
        self._closed = True
        self._drop_readers()
        self._opened.close()

    def _committed(self, ops: Sequence[sqlite_changes.Op]) -> None:
        if any(op.wakes for op in ops):
            self._hint.poke()

    def _owner(self, connection: sqlite3.Connection, owner: str) -> int | None:
        """The number of an owner, None for one without tasks. Numbers never change, so that they may be remembered."""
        if owner not in self._owners:
            row = connection.execute("SELECT number FROM owners WHERE owner = ?", (owner,)).fetchone()
            if row is None:
                return None
            self._owners[owner] = row[0]
        return self._owners[owner]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that no other thread uses meanwhile."""
        if self._closed:
            raise errors.Unavailable("the store is closed")
        connection = None
        try:
            try:
                connection = self._readers.pop()
            except IndexError:
                connection = sqlite_schema.reader(self._path)
            yield connection
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, sqlite3.Error):
                raise errors.Unavailable(f"the store cannot read: {error}") from error
            raise
        self._readers.append(connection)
        if self._closed:
            self._drop_readers()

    def _drop_readers(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._readers.pop().close()


@contextlib.contextmanager
def _snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Several statements see one state of the file. After an error the connection is dropped, and the transaction with it."""
    connection.execute("BEGIN")
    yield
    connection.execute("COMMIT")
