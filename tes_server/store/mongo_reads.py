"""Reads of the MongoDB store: records with their parts, lists, and the reconciler's queue.

Every query is one that Cosmos DB (RU) answers as well: equality and ranges on indexed fields, sorted by one field that has an
index. Must never write.
"""

from __future__ import annotations

import datetime
import functools
import itertools
import logging
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from pymongo import ASCENDING, DESCENDING

from tes_server import errors, telemetry
from tes_server.model import record as model
from tes_server.model import states
from tes_server.store import base, parts
from tes_server.store import mongo_documents as documents
from tes_server.store.mongo_connection import Connection, Document

_log = logging.getLogger(__name__)

CHUNK = 500
"""Ids in one `$in`."""

PAGE_BYTES = 16 * 1024 * 1024
"""A page of whole tasks ends once it holds so much: a task may have megabytes of contents, and a page 2,047 tasks."""

BRIEF = {"_id": 0, "at": 1, "state": 1, "canceling": 1}
"""What a MINIMAL view needs; all of it is in the index `newest`, so that without `_id` a list reads no document."""

_ACTIVE = parts.BY_LANE[model.Lane.ACTIVE]

_ABOVE = "\x7f"
"""Sorts after every character of a quoted name, and of an id."""

_ENDS = frozenset(state.value for state in states.ENDS)
_FAR = base.FAR // datetime.timedelta(microseconds=1)


def fields(wanted: Sequence[str]) -> Document | None:
    """The projection that leaves out parts that are not wanted, where they lie in the task's document."""
    return {f"parts.{part}": 0 for part in parts.PARTS if part not in wanted} or None


def find(connection: Connection, where: Document, shown: Document | None = None, sort: tuple[str, int] | None = None, limit: int = 0) -> list[Document]:
    """One query, read to its end. `shown`: its projection."""

    def call() -> list[Document]:
        cursor = connection.tasks.find(where, shown)
        if sort is not None:
            cursor = cursor.sort(*sort)
        return list(cursor.limit(limit))

    return connection.run(call)


# -- records ----------------------------------------------------------------------------------------------------------


def records(connection: Connection, found: Sequence[Document], wanted: Sequence[str]) -> list[model.Record | documents.Unreadable]:
    """Documents of `tasks` as records with the wanted parts, in this order."""
    readable = [_current(document) for document in found]
    bodies = _bodies(connection, [document for document in readable if isinstance(document, dict)], wanted)
    return [document if isinstance(document, documents.Unreadable) else _record(connection, document, wanted, bodies) for document in readable]


def readable(connection: Connection, found: Sequence[Document], wanted: Sequence[str]) -> list[model.Record]:
    """As `records`; what cannot be read is told in the log and left alone."""
    kept: list[model.Record] = []
    for each in records(connection, found, wanted):
        if isinstance(each, documents.Unreadable):
            telemetry.log(_log, logging.ERROR, "store.record_unreadable", task=each.task_id, why=each.why)
        else:
            kept.append(each)
    return kept


def by_id(connection: Connection, ids: Collection[str], wanted: Sequence[str]) -> list[Document]:
    """Those of the documents that exist, with the wanted parts."""
    return [document for chunk in _chunks(list(ids)) for document in find(connection, {"_id": {"$in": chunk}}, fields(wanted))]


def _current(document: Document) -> Document | documents.Unreadable:
    try:
        return documents.current(document)
    except documents.Unreadable as cause:
        return cause


def _record(connection: Connection, document: Document, wanted: Sequence[str], bodies: dict[str, bytes]) -> model.Record | documents.Unreadable:
    try:
        if not bodies.keys() >= set(documents.keys(document, wanted)):
            # Between the two reads a save replaced a part: its document points to the new one.
            document = next(iter(by_id(connection, [document["_id"]], wanted)), document)
            document = documents.current(document)
            bodies = _bodies(connection, [document], wanted)
        return documents.record_of(document, wanted, bodies)
    except documents.Unreadable as cause:
        return cause


def _bodies(connection: Connection, found: Sequence[Document], wanted: Sequence[str]) -> dict[str, bytes]:
    keys = [key for document in found for key in documents.keys(document, wanted)]
    bodies: dict[str, bytes] = {}
    for chunk in _chunks(keys):
        bodies.update(connection.run(functools.partial(_pieces, connection, chunk)))
    return bodies


def _pieces(connection: Connection, keys: list[str]) -> list[tuple[str, bytes]]:
    return [(piece["_id"], piece["body"]) for piece in connection.parts.find({"_id": {"$in": keys}})]


def _chunks(values: list[str]) -> Iterator[list[str]]:
    return (values[begin : begin + CHUNK] for begin in range(0, len(values), CHUNK))


# -- lists ------------------------------------------------------------------------------------------------------------


def page(connection: Connection, query: model.Query) -> model.Page:
    """`Store.page`."""
    if query.state is not None and not query.state.states:
        return model.Page([], None)
    after = None if query.after is None else documents.position(*query.after)
    whole_name = parts.raw(query.name_prefix)
    by_whole_name = len(whole_name) > parts.NAME_BYTES
    wanted = parts.BY_VIEW.get(query.view, ())
    projection = BRIEF if not wanted and not by_whole_name else fields((*wanted, "task") if by_whole_name else wanted)
    found: list[Document] = []
    # One more than is shown tells whether a next page would be empty.
    while missing := query.size + 1 - len(found):
        batch = find(connection, _where(query, after), projection, ("at", DESCENDING), missing)
        if by_whole_name:
            found += _with_name(connection, _placed(batch), query.name_prefix)
        else:
            found += _placed(batch)
        if len(batch) < missing:
            break
        after = batch[-1]["at"]
    shown = found[: query.size]
    if not wanted:
        tasks = _briefs(shown)
    else:
        shown = list(_bounded(shown, wanted))
        # What cannot be read is shown by what can: its id and state.
        whole = zip(records(connection, shown, wanted), shown, strict=True)
        tasks = [task for each, document in whole for task in (_briefs([document]) if isinstance(each, documents.Unreadable) else [each])]
    return model.Page(tasks, documents.place(shown[-1]["at"]) if len(found) > len(shown) > 0 else None)


def _placed(found: Sequence[Document]) -> list[Document]:
    """Those that have a position in lists. Another was edited by hand: it is told in the log, and stops no list."""
    kept: list[Document] = []
    for document in found:
        try:
            documents.place(document["at"])
        except (TypeError, ValueError, OverflowError) as cause:
            telemetry.log(_log, logging.ERROR, "store.record_unreadable", task=document.get("_id", document["at"]), why=f"at: {cause}")
        else:
            kept.append(document)
    return kept


def _where(query: model.Query, after: str | None) -> Document:
    where: Document = {}
    if query.scope.owner is not None:
        where["owner"] = query.scope.owner
    if query.state is not None:
        where["state"] = _one_of(sorted(state.value for state in query.state.states))
        if query.state.canceling is not None:
            where["canceling"] = query.state.canceling
    if query.tags:
        terms = sorted({documents.term(parts.term(key), parts.term(value)) for key, value in query.tags})
        where["tags"] = terms[0] if len(terms) == 1 else {"$all": terms}
    if query.name_prefix:
        head = documents.quoted(parts.raw(query.name_prefix)[: parts.NAME_BYTES])
        where["name"] = {"$gte": head, "$lt": head + _ABOVE}
    where["at"] = {"$gt": ""} if after is None else {"$gt": "", "$lt": after}
    return where


def _one_of(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else {"$in": values}


def _with_name(connection: Connection, found: Sequence[Document], prefix: str) -> list[Document]:
    """Those whose whole name, longer than what is indexed, begins with `prefix`."""
    whole = records(connection, found, ("task",))
    pairs = zip(found, whole, strict=True)
    return [document for document, each in pairs if isinstance(each, model.Record) and each.task is not None and (each.task.name or "").startswith(prefix)]


def _bounded(found: Sequence[Document], wanted: Sequence[str]) -> Iterator[Document]:
    """The first of them, until they come to `PAGE_BYTES`."""
    size = 0
    for document in found:
        if size > PAGE_BYTES:
            return
        size += documents.size(document, wanted)
        yield document


def _briefs(found: Sequence[Document]) -> list[model.Brief]:
    briefs: list[model.Brief] = []
    for document in found:
        try:
            briefs.append(documents.brief_of(document))
        except documents.Unreadable as cause:
            telemetry.log(_log, logging.ERROR, "store.record_unreadable", task=document.get("at"), why=cause.why)
    return briefs


# -- the reconciler's queue -------------------------------------------------------------------------------------------


def _in_lane(lane: model.Lane, shards: Collection[int], **more: Any) -> Document:
    where: Document = {"lane": lane.value, **more}
    if len(shards) < model.SHARDS:
        where["shard"] = {"$in": sorted(shards)}
    return where


def due_active(connection: Connection, shards: Collection[int], now: int, limit: int, here: str) -> list[Document]:
    """The ACTIVE lane, by due time: of these shards what is at no place, and what is `here`."""
    where: Document = {"lane": model.Lane.ACTIVE.value, "due": {"$lte": now}}
    anywhere: Document = {"place": None}  # absent: most tasks are at no place
    if len(shards) < model.SHARDS:
        anywhere["shard"] = {"$in": sorted(shards)}
    where |= {"$or": [anywhere, {"place": here}]} if here else anywhere
    return find(connection, where, fields(_ACTIVE), ("due", ASCENDING), limit)


def sweep(connection: Connection, shards: Collection[int], after: str, limit: int, here: str) -> list[Document]:
    """The ACTIVE lane behind the id `after`, by id: these shards, and what is `here`."""
    found = find(connection, _in_lane(model.Lane.ACTIVE, shards, _id={"$gt": after}), fields(_ACTIVE), ("_id", ASCENDING), limit)
    if here and len(shards) < model.SHARDS:
        # Each is whole up to its end, so the first of both together are the first there are.
        mine = find(connection, {"place": here, "lane": model.Lane.ACTIVE.value, "_id": {"$gt": after}}, fields(_ACTIVE), ("_id", ASCENDING), limit)
        both = {document["_id"]: document for document in (*found, *mine)}
        found = [both[task_id] for task_id in sorted(both)[:limit]]
    return found


def due_waiting(connection: Connection, shards: Collection[int], now: int, limit: int, shares: base.Shares | None = None) -> list[Document]:
    """The WAITING lane: each owner's oldest (the oldest of them first), then each owner's second, ...

    One query where all that waits fits in. Else owner by owner, taking from each only what its fair share may need.
    """
    # Never put off, and not due by its time: it was created later than now, by another clock or before this one was set back.
    later = documents.position(parts.moment(now), _ABOVE)
    where = {**_in_lane(model.Lane.WAITING, shards), "$or": [{"due": {"$lte": now}}, {"due": {"$gt": now + _FAR}}, {"at": {"$gt": later}}]}
    entry = {"owner": 1, "at": 1, "due": 1}
    found = find(connection, where, entry, ("at", ASCENDING), limit + 1)
    taken: dict[str, list[Document]] = {}
    if len(found) <= limit:
        for each in found:
            taken.setdefault(str(each.get("owner")), []).append(each)
        if shares is not None:
            most = shares(taken)
            taken = {owner: waiting[: most[owner]] for owner, waiting in taken.items()}
    else:
        owners: list[str] = connection.run(lambda: connection.tasks.distinct("owner", {"lane": model.Lane.WAITING.value}))
        taken = {owner: [] for owner in owners if isinstance(owner, str)}
        most = dict.fromkeys(taken, limit) if shares is None else shares(taken)
        more = [owner for owner in taken if most[owner] > 0]
        # All owners in `more` have been asked for equally many, so the ranks that the result needs are complete.
        while more and (missing := limit - sum(map(len, taken.values()))) > 0:
            share = -(-missing // len(more))
            for owner in tuple(more):
                behind = [{"at": {"$gt": taken[owner][-1].get("at", "")}}] if taken[owner] else []
                wanted = min(share, most[owner] - len(taken[owner]))
                batch = find(connection, {"owner": owner, "$and": [where, *behind]}, entry, ("at", ASCENDING), wanted)
                taken[owner] += batch
                if len(batch) < wanted or len(taken[owner]) >= most[owner]:
                    more.remove(owner)
    taken = {owner: [each for each in waiting if not _put_off(each, now)] for owner, waiting in taken.items()}
    ranks = itertools.zip_longest(*taken.values())
    fair = [each["_id"] for rank in ranks for each in sorted((each for each in rank if each is not None), key=lambda each: str(each.get("at")))]
    chosen = fair[:limit]
    whole = {document["_id"]: document for document in by_id(connection, chosen, parts.BY_LANE[model.Lane.WAITING])}
    return [whole[task_id] for task_id in chosen if task_id in whole and whole[task_id].get("lane") == model.Lane.WAITING.value]


def _put_off(document: Document, now: int) -> bool:
    """True for one that was created later than now and waits for longer still."""
    due = document.get("due")
    return isinstance(due, int) and now < due <= now + _FAR and not str(document.get("at")).startswith(documents.position(parts.moment(due), ""))


def at_rest(connection: Connection, shards: Collection[int], before: int, after: str, limit: int) -> tuple[list[Document], str]:
    """Ended tasks in no lane that were created before `before`, oldest first, and where to go on.

    One index serves range and order. What has not ended is left out here: among tasks that old it is the exception.
    """
    where: Document = {"at": {"$gt": after, "$lt": documents.position(parts.moment(before), "")}}
    if len(shards) < model.SHARDS:
        where["shard"] = {"$in": sorted(shards)}
    found = find(connection, where, fields(()), ("at", ASCENDING), limit)
    return [each for each in found if each.get("state") in _ENDS and each.get("lane") is None], found[-1]["at"] if len(found) == limit else ""


def walk(connection: Connection, after: str, limit: int) -> list[base.Seen]:
    """All tasks behind the id `after`, by id."""
    found = find(connection, {"_id": {"$gt": after}}, {"at": 1, "revision": 1}, ("_id", ASCENDING), limit)
    return [base.Seen(each["_id"], *_seen(each)) for each in found]


def _seen(document: Document) -> tuple[datetime.datetime, int]:
    """Creation and revision; of a document that makes no sense, what no record has."""
    try:
        return documents.place(document["at"])[0], int(document["revision"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return parts.moment(0), -1


def portions(connection: Connection, ids: Collection[str]) -> Iterator[list[model.Record]]:
    """`Store.whole`."""
    for chunk in _chunks(list(ids)):
        found = {document["_id"]: document for document in by_id(connection, chunk, parts.PARTS)}
        portion: list[Document] = []
        size = 0
        for task_id in chunk:
            if task_id in found:
                portion.append(found[task_id])
                size += documents.size(found[task_id], parts.PARTS)
            if size > parts.PORTION_BYTES:
                yield readable(connection, portion, parts.PARTS)
                portion, size = [], 0
        yield readable(connection, portion, parts.PARTS)


def newest_waiting(connection: Connection) -> str | None:
    """The position of the newest task that waits."""
    found = find(connection, {"lane": model.Lane.WAITING.value}, {"at": 1}, ("at", DESCENDING), 1)
    return str(found[0].get("at", "")) if found else None


def census(connection: Connection, owner: str | None) -> dict[states.State, int]:
    """Tasks that have not ended, by state, of one owner or of all."""
    mine: Document = {} if owner is None else {"owner": owner}
    stages: list[Document] = [
        {"$match": {**mine, "state": {"$in": sorted(state.value for state in states.LIVE)}}},
        {"$group": {"_id": "$state", "tasks": {"$sum": 1}}},
    ]
    counts = {each["_id"]: each["tasks"] for each in connection.run(lambda: list(connection.tasks.aggregate(stages)))}
    return {state: counts.get(state.value, 0) for state in sorted(states.LIVE)}


def under_way(connection: Connection, owners: Collection[str]) -> dict[str, int]:
    """`Store.under_way`."""
    counts: dict[str, int] = {}
    for chunk in _chunks(list(owners)):
        live = {"$in": sorted(state.value for state in states.LIVE)}
        stages: list[Document] = [
            {"$match": {"lane": model.Lane.ACTIVE.value, "owner": {"$in": chunk}, "state": live}},
            {"$group": {"_id": "$owner", "tasks": {"$sum": 1}}},
        ]
        counts |= connection.run(functools.partial(_counted, connection, stages))
    return {owner: counts.get(owner, 0) for owner in owners}


def _counted(connection: Connection, stages: list[Document]) -> dict[str, int]:
    return {each["_id"]: each["tasks"] for each in connection.tasks.aggregate(stages)}


def told(unreadable: documents.Unreadable) -> errors.Unavailable:
    """What the caller of the API hears of a record that cannot be read."""
    telemetry.log(_log, logging.ERROR, "store.record_unreadable", task=unreadable.task_id, why=unreadable.why)
    return errors.Unavailable("this task's record cannot be read by this server; its log has the reason", retry_after=60.0)
