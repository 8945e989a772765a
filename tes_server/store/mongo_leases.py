"""The board of `leases`, as one document of the MongoDB store. Must never judge who is alive."""

from __future__ import annotations

import contextlib
from typing import Any

from pymongo import errors as driver

from tes_server.model import record as model
from tes_server.store import mongo_documents as documents
from tes_server.store.leases import Board
from tes_server.store.mongo_connection import Connection, Document

_ID = "shards"


class MongoShelf:
    """The document `shards` of `meta`. `leases.Shelf`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def read(self) -> Board:
        """`Shelf.read`. Whatever somebody wrote there by hand: what makes no sense is nobody's."""
        found = self._connection.run(lambda: self._connection.meta.find_one({"_id": _ID}))
        if found is not None and not isinstance(found.get("revision"), int):
            same = {"_id": _ID, "revision": found.get("revision")}
            self._connection.run(lambda: self._connection.meta.delete_one(same))
            found = None
        if found is None:
            self._create()
            return Board()
        members = {each["name"]: each["beat"] for each in _list(found, "members") if _is_member(each)}
        owners = [owner if isinstance(owner, str) else "" for owner in _list(found, "owners")][: model.SHARDS]
        return Board(found["revision"], members, (*owners, *[""] * (model.SHARDS - len(owners))))

    def swap(self, before: Board, after: Board) -> bool:
        """`Shelf.swap`."""
        mark = documents.token()
        same = {"_id": _ID, "revision": before.revision}
        done = self._connection.run(lambda: self._connection.meta.update_one(same, {"$set": _document(after, mark)}).matched_count)
        if done:
            return True
        found = self._connection.run(lambda: self._connection.meta.find_one({"_id": _ID}, {"write": 1}))
        return found is not None and found.get("write") == mark

    def _create(self) -> None:
        def create() -> None:
            with contextlib.suppress(driver.DuplicateKeyError):
                self._connection.meta.insert_one({"_id": _ID, **_document(Board(), "")})

        self._connection.run(create)


def _list(found: Document, name: str) -> list[Any]:
    return value if isinstance(value := found.get(name), list) else []


def _is_member(each: object) -> bool:
    return isinstance(each, dict) and isinstance(each.get("name"), str) and isinstance(each.get("beat"), int)


def _document(board: Board, mark: str) -> Document:
    members = [{"name": name, "beat": beat} for name, beat in sorted(board.members.items())]
    return {"revision": board.revision, "write": mark, "members": members, "owners": list(board.owners)}
