"""Databases for benchmarks, on the MongoDB server that `--url` or `MONGO_TEST_URL` names."""

from __future__ import annotations

import argparse
import contextlib
import os
import uuid
from collections.abc import Iterator, Sequence

from pymongo import monitoring

from tes_server import errors
from tes_server.store import mongo_account, mongo_schema
from tes_server.store.mongo_connection import Connection, Document


def add_url(parser: argparse.ArgumentParser) -> None:
    """The option `--url`."""
    parser.add_argument("--url", default=os.environ.get("MONGO_TEST_URL", ""), help="connection string; default: MONGO_TEST_URL")


@contextlib.contextmanager
def connected(account: mongo_account.Account, listeners: Sequence[monitoring.CommandListener] = ()) -> Iterator[Connection]:
    """A connection of the benchmark's own."""
    connection = Connection(account, listeners=listeners)
    try:
        yield connection
    finally:
        connection.close()


@contextlib.contextmanager
def database(url: str, name: str = "") -> Iterator[mongo_account.Account]:
    """A prepared database. One without a `name` is dropped afterwards; one with it is kept for the next run."""
    if not url:
        raise SystemExit("which MongoDB? --url or MONGO_TEST_URL names it")
    account = mongo_account.account(url, name or f"tes_benchmark_{uuid.uuid4().hex[:12]}")
    with connected(account) as connection:
        try:
            mongo_schema.init(connection)
            yield account
        except errors.Unavailable as cause:
            raise SystemExit(f"MongoDB: {cause}") from cause
        finally:
            if not name:
                connection.database.client.drop_database(account.database)


def version(account: mongo_account.Account) -> str:
    """What the server says that it is."""
    with connected(account) as connection:
        told: Document = connection.run(connection.database.client.server_info)
        return str(told.get("version", "?"))
