"""`tes-server store`: prepare, check and migrate a database that several servers share, and copy one store to another.

Heavy imports stay inside the commands, as in `cli`.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click
import msgspec

from tes_server import cli_options, errors
from tes_server.settings import Settings

if TYPE_CHECKING:
    from tes_server.store.base import Store
    from tes_server.store.copy import Progress
    from tes_server.store.mongo_connection import Connection


PATIENCE = 60.0
"""Seconds that a copy waits for a store that is throttled or away: nobody waits for an answer to each of its calls."""

PACE = 2.0
"""Seconds between two lines that tell how far a copy is."""


@click.group(short_help="Prepare a database that several servers share; copy tasks.")
def store() -> None:
    """Prepare, check and migrate a MongoDB database (or Azure's that speak its protocol). Copy tasks from any store to any other."""


@store.command(short_help="Make collections and indexes.")
@cli_options.place
@click.option("--throughput", type=click.IntRange(min=400), help="Cosmos DB (RU): request units a second for the database, if it is made now.")
@click.option("--autoscale", is_flag=True, help="Cosmos DB (RU): --throughput is the most it scales to.")
def init(throughput: int | None, autoscale: bool, **given: Any) -> None:
    """Make what is missing: collections, indexes; on Cosmos DB (RU) also the database, its throughput and the shard keys. Idempotent."""
    with _connected(given) as connection:
        from tes_server.store import mongo_account, mongo_schema

        if throughput and connection.account.product is not mongo_account.Product.COSMOS_RU:
            raise errors.SettingsError(f"is for Cosmos DB (RU), and this is {_where(connection)}", "--throughput")
        for made in mongo_schema.init(connection, throughput or 0, autoscale):
            click.echo(f"made  {made}")
        click.echo(f"ok    {_where(connection)} is prepared")


@store.command(short_help="Say what is missing.")
@cli_options.place
def check(**given: Any) -> None:
    """Say what the database lacks. Exit code 1 if there is something."""
    with _connected(given) as connection:
        from tes_server.store import mongo_schema

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
    with _connected(given) as connection:
        from tes_server.store import mongo_schema

        if (said := mongo_schema.problem(connection)) is not None:
            raise errors.SettingsError(said, "store.url")
        click.echo(f"ok    {mongo_schema.migrate(connection)} tasks rewritten in {_where(connection)}")


@store.command(short_help="Copy all tasks to another store.")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@cli_options.place
@click.option("--force", is_flag=True, help="Even if a server seems to be at work on one of them.")
def copy(source: str, target: str, force: bool, **given: Any) -> None:
    """Copy all tasks, running ones too, and verdicts of image scans to another store; what is there is left, so that it may be repeated.

    FROM and TO: a data directory, sqlite:FILE, mongodb://... (or mongodb+srv://), or @FILE, a file that holds one of these: a
    password does not belong on a command line. Stop the servers on both before. Exit code 1 if something could not be copied.
    """
    from tes_server import app, telemetry
    from tes_server.store import copy as copying

    settings = cli_options.settings(given)
    telemetry.set_up_logging(settings.log.level)
    before, after = _settings_of(source, settings, must_exist=True), _settings_of(target, settings, must_exist=False)
    places = app.store_place(before), app.store_place(after)
    if places[0] == places[1]:
        raise errors.SettingsError("FROM and TO are the same", places[0])
    with contextlib.ExitStack() as opened:
        there = _opened(before, places[0], force, opened)
        told = _Teller(there.count())
        try:
            progress = copying.copy(there, _opened(after, places[1], force, opened), told)
        except KeyboardInterrupt:
            raise click.ClickException(f"stopped after {told.seen} tasks; the same command again goes on from there") from None
    click.echo(f"ok    of {progress.seen} tasks {progress.copied} were copied, {progress.changed} brought up to date, {progress.there} there already")
    if progress.verdicts:
        click.echo(f"ok    {progress.verdicts} verdicts of image scans were copied")
    for what, some in (
        ("have the id of another task there, and were left out", progress.other),
        ("are larger than it can hold", progress.too_large),
        (f"are not in {places[1]} as they are in {places[0]}; copy again, the log tells of tasks that cannot be read", progress.missing),
    ):
        if some.count:
            click.echo(f"no    {some.count} tasks {what}: {', '.join(some.first)}{', ...' if some.count > len(some.first) else ''}")
    sys.exit(1 if progress.missing.count else 0)


def _settings_of(named: str, settings: Settings, *, must_exist: bool) -> Settings:
    """The settings with which a server uses the store that the command line names."""
    from tes_server import app

    url = named
    if named.startswith("@"):
        url = app.store_url(_with_store(settings, url_file=named[1:]))
    if "://" not in url and not url.startswith("sqlite:"):
        url = f"sqlite:{pathlib.Path(url) / app.TASKS}"
    found = _with_store(settings, url=url)
    if url.startswith("sqlite:"):
        file = app.sqlite_file(found)
        if must_exist and not file.is_file():
            raise errors.SettingsError(f"there is no {file}", "FROM")
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return found


def _with_store(settings: Settings, **fields: str) -> Settings:
    patience = max(settings.store.patience, PATIENCE)
    return msgspec.structs.replace(
        settings, store=msgspec.structs.replace(settings.store, patience=patience, **{"url": "", "url_file": "", "database": "", **fields})
    )


def _opened(settings: Settings, place: str, force: bool, opened: contextlib.ExitStack) -> Store:
    """The store, with no server at work on it as far as that can be told; on a data directory none can begin meanwhile."""
    from tes_server import app, processes

    if not force and app.store_url(settings).startswith("sqlite:") and (app.sqlite_file(settings).parent / processes.LOCK).exists():
        opened.callback(os.close, processes.own(app.sqlite_file(settings).parent))
    kept = app.store(settings)
    opened.callback(kept.close)
    kept.check()
    if not force and (who := kept.at_work()):
        raise errors.SettingsError(f"{who} is at work on it: stop the servers first (--force copies nevertheless)", place)
    return kept


class _Teller:
    """How far it is, on stderr."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._next = time.monotonic() + PACE
        self.seen = 0

    def __call__(self, what: str, progress: Progress) -> None:
        self.seen = progress.seen
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + PACE
            click.echo(f"      {what}: {progress.seen} of about {self._count} tasks", err=True)


def condition(settings: Settings) -> tuple[bool, str]:
    """Whether the task store can be used, and what can be said of it."""
    from tes_server import app

    place = app.store_place(settings)
    if app.store_url(settings).startswith("sqlite:") and not app.sqlite_file(settings).exists():
        return True, f"{place}: made at the first start"
    hasty = msgspec.structs.replace(settings.store, patience=min(settings.store.patience, 3.0))
    try:
        with contextlib.closing(app.store(msgspec.structs.replace(settings, store=hasty))) as kept:
            kept.check()
            return True, f"{place}: answers, {kept.count()} tasks"
    except errors.Unavailable as cause:
        return False, f"{place}: {_told(cause)}"
    except errors.TesServerError as cause:
        return False, f"{place}: {cause.public}"


def _told(cause: errors.Unavailable) -> str:
    """With the database's own words instead of a hint at a log."""
    return f"{cause.public.partition(';')[0]}: {cause.why}" if cause.why else cause.public


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
    except errors.Unavailable as cause:
        raise errors.Unavailable(_told(cause)) from cause
    finally:
        connection.close()


def _where(connection: Connection) -> str:
    return f"the database {connection.account.database!r} ({connection.account.product})"
