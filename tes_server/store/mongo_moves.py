"""Records that leave the MongoDB store for good, and records that come to it from another one. Each call is safe to repeat.

As in `mongo_changes` a task's own document decides: it goes before its pieces and comes after them. Must never judge which
records should go or come.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from pymongo import DeleteOne

from tes_server import errors
from tes_server.model import record as model
from tes_server.store import base, mongo_changes, parts
from tes_server.store import mongo_documents as documents
from tes_server.store.mongo_connection import Connection, Document

EXPIRED = 20
"""Records removed at once: what is throttled or slow is sent again as a whole, and other calls come in between."""

TRIES = 3
"""A record that changes so often between a look and a write is being worked on."""


def expire(connection: Connection, records: Sequence[model.Record]) -> int:
    """`Store.expire`. A process that is killed in the midst of it may leave pieces that belong to nobody."""
    gone = 0
    for begin in range(0, len(records), EXPIRED):
        gone += _expire(connection, {record.id: record.revision for record in records[begin : begin + EXPIRED]})
    return gone


def _expire(connection: Connection, revisions: dict[str, int]) -> int:
    there = _find(connection, list(revisions), "revision", "parts")
    going = {task_id: document for task_id, document in there.items() if document.get("revision") == revisions[task_id]}
    if not going:
        return 0
    calls = [DeleteOne({"_id": task_id, "revision": revisions[task_id]}) for task_id in going]
    if connection.run(lambda: connection.tasks.bulk_write(calls, ordered=False).deleted_count) != len(going):
        # Some were changed since, or a try before took them whose answer was lost.
        for task_id in _find(connection, list(going)):
            del going[task_id]
    mongo_changes.drop(connection, [key for document in going.values() for key in documents.keys(document, parts.PARTS)])
    connection.run(functools.partial(connection.live.delete_many, {"_id": {"$in": list(going)}}))
    return len(going)


def restore(connection: Connection, records: Sequence[model.Record]) -> dict[str, base.Restored]:
    """`Store.restore`."""
    became: dict[str, base.Restored] = {}
    for begin in range(0, len(records), mongo_changes.CHUNK):
        left = list(records[begin : begin + mongo_changes.CHUNK])
        for _ in range(TRIES):
            became |= _restore(connection, left)
            left = [record for record in left if record.id not in became]
            if not left:
                break
        else:
            raise errors.Unavailable("the tasks change while they are copied; is a server at work on them?")
    return became


def _restore(connection: Connection, records: Sequence[model.Record]) -> dict[str, base.Restored]:
    """What became of the records; those that somebody else wrote meanwhile are left out."""
    there = _find(connection, [record.id for record in records], "owner", "at", "revision")
    became: dict[str, base.Restored] = {}
    news: list[documents.New] = []
    older: list[tuple[model.Change, int]] = []
    for record in records:
        found = there.get(record.id)
        try:
            if found is None:
                news.append(documents.new(record))
            elif (found.get("owner"), found.get("at")) != (record.owner, documents.position(record.created, record.id)):
                became[record.id] = base.Restored.OTHER
            elif not isinstance(found.get("revision"), int) or found["revision"] >= record.revision:
                became[record.id] = base.Restored.THERE
            else:
                documents.update(change := parts.arrival(record), "")  # raises for what is too large
                older.append((change, found["revision"]))
        except errors.TooLarge:
            became[record.id] = base.Restored.TOO_LARGE
    return became | _made(connection, news) | _changed(connection, older)


def _made(connection: Connection, news: Sequence[documents.New]) -> dict[str, base.Restored]:
    mongo_changes.put_pieces(connection, [piece for new in news for piece in new.pieces])
    refused = mongo_changes.put_tasks(connection, [new.document for new in news])
    mongo_changes.drop(connection, [piece["_id"] for new in news if new.document["token"] in refused for piece in new.pieces])
    return {new.document["_id"]: base.Restored.MADE for new in news if new.document["token"] not in refused}


def _changed(connection: Connection, older: Sequence[tuple[model.Change, int]]) -> dict[str, base.Restored]:
    lost = mongo_changes.swap(connection, older) if older else set()
    return {change.id: base.Restored.CHANGED for change, _ in older if change.id not in lost}


def _find(connection: Connection, ids: Sequence[str], *fields: str) -> dict[str, Document]:
    """Those of the tasks' documents that exist, by id, with some of their fields."""
    found = connection.run(lambda: list(connection.tasks.find({"_id": {"$in": list(ids)}}, dict.fromkeys(("_id", *fields), 1))))
    return {document["_id"]: document for document in found}
