"""What a database must have before it is used: collections, indexes, a version; made, checked and migrated at deployment time.

Cosmos DB (RU) sorts only by a field that has an index of its own, has no compound index over arrays, and charges each
index at each write: there are single fields. Elsewhere a compound index serves each list and each of the reconciler's reads.
A server that answers requests must call nothing of it but `problem` and `prepare_empty`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from pymongo import errors as driver

from tes_server import errors, telemetry
from tes_server.store import mongo_documents as documents
from tes_server.store.mongo_account import Product
from tes_server.store.mongo_connection import Connection, Document

_log = logging.getLogger(__name__)

VERSION = 1
"""Of the collections and indexes, in `meta`."""

LIVE_SECONDS = 3600
"""Live output that nobody wrote for so long is removed by the store itself."""

INDEX_PATIENCE = 3600.0
"""Seconds: an index over what is there already takes its time."""

SCHEMA = {"_id": "schema"}
"""The document of `meta` that says that a database is prepared, and by which version."""

_PREPARING = {"_id": "preparing"}

OTHERS = 5.0
"""Seconds that a server waits for another one that prepares the same empty database."""

COLLECTIONS = ("tasks", "parts", "live", "meta")
_KEEP = {"lane": {"$exists": True}}
_PREPARE = "`tes-server store init` prepares it"


class Index(msgspec.Struct, frozen=True):
    """One index; `only`: documents that it has entries for; `expire`: seconds after which documents go."""

    collection: str
    name: str
    keys: tuple[tuple[str, int], ...]
    only: dict[str, Any] | None = None
    expire: int | None = None

    def options(self) -> dict[str, Any]:
        """What `create_index` is told beside the keys."""
        options: dict[str, Any] = {"name": self.name}
        if self.only is not None:
            options["partialFilterExpression"] = self.only
        if self.expire is not None:
            options["expireAfterSeconds"] = self.expire
        return options


_COMPOUND = (
    # Lists; the first covers a MINIMAL list, so that no document is read.
    Index("tasks", "newest", (("owner", 1), ("at", -1), ("state", 1), ("canceling", 1), ("name", 1))),
    Index("tasks", "newest_of_all", (("at", -1), ("state", 1), ("canceling", 1), ("name", 1))),
    Index("tasks", "by_state", (("owner", 1), ("state", 1), ("at", -1))),
    Index("tasks", "by_state_of_all", (("state", 1), ("at", -1))),
    Index("tasks", "by_tag", (("owner", 1), ("tags", 1), ("at", -1))),
    Index("tasks", "by_name", (("owner", 1), ("name", 1), ("at", -1))),
    # The reconciler's; entries only for what waits or runs.
    Index("tasks", "queue", (("lane", 1), ("due", 1), ("shard", 1)), _KEEP),
    Index("tasks", "active", (("lane", 1), ("_id", 1), ("shard", 1)), _KEEP),
    Index("tasks", "place", (("place", 1), ("lane", 1), ("_id", 1)), {"place": {"$exists": True}}),
    Index("tasks", "waiting", (("lane", 1), ("at", 1), ("shard", 1), ("due", 1), ("owner", 1)), _KEEP),
    Index("tasks", "waiting_by_owner", (("lane", 1), ("owner", 1), ("at", 1), ("shard", 1), ("due", 1)), _KEEP),
    Index("live", "until", (("until", 1),)),
    Index("live", "expire", (("expire", 1),), expire=0),
)
_SINGLE = (
    *(Index("tasks", field, ((field, 1),)) for field in ("at", "owner", "state", "canceling", "tags", "name", "lane", "due", "shard", "place")),
    Index("live", "until", (("until", 1),)),
    Index("live", "expire", (("_ts", 1),), expire=LIVE_SECONDS),
)


def indexes(product: Product) -> tuple[Index, ...]:
    """The indexes that the store's queries rely on, beside `_id`."""
    return _SINGLE if product is Product.COSMOS_RU else _COMPOUND


def creations(throughput: int, autoscale: bool) -> Iterator[Mapping[str, Any]]:
    """Cosmos DB's (RU) own commands: the database with its throughput (RU/s, shared by the collections), each collection sharded by `_id`."""
    offer: dict[str, Any] = {}
    if throughput:
        offer = {"autoScaleSettings": {"maxThroughput": throughput}} if autoscale else {"offerThroughput": throughput}
    yield {"customAction": "CreateDatabase", **offer}
    for name in COLLECTIONS:
        yield {"customAction": "CreateCollection", "collection": name, "shardKey": "_id"}


def init(connection: Connection, throughput: int = 0, autoscale: bool = False) -> list[str]:
    """Make what is missing; what was made, in words. Idempotent. Raises `errors.SettingsError` for a database of a newer version."""
    _refuse_newer(connection)
    product = connection.account.product
    there = set(connection.run(connection.database.list_collection_names))
    if product is Product.COSMOS_RU:
        commands = {command.get("collection", "the database"): command for command in creations(throughput, autoscale)}
    else:
        commands = {name: {"create": name} for name in COLLECTIONS}
    made = [name for name, command in commands.items() if name not in there and _created(connection, command)]
    for index in _missing(connection):
        create = connection.database[index.collection].create_index
        connection.run(functools.partial(create, list(index.keys), **index.options()), INDEX_PATIENCE)
        made.append(f"index {index.collection}.{index.name}")
    wanted = {"$set": {"version": VERSION, "product": product.value}}
    connection.run(lambda: connection.meta.update_one(SCHEMA, wanted, upsert=True))
    connection.run(lambda: connection.meta.delete_one(_PREPARING))
    return made


def prepare_empty(connection: Connection) -> bool:
    """Prepare a database in which there is nothing yet, or wait until another server has. False where there is something, and on
    Cosmos DB (RU): there collections cost money, and a login of a server seldom may make them."""
    if connection.account.product is Product.COSMOS_RU:
        return False
    there = set(connection.run(connection.database.list_collection_names))
    if not there <= set(COLLECTIONS):
        return False
    if any(connection.run(functools.partial(each.find_one, where, {"_id": 1})) for each, where in ((connection.tasks, {}), (connection.meta, SCHEMA))):
        return problem(connection) is None  # another server has prepared it in this moment
    mine = {**_PREPARING, "by": documents.token()}
    if connection.run(functools.partial(_claimed, connection, mine)):
        init(connection)
        telemetry.log(_log, logging.WARNING, "store.prepared", database=connection.account.database)
        return True
    until = time.monotonic() + OTHERS
    while connection.run(lambda: connection.meta.find_one(_PREPARING)) is not None and time.monotonic() < until:
        time.sleep(0.1)
    if problem(connection) is not None:
        init(connection)  # who had begun was ended in the midst of it, or is slow: it does no harm to do it twice
    return True


def _claimed(connection: Connection, mine: Document) -> bool:
    with contextlib.suppress(driver.DuplicateKeyError):  # another server's, or ours of a try that was not answered
        connection.meta.insert_one(dict(mine))
    return connection.meta.find_one(mine) is not None


def check(connection: Connection) -> list[str]:
    """What is missing or wrong, in words; empty if the database is ready."""
    _refuse_newer(connection)
    found = [f"index {index.collection}.{index.name} is missing" for index in _missing(connection)]
    if (said := problem(connection)) is not None:
        found.insert(0, said)
    old = connection.run(lambda: connection.tasks.find_one({"v": {"$lt": documents.VERSION}}, {"_id": 1}))
    if old is not None:
        found.append("there are tasks of an older version: `tes-server store migrate` rewrites them (they can be used as they are)")
    return found


def problem(connection: Connection) -> str | None:
    """Why a server must not use this database, or None. One small read."""
    schema = connection.run(lambda: connection.meta.find_one(SCHEMA))
    if schema is None:
        empty = "" if connection.account.product is Product.COSMOS_RU else "; an empty one is prepared by the first server"
        return f"the database {connection.account.database!r} is not prepared: {_PREPARE}{empty}"
    version = schema.get("version")
    if version != VERSION:
        newer = isinstance(version, int) and version > VERSION
        return f"the database has version {version!r}, this program knows {VERSION}: " + ("use a newer tes-server" if newer else _PREPARE)
    return None


def migrate(connection: Connection, batch: int = 200) -> int:
    """Rewrite tasks of older versions, in batches; how many. May run beside servers: a task that moves meanwhile is left to its next turn."""
    done = 0
    after = ""
    while True:
        where = {"_id": {"$gt": after}, "v": {"$lt": documents.VERSION}}
        page = connection.run(functools.partial(_page, connection, where, batch))
        if not page:
            return done
        after = page[-1]["_id"]
        for old in page:
            new = documents.current(old)
            same = {"_id": old["_id"], "revision": old.get("revision"), "v": old["v"]}
            done += connection.run(functools.partial(connection.tasks.replace_one, same, new)).matched_count


def _page(connection: Connection, where: Document, size: int) -> list[Document]:
    return list(connection.tasks.find(where).sort("_id", 1).limit(size))


def _missing(connection: Connection) -> list[Index]:
    there = set(connection.run(connection.database.list_collection_names))
    known: dict[str, list[tuple[tuple[str, int], ...]]] = {}
    for name in COLLECTIONS:
        if name in there:
            found = connection.run(connection.database[name].index_information)
            known[name] = [tuple((field, int(way)) for field, way in index["key"] if isinstance(way, int | float)) for index in found.values()]
    return [index for index in indexes(connection.account.product) if index.keys not in known.get(index.collection, [])]


def _created(connection: Connection, command: Mapping[str, Any]) -> bool:
    """False if it was there: a database that somebody else made is fine."""

    def create() -> bool:
        try:
            connection.database.command(dict(command))
        except driver.OperationFailure as cause:
            if cause.code == 48 or "already exists" in str(cause).lower():  # NamespaceExists
                return False
            raise
        return True

    return connection.run(create, 120.0)


def _refuse_newer(connection: Connection) -> None:
    schema = connection.run(lambda: connection.meta.find_one(SCHEMA))
    if schema is not None and isinstance(version := schema.get("version"), int) and version > VERSION:
        raise errors.SettingsError(f"the database has version {version}, this program knows {VERSION}: use a newer tes-server", "store.url")
