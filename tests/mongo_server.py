"""The MongoDB-wire server that tests run against, and databases of their own on it.

`MONGO_TEST_URL` names it (any: a genuine MongoDB, Azure's); without it the one that `../shared/mongo/up` starts is tried.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator, Sequence

import pymongo
from pymongo import monitoring
from pymongo.errors import PyMongoError

from tes_server.store import mongo_account, mongo_schema
from tes_server.store.mongo_connection import Connection
from tests.integration.conftest import unreachable

USUAL = "mongodb://127.0.0.1:27117/?retryWrites=false"


def url() -> str:
    """The server's connection string; skips, or fails, where it does not answer."""
    named = os.environ.get("MONGO_TEST_URL") or USUAL
    client: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient(named, serverSelectionTimeoutMS=2000)
    try:
        client.admin.command("ping")
    except PyMongoError as why:
        unreachable("MongoDB", f"{type(why).__name__} (../shared/mongo/up starts a server, MONGO_TEST_URL names another)")
    finally:
        client.close()
    return named


@contextlib.contextmanager
def database(named: str) -> Iterator[mongo_account.Account]:
    """A prepared database that is dropped afterwards."""
    account = mongo_account.account(named, f"tes_test_{uuid.uuid4().hex[:12]}")
    with connected(account) as connection:
        mongo_schema.init(connection)
        try:
            yield account
        finally:
            connection.run(lambda: connection.database.client.drop_database(account.database))


@contextlib.contextmanager
def connected(account: mongo_account.Account, listeners: Sequence[monitoring.CommandListener] = ()) -> Iterator[Connection]:
    """A connection for what tests do behind the store's back."""
    connection = Connection(account, listeners=listeners)
    try:
        yield connection
    finally:
        connection.close()


def empty(account: mongo_account.Account) -> None:
    """Remove all records and leases; collections and indexes stay."""
    with connected(account) as connection:
        for collection in (connection.tasks, connection.parts, connection.live):
            collection.delete_many({})
        connection.meta.delete_many({"_id": {"$ne": "schema"}})
