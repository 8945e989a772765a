"""Verdicts of image scans in the MongoDB store: small documents of `meta`, found by `_id` alone. Each call is safe to repeat.

A collection and an index of their own would cost money on Cosmos DB and a migration everywhere, and there are some thousands
of them at most. Must never judge one.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection, Iterable, Iterator

from pymongo import ASCENDING
from pymongo import errors as driver

from tes_server import telemetry
from tes_server.model.verdict import ScanKey, Verdict
from tes_server.store import base, parts
from tes_server.store.mongo_connection import Connection, Document

_log = logging.getLogger(__name__)

CHUNK = 500
"""Ids in one `$in`, and documents in one page."""

_PREFIX = "verdict/"
_END = "verdict0"
"""Sorts behind every `_id` that begins with the prefix."""


def by_key(connection: Connection, keys: Collection[ScanKey]) -> Iterator[Verdict]:
    """Those that are there and can be read."""
    ids = sorted({_PREFIX + parts.verdict_key(key) for key in keys})
    for begin in range(0, len(ids), CHUNK):
        where = {"_id": {"$in": ids[begin : begin + CHUNK]}}
        yield from _readable(connection.run(functools.partial(_found, connection, where, "verdict")))


def keep(connection: Connection, verdict: Verdict) -> None:
    """`Store.keep`, but for what goes (`sweep`)."""
    scanned = parts.microseconds(verdict.scanned_at)
    fields = {"scanned": scanned, "expires": parts.microseconds(verdict.expires_at), "verdict": parts.encode(verdict).decode()}
    name = _PREFIX + parts.verdict_key(verdict.key)
    older = {"_id": name, "scanned": {"$not": {"$gt": scanned}}}

    def put() -> None:
        if connection.meta.update_one(older, {"$set": fields}).matched_count:
            return
        try:
            connection.meta.insert_one({"_id": name, **fields})
        except driver.DuplicateKeyError:  # a newer one, or one that another process has kept just now
            connection.meta.update_one(older, {"$set": fields})

    connection.run(put)


def page(connection: Connection, after: ScanKey | None, limit: int) -> list[Verdict]:
    """`Store.all_verdicts`."""
    found: list[Verdict] = []
    behind = _PREFIX if after is None else _PREFIX + parts.verdict_key(after)
    while missing := limit - len(found):
        documents = _behind(connection, behind, missing, "verdict")
        found += _readable(documents)
        if len(documents) < missing:
            break
        behind = documents[-1]["_id"]
    return found


def sweep(connection: Connection, verdict: Verdict) -> None:
    """Remove those that had expired `base.VERDICTS_KEPT` before `verdict` was made. A walk over all: for once a day."""
    old = parts.microseconds(verdict.scanned_at - base.VERDICTS_KEPT)
    behind = _PREFIX
    while documents := _behind(connection, behind, CHUNK, "expires"):
        behind = documents[-1]["_id"]
        gone = [document["_id"] for document in documents if not isinstance(document.get("expires"), int) or document["expires"] < old]
        if gone:
            where = {"_id": {"$in": gone}, "expires": {"$not": {"$gte": old}}}  # not one that was renewed since
            connection.run(functools.partial(connection.meta.delete_many, where))


def _behind(connection: Connection, after: str, limit: int, field: str) -> list[Document]:
    return connection.run(functools.partial(_found, connection, {"_id": {"$gt": after, "$lt": _END}}, field, limit))


def _found(connection: Connection, where: Document, field: str, limit: int = 0) -> list[Document]:
    return list(connection.meta.find(where, {field: 1}).sort("_id", ASCENDING).limit(limit))


def _readable(found: Iterable[Document]) -> Iterator[Verdict]:
    for document in found:
        try:
            yield parts.verdict_of(document.get("verdict") or "")
        except (ValueError, TypeError) as cause:  # another version's, or written by hand
            telemetry.log(_log, logging.ERROR, "store.verdict_unreadable", verdict=document["_id"], why=str(cause))
