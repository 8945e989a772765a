"""Writes of the MongoDB store, each safe to repeat: nobody knows after a cut connection whether the last try took effect.

An insert bears a token and a save a mark; where a repeat meets something, reading these back tells what became of the try
before. A task's own document is written last and alone decides: pieces that it does not point to belong to nobody.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence

import msgspec
from pymongo import UpdateOne
from pymongo import errors as driver
from pymongo.collection import Collection

from tes_server import errors
from tes_server.model import record as model
from tes_server.store import mongo_documents as documents
from tes_server.store.mongo_connection import DUPLICATE, Connection, Document

CHUNK = 500
"""Ids in one `$in`, or documents in one call."""

CHUNK_BYTES = 8_000_000
"""Bytes of pieces in one call: what is throttled is sent again as a whole."""


class Insert(msgspec.Struct, frozen=True):
    """New records, all or none. With several of them, others may see some for a moment before they are taken back."""

    news: tuple[documents.New, ...]
    undo: Callable[[str], None] | None = None
    """see `Store.insert`"""


def insert(connection: Connection, ops: Sequence[Insert]) -> list[errors.Conflict | None]:
    """Insert what may be inserted, with few calls for the whole group. One outcome for each op."""
    news = [new for op in ops for new in op.news]
    put_pieces(connection, [piece for new in news for piece in new.pieces])
    refused = put_tasks(connection, [new.document for new in news])
    if not refused:
        return [None] * len(ops)
    outcomes: list[errors.Conflict | None] = []
    back: list[documents.New] = []
    for op in ops:
        failed = any(new.document["token"] in refused for new in op.news)
        outcomes.append(errors.Conflict("a task with this id exists") if failed else None)
        back += op.news if failed else ()
    _take_back(connection, back)
    return outcomes


def put_pieces(connection: Connection, pieces: Sequence[Document]) -> None:
    """Insert pieces, as many in a call as it bears."""
    for chunk in _chunks(pieces):
        connection.run(functools.partial(_insert_new, connection.parts, chunk))


def put_tasks(connection: Connection, tasks: Sequence[Document]) -> set[str]:
    """The tokens of those whose id is another's."""
    refused: set[str] = set()
    for begin in range(0, len(tasks), CHUNK):
        chunk = tasks[begin : begin + CHUNK]
        met = connection.run(functools.partial(_insert_new, connection.tasks, chunk))
        if met:  # by somebody else's task, or by our own of a try before
            owners = _field(connection, "token", {task["_id"] for task in met})
            refused.update(task["token"] for task in met if owners.get(task["_id"]) != task["token"])
    return refused


def _insert_new(collection: Collection[Document], new: Sequence[Document]) -> list[Document]:
    """Insert all; those whose `_id` was there."""
    try:
        collection.insert_many(new, ordered=False)
    except driver.BulkWriteError as cause:
        failures = cause.details.get("writeErrors", [])
        if cause.details.get("writeConcernErrors") or any(failure.get("code") != DUPLICATE for failure in failures):
            raise
        return [new[failure["index"]] for failure in failures]
    return []


def _take_back(connection: Connection, news: Iterable[documents.New]) -> None:
    for new in news:
        take_back(connection, new)


def take_back(connection: Connection, new: documents.New) -> bool:
    """Remove what an insert stored, if it stored anything. False if the task has moved since: then it stays."""
    mine = {"_id": new.document["_id"], "token": new.document["token"]}
    unmoved = {**mine, "revision": new.document["revision"]}
    connection.run(functools.partial(connection.tasks.delete_one, unmoved))
    if connection.run(functools.partial(connection.tasks.find_one, mine, {"_id": 1})) is not None:
        return False
    drop(connection, [piece["_id"] for piece in new.pieces])
    return True


def drop(connection: Connection, keys: Sequence[str]) -> None:
    """Remove pieces."""
    for begin in range(0, len(keys), CHUNK):
        chunk = list(keys[begin : begin + CHUNK])
        connection.run(functools.partial(connection.parts.delete_many, {"_id": {"$in": chunk}}))


def save(connection: Connection, changes: Sequence[model.Change]) -> set[str]:
    """Compare-and-swap of each change by itself; the ids that lost.

    Where the outcome of a try was not known and another save came on top of it before it could be read back, a change is
    told to have lost although it was made for a moment: the caller looks at the newer revision, as after any lost race.
    """
    lost: set[str] = set()
    for begin in range(0, len(changes), CHUNK):
        lost |= swap(connection, [(change, change.revision) for change in changes[begin : begin + CHUNK]])
    return lost


def swap(connection: Connection, pairs: Sequence[tuple[model.Change, int]]) -> set[str]:
    """As `save`, for up to `CHUNK` changes, each where the stored revision is the number beside it."""
    changes = [change for change, _ in pairs]
    stored = {change.id: revision for change, revision in pairs}
    mark = documents.token()
    updates = {change.id: documents.update(change, mark) for change in changes}
    pieces = {task_id: made for task_id, (_, made) in updates.items() if made}
    before = _pointed(connection, list(pieces)) if pieces else {}
    put_pieces(connection, [piece for made in pieces.values() for piece in made])
    calls = [UpdateOne({"_id": change.id, "revision": stored[change.id]}, updates[change.id][0]) for change in changes]
    made = connection.run(lambda: connection.tasks.bulk_write(calls, ordered=False).matched_count)
    lost: set[str] = set()
    if made != len(changes):
        marks = _field(connection, "write", set(updates))
        lost = {task_id for task_id in updates if marks.get(task_id) != mark}
    # What nobody points to any more: pieces of those that lost, and those that a winner replaced.
    # One that was made and then told as lost is still pointed to, where the save on top of it left that part as it was.
    losers = _pointed(connection, [task_id for task_id in pieces if task_id in lost]) if lost & pieces.keys() else {}
    kept = {key for document in losers.values() for key in documents.keys(document, ("logs", "detail"))}
    gone = [piece["_id"] for task_id, new in pieces.items() if task_id in lost for piece in new if piece["_id"] not in kept]
    for change in changes:
        if change.id in before and change.id not in lost and before[change.id].get("revision") == stored[change.id]:
            replaced = [part for part, value in (("logs", change.logs), ("detail", change.detail)) if value is not None]
            gone += documents.keys(before[change.id], replaced)
    drop(connection, gone)
    return lost


def _pointed(connection: Connection, ids: Sequence[str]) -> dict[str, Document]:
    fields = {"revision": 1, "parts.logs": 1, "parts.detail": 1}
    found = connection.run(lambda: list(connection.tasks.find({"_id": {"$in": list(ids)}}, fields)))
    return {document["_id"]: document for document in found}


def _field(connection: Connection, name: str, ids: set[str]) -> dict[str, object]:
    found = connection.run(lambda: list(connection.tasks.find({"_id": {"$in": sorted(ids)}}, {name: 1})))
    return {document["_id"]: document.get(name) for document in found}


def _chunks(pieces: Sequence[Document]) -> Iterable[list[Document]]:
    chunk: list[Document] = []
    size = 0
    for piece in pieces:
        if chunk and (len(chunk) == CHUNK or size + len(piece["body"]) > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(piece)
        size += len(piece["body"])
    if chunk:
        yield chunk
