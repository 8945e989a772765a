"""`tes-server store`: prepare, check and migrate a database that several servers share, when they are deployed.

Heavy imports stay inside the commands, as in `cli`.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from tes_server import cli_options, errors

if TYPE_CHECKING:
    from tes_server.store.mongo_connection import Connection


@click.group(short_help="Prepare a database that several servers share.")
def store() -> None:
    """Prepare, check and migrate a MongoDB database (or Azure's that speak its protocol). SQLite needs none of it."""


@store.command(short_help="Make collections and indexes.")
@cli_options.place
@click.option("--throughput", type=click.IntRange(min=400), help="Cosmos DB (RU): request units a second for the database, if it is made now.")
@click.option("--autoscale", is_flag=True, help="Cosmos DB (RU): --throughput is the most it scales to.")
def init(throughput: int | None, autoscale: bool, **given: Any) -> None:
    """Make what is missing: collections, indexes; on Cosmos DB (RU) also the database, its throughput and the shard keys. Idempotent."""
    from tes_server.store import mongo_schema

    with _connected(given) as connection:
        for made in mongo_schema.init(connection, throughput or 0, autoscale):
            click.echo(f"made  {made}")
        click.echo(f"ok    {_where(connection)} is prepared")


@store.command(short_help="Say what is missing.")
@cli_options.place
def check(**given: Any) -> None:
    """Say what the database lacks. Exit code 1 if there is something."""
    from tes_server.store import mongo_schema

    with _connected(given) as connection:
        wrong = mongo_schema.check(connection)
        for said in wrong:
            click.echo(f"no    {said}")
        if not wrong:
            click.echo(f"ok    {_where(connection)} is prepared")
    sys.exit(1 if wrong else 0)


@store.command(short_help="Rewrite tasks of an older version.")
@cli_options.place
def migrate(**given: Any) -> None:
    """Rewrite tasks that an older tes-server stored. Servers may run meanwhile; they read both."""
    from tes_server.store import mongo_schema

    with _connected(given) as connection:
        click.echo(f"ok    {mongo_schema.migrate(connection)} tasks rewritten in {_where(connection)}")


@contextlib.contextmanager
def _connected(given: dict[str, Any]) -> Iterator[Connection]:
    from tes_server import app, telemetry

    settings = cli_options.settings(given)
    telemetry.set_up_logging(settings.log.level)
    if app.store_url(settings).startswith("sqlite:"):
        raise errors.SettingsError("sqlite: is prepared by the server itself", "store.url")
    account = app.mongo_account(settings)
    from tes_server.store.mongo_connection import Connection

    connection = Connection(account, patience=settings.store.patience)
    try:
        yield connection
    finally:
        connection.close()


def _where(connection: Connection) -> str:
    return f"the database {connection.account.database!r} ({connection.account.product})"
