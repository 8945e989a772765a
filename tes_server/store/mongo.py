"""The shared store: a MongoDB database, or Azure's that speak its protocol, behind `store.base.Store`, for any number of processes.

Only writes of single documents, and only what Cosmos DB (RU) can do. The database is made beforehand (`mongo_schema`) but for
an empty one of MongoDB; a server that starts before it, or while it is away, answers `errors.Unavailable` until it is there.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import datetime
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence

import msgspec
from pymongo import monitoring

from tes_server import errors
from tes_server.model import record as model
from tes_server.model import states
from tes_server.model.principal import ALL, Scope
from tes_server.model.run import Tails
from tes_server.model.verdict import ScanKey, Verdict
from tes_server.store import (
    base,
    leases,
    mongo_changes,
    mongo_doubts,
    mongo_leases,
    mongo_moves,
    mongo_reads,
    mongo_schema,
    mongo_verdicts,
    mongo_writer,
    parts,
)
from tes_server.store import mongo_documents as documents
from tes_server.store.mongo_account import Account, Product
from tes_server.store.mongo_connection import PATIENCE, Connection, Document

LOOK = 0.25
LOOK_PAID = 1.0
"""Seconds between two looks for new tasks while somebody waits for them; where each look is paid for, fewer."""


SWEEP = datetime.timedelta(days=1)
"""Time between two walks of this process over the verdicts, for those that are too old."""

LAST_PATIENCE = 3.0
"""Seconds that each last call waits for the store: whoever ends this process does not wait for long."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """`patience`: seconds that a call waits for the store; `lease`: seconds after which a silent reconciler's work is taken over;
    `look`: seconds between two looks for new tasks while somebody waits for them (None: by the product); `seat`: see `leases.Leases`."""

    patience: float = PATIENCE
    lease: float = leases.LEASE
    look: float | None = None
    seat: str = ""


class MongoStore:
    """The store in the database of `account`. Opens no connection before the first call. `monotonic` judges leases, `listeners` are the driver's."""

    blocking = True

    def __init__(
        self,
        account: Account,
        options: Options = Options(),  # noqa: B008 - frozen
        *,
        monotonic: Callable[[], float] = leases.steady,
        listeners: Sequence[monitoring._EventListener] = (),
    ) -> None:
        self._connection = Connection(account, patience=options.patience, listeners=listeners)
        self._lease = options.lease
        self._monotonic = monotonic
        self._leases = leases.Leases(mongo_leases.MongoShelf(self._connection), options.lease, monotonic, options.seat)
        self._look = options.look or (LOOK_PAID if account.product is Product.COSMOS_RU else LOOK)
        self._writer: mongo_writer.Writer[mongo_changes.Insert] = mongo_writer.Writer(self._insert, self._connection.until, self._doubt)
        self._doubts = mongo_doubts.Doubts(self._connection)
        self._side = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="store-live")
        self._stopping = threading.Event()
        self._seen = ""
        self._swept: datetime.datetime | None = None
        self._prepared = False
        self._preparing = threading.Lock()
        self._closed = False

    # -- writes -------------------------------------------------------------------------------------------------------

    def insert(self, records: Sequence[model.Record], *, undo: Callable[[str], None] | None = None) -> concurrent.futures.Future[None]:
        """`Store.insert`."""
        news = tuple(documents.new(record) for record in records)
        if len({record.id for record in records}) < len(records):
            refused: concurrent.futures.Future[None] = concurrent.futures.Future()
            refused.set_exception(errors.Conflict("a task with this id exists"))
            return refused
        return self._writer.submit(mongo_changes.Insert(news, undo))

    def _insert(self, ops: Sequence[mongo_changes.Insert]) -> Sequence[BaseException | None]:
        return mongo_changes.insert(self._prepare(), ops)

    def _doubt(self, ops: Sequence[mongo_changes.Insert]) -> None:
        self._doubts.add((new, op.undo) for op in ops if op.undo is not None for new in op.news)

    def save(self, changes: Sequence[model.Change]) -> set[str]:
        """`Store.save`."""
        return mongo_changes.save(self._open(), changes)

    # -- reads --------------------------------------------------------------------------------------------------------

    def get(self, scope: Scope, task_id: str, view: model.View) -> model.Brief | None:
        """`Store.get`."""
        connection = self._open()
        mine: Document = {} if scope.owner is None else {"owner": scope.owner}
        shown = mongo_reads.BRIEF if view == model.View.MINIMAL else mongo_reads.fields(parts.BY_VIEW[view])
        found = mongo_reads.find(connection, {"_id": task_id, **mine}, shown, limit=1)
        if not found:
            return None
        try:
            if view == model.View.MINIMAL:
                return documents.brief_of(found[0])
        except documents.Unreadable as cause:
            raise mongo_reads.told(cause) from cause
        whole = mongo_reads.records(connection, found, parts.BY_VIEW[view])[0]
        if isinstance(whole, documents.Unreadable):
            raise mongo_reads.told(whole) from whole
        return whole

    def page(self, query: model.Query) -> model.Page:
        """`Store.page`."""
        return mongo_reads.page(self._open(), query)

    def due(
        self, lane: model.Lane, shards: frozenset[int], now: datetime.datetime, limit: int, here: str = "", shares: base.Shares | None = None
    ) -> list[model.Record]:
        """`Store.due`."""
        connection = self._open()
        if lane == model.Lane.ACTIVE:
            found = mongo_reads.due_active(connection, shards, parts.microseconds(now), limit, here)
        else:
            found = mongo_reads.due_waiting(connection, shards, parts.microseconds(now), limit, shares)
        return mongo_reads.readable(connection, found, parts.BY_LANE[lane])

    def load(self, ids: Collection[str]) -> list[model.Record]:
        """`Store.load`."""
        connection, wanted = self._open(), parts.BY_LANE[model.Lane.ACTIVE]
        return mongo_reads.readable(connection, mongo_reads.by_id(connection, ids, wanted), wanted)

    def sweep(self, shards: frozenset[int], after: str, limit: int, here: str = "") -> list[model.Record]:
        """`Store.sweep`."""
        connection = self._open()
        return mongo_reads.readable(connection, mongo_reads.sweep(connection, shards, after, limit, here), parts.BY_LANE[model.Lane.ACTIVE])

    def census(self, scope: Scope = ALL) -> dict[states.State, int]:
        """`Store.census`."""
        return mongo_reads.census(self._open(), scope.owner)

    def under_way(self, owners: Collection[str]) -> dict[str, int]:
        """`Store.under_way`. Writes are a majority's and reads the primary's: only one that is being voted out may miss one."""
        return mongo_reads.under_way(self._open(), owners)

    # -- verdicts of image scans --------------------------------------------------------------------------------------

    def verdicts(self, keys: Collection[ScanKey]) -> dict[ScanKey, Verdict]:
        """`Store.verdicts`."""
        return {verdict.key: verdict for verdict in mongo_verdicts.by_key(self._open(), keys)}

    def keep(self, verdict: Verdict) -> None:
        """`Store.keep`. Old ones go once a day, and not at all where that fails: nobody is held up by it."""
        connection = self._open()
        mongo_verdicts.keep(connection, verdict)
        if self._swept is None or abs(verdict.scanned_at - self._swept) >= SWEEP:
            self._swept = verdict.scanned_at
            with contextlib.suppress(errors.Unavailable):
                mongo_verdicts.sweep(connection, verdict)

    def all_verdicts(self, after: ScanKey | None, limit: int) -> list[Verdict]:
        """`Store.all_verdicts`."""
        return mongo_verdicts.page(self._open(), after, limit)

    # -- records that go, and come from elsewhere --------------------------------------------------------------------

    def at_rest(self, shards: frozenset[int], before: datetime.datetime, after: str, limit: int) -> tuple[list[model.Record], str]:
        """`Store.at_rest`."""
        connection = self._open()
        found, behind = mongo_reads.at_rest(connection, shards, parts.microseconds(before), after, limit)
        return mongo_reads.readable(connection, found, ()), behind

    def expire(self, records: Sequence[model.Record]) -> int:
        """`Store.expire`."""
        return mongo_moves.expire(self._open(), records)

    def walk(self, after: str, limit: int) -> list[base.Seen]:
        """`Store.walk`."""
        return mongo_reads.walk(self._open(), after, limit)

    def whole(self, ids: Collection[str]) -> Iterator[list[model.Record]]:
        """`Store.whole`."""
        return (portion for portion in mongo_reads.portions(self._open(), ids) if portion)

    def restore(self, records: Sequence[model.Record]) -> dict[str, base.Restored]:
        """`Store.restore`."""
        return mongo_moves.restore(self._open(), records)

    def count(self) -> int:
        """`Store.count`."""
        connection = self._open()
        return connection.run(connection.tasks.estimated_document_count)

    def at_work(self) -> str:
        """`Store.at_work`. Processes of the API alone are not seen."""
        self._open()
        return leases.alive(mongo_leases.MongoShelf(self._connection), self._lease, self._monotonic, self._stopping.wait)

    # -- several reconcilers ------------------------------------------------------------------------------------------

    def hold(self, who: str, now: datetime.datetime) -> frozenset[int]:  # noqa: ARG002 - other machines' clocks say nothing
        """`Store.hold`: a fair share of the shards among the reconcilers that are alive."""
        self._open()
        return self._leases.hold(who)

    def alive(self) -> frozenset[str]:
        """`Store.alive`."""
        return self._leases.alive

    def wait(self, seconds: float) -> bool:
        """`Store.wait`: returns early when a new task waits. For one thread."""
        until = time.monotonic() + seconds
        while not self._stopping.wait(max(0.0, min(until - time.monotonic(), self._look))):
            # A hint is never worth an error, nor a wait for a store that is away.
            with contextlib.suppress(errors.Unavailable):
                newest = mongo_reads.newest_waiting(self._open()) or ""
                # Where nothing waited, whatever waits is new, also by a clock that is behind.
                seen, self._seen = self._seen, newest
                if newest > seen:
                    return True
            if time.monotonic() >= until:
                break
        return False

    # -- live output --------------------------------------------------------------------------------------------------

    def watch(self, task_id: str, until: datetime.datetime) -> None:
        """`Store.watch`."""
        self._side.submit(self._put_live, task_id, {"until": parts.microseconds(until)})

    def watched(self, now: datetime.datetime) -> set[str]:
        """`Store.watched`."""
        connection = self._open()
        where = {"until": {"$gt": parts.microseconds(now)}}
        found = connection.run(lambda: [each["_id"] for each in connection.live.find(where, {"_id": 1})])
        return self._alive(found) if found else set()

    def tail(self, task_id: str, tails: Tails | None = None) -> Tails | None:
        """`Store.tail`. What an ended task leaves behind is removed by the store itself, later."""
        if tails is not None:
            self._side.submit(self._put_live, task_id, {"tails": parts.encode(tails).decode()}).result()
            return tails
        connection = self._open()
        found = connection.run(lambda: connection.live.find_one({"_id": task_id}, {"tails": 1}))
        if found is None or not isinstance(found.get("tails"), str) or not self._alive([task_id]):
            return None
        with contextlib.suppress(ValueError):  # another version's, or written by hand; it will soon be newer
            return parts.tails_of(found["tails"])
        return None

    def _put_live(self, task_id: str, fields: Document) -> None:
        connection = self._prepare()
        expire = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=mongo_schema.LIVE_SECONDS)
        connection.run(lambda: connection.live.update_one({"_id": task_id}, {"$set": {**fields, "expire": expire}}, upsert=True))

    def _alive(self, ids: Sequence[str]) -> set[str]:
        alive = {"$in": sorted(state.value for state in states.LIVE)}
        return {each["_id"] for each in mongo_reads.find(self._open(), {"_id": {"$in": list(ids)}, "state": alive}, {"_id": 1})}

    # -- health and end -----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """`Store.check`."""
        self._prepared = False
        self._open()

    def close(self) -> None:
        """`Store.close`. Writes what was handed in before, and lets other reconcilers have this one's work."""
        if self._closed:
            return
        self._closed = True
        self._stopping.set()
        self._connection.hurry(LAST_PATIENCE)
        self._writer.close()
        self._side.shutdown()
        self._doubts.close()
        with contextlib.suppress(errors.Unavailable):
            self._leases.leave()
        self._connection.close()

    def _open(self) -> Connection:
        if self._closed:
            raise errors.Unavailable("the store is closed")
        return self._prepare()

    def _prepare(self) -> Connection:
        """The connection to a database that is known to be prepared. What was handed in before `close` may still use it."""
        if not self._prepared:
            said = mongo_schema.problem(self._connection)
            if said is not None and not self._prepared_now():
                raise errors.Unavailable(said, retry_after=10.0)
            self._prepared = True
        return self._connection

    def _prepared_now(self) -> bool:
        with self._preparing:
            try:
                return mongo_schema.problem(self._connection) is None or mongo_schema.prepare_empty(self._connection)
            except errors.Unavailable:  # this login may not; the log has the database's words
                return False
