"""The composition root: from settings to a store, a service and a reconciler, with the backends of `platforms`. Decides nothing."""

from __future__ import annotations

import datetime
import functools
import hashlib
import importlib.util
import os
import pathlib
import random
import secrets
import socket

import msgspec

import tes_server
from tes_server import audit_rules, auth_rules, errors, machine, platforms, scan_checks, scan_rules, server_rules, site_rules, structs
from tes_server.backends.base import Backend
from tes_server.backends.local import place
from tes_server.control import retention
from tes_server.control.decide import Rules
from tes_server.control.desk import Desk
from tes_server.control.limits import Bounds, Limits
from tes_server.control.reconciler import Pace, Reconciler
from tes_server.control.scans import Scanning
from tes_server.control.service import About, Service
from tes_server.digests.base import Resolved, Resolver
from tes_server.filer import spool_place
from tes_server.model.run import Reason
from tes_server.model.task import Task
from tes_server.plan import parameters, route
from tes_server.plan.policy import Target
from tes_server.settings import Settings, StoreSettings
from tes_server.store.base import Store
from tes_server.store.mongo_account import Account, account

TASKS = "tasks.sqlite"
"""The embedded store's file in the data directory."""


def clock() -> datetime.datetime:
    """Now, in UTC: the one clock of the server's processes."""
    return datetime.datetime.now(datetime.UTC)


def check(settings: Settings) -> None:
    """Refuse settings that contradict each other or this machine, with the key at fault."""
    auth_rules.check(settings.auth)
    server_rules.check(settings.server)
    site_rules.check(settings)
    if not store_url(settings).startswith("sqlite:"):
        mongo_account(settings)
    platforms.check(settings)
    scan_checks.check(settings)
    known = backend_names(settings)
    for number, rule in enumerate(settings.routes):
        if rule.backend not in known:
            raise errors.SettingsError(f"there is no backend {rule.backend!r}; there is {', '.join(known)}", f"routes[{number}].backend")


def backend_names(settings: Settings) -> tuple[str, ...]:
    """The backends that there are, the default first."""
    return tuple(platform.name for platform in platforms.enabled(settings))


def store(settings: Settings) -> Store:
    """The store that the settings name."""
    url = store_url(settings)
    if not url.startswith("sqlite:"):
        from tes_server.store import mongo

        options = mongo.Options(patience=settings.store.patience, lease=settings.store.lease, seat=_seat(settings))
        return mongo.MongoStore(mongo_account(settings), options)
    from tes_server.store.sqlite import SqliteStore

    return SqliteStore(sqlite_file(settings))


def _seat(settings: Settings) -> str:
    """This data directory itself, in this boot of the machine: there its lock tells that whoever had its name before is dead. A copy is another."""
    try:
        there = settings.data_directory(pathlib.Path.home(), os.environ.get("XDG_DATA_HOME", "")).stat()
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        return secrets.token_hex(8)  # nothing is known of those before
    return hashlib.sha256(f"{boot} {there.st_dev} {there.st_ino}".encode()).hexdigest()[:16]


def sqlite_file(settings: Settings) -> pathlib.Path:
    """The file of the embedded store."""
    path = store_url(settings).removeprefix("sqlite:")
    return pathlib.Path(path) if path else machine.data_directory(settings) / TASKS


def store_place(settings: Settings) -> str:
    """Where tasks are kept, in words without a secret."""
    if store_url(settings).startswith("sqlite:"):
        return str(sqlite_file(settings).resolve())
    found = mongo_account(settings)
    return f"the database {found.database!r} at {found.hosts} ({found.product})"


def store_url(settings: Settings) -> str:
    """`store.url`, or what `store.url_file` holds."""
    file = settings.store.url_file
    if not file:
        return settings.store.url
    if settings.store.url not in ("", StoreSettings().url):
        raise errors.SettingsError("names a store, and so does store.url: give one of them", "store.url_file")
    try:
        url = pathlib.Path(file).read_text().strip()
    except (OSError, UnicodeDecodeError) as cause:
        raise errors.SettingsError(f"{file} cannot be read: {cause}", "store.url_file") from cause
    if not url:
        raise errors.SettingsError(f"{file} is empty", "store.url_file")
    return url


def mongo_account(settings: Settings) -> Account:
    """The database that the settings name. Raises SettingsError for a url of another kind, and where the driver is not installed."""
    url = store_url(settings)
    if not url.startswith(("mongodb://", "mongodb+srv://")):
        raise errors.SettingsError("must begin with sqlite:, mongodb:// or mongodb+srv://", "store.url")
    if importlib.util.find_spec("pymongo") is None:
        raise errors.SettingsError("MongoDB needs more: pip install 'tes-server[mongo]'", "store.url")
    return account(url, settings.store.database)


def targets(settings: Settings) -> dict[str, Target]:
    """What tasks are checked against, by backend."""
    return {platform.name: scan_rules.roomy(settings, platform.name, platform.target(settings)) for platform in platforms.enabled(settings)}


def service(settings: Settings, kept: Store) -> Service:
    """The API's door."""
    structs.settle()
    rules = [msgspec.convert(rule, route.Rule, from_attributes=True) for rule in settings.routes]
    return Service(
        kept,
        targets(settings),
        rules,
        about(settings),
        settings.server.compat,
        clock,
        limits(settings, kept),
        audit_rules.of_server(settings, clock),
        settings.limits.running,
    )


def limits(settings: Settings, kept: Store) -> Limits | None:
    """What each owner may have and ask for; None = anything."""
    bounds = msgspec.convert(settings.limits, Bounds, from_attributes=True)
    if bounds == Bounds():
        return None
    return Limits(kept, msgspec.structs.replace(bounds, default_cores=settings.tasks.default_cpus))


def about(settings: Settings) -> About:
    """The facts of service-info."""
    server = settings.server
    places = "; or ".join(platform.where(settings) for platform in platforms.enabled(settings))
    return About(
        id=server.id,
        name=server.name,
        organization=server.organization,
        organization_url=server.organization_url,
        version=tes_server.__version__,
        description="; ".join(filter(None, (f"GA4GH TES 1.1 server; runs tasks {places}", scan_rules.words(settings)))),
        storage=site_rules.storage(settings),
        parameters=(*parameters.COMMON, *sorted({key for target in targets(settings).values() for key in target.capabilities.parameters})),
    )


def place_name(settings: Settings) -> str:
    """What this data directory is called among all that share a store."""
    return place.place(machine.data_directory(settings))


def backends(settings: Settings) -> dict[str, Backend]:
    """Backends that run tasks, resumed. Only the reconciler's process has them."""
    return {platform.name: platform.backend(settings, clock) for platform in platforms.enabled(settings)}


def resolver(settings: Settings) -> Resolver | None:
    """What makes digests of names of images; None where nothing is scanned. Only the reconciler's process has one, or a command that scans."""
    if not scan_rules.enabled(settings):
        return None
    from tes_server import digest_rules

    return digest_rules.resolver(settings)


def archive(settings: Settings) -> retention.Archive:
    """Where old tasks go. Raises SettingsError where its credentials are not there."""
    access = site_rules.access(settings, server=True).narrowed(None)
    return spool_place.shelf(settings.retention.archive, access, called="archive", setting="retention.archive", private=True)


def _retention(settings: Settings, kept: Store) -> retention.Retention | None:
    rules = settings.retention
    if not rules.days:
        return None
    return retention.Retention(kept, datetime.timedelta(days=rules.days), functools.partial(archive, settings) if rules.archive else None)


def scanning(settings: Settings) -> Scanning:
    """What the site wants of image scans. They must be enabled (`scan_rules.enabled`)."""
    return Scanning(
        modes=scan_rules.modes(settings),
        on_error=scan_rules.on_error(settings),
        policy=scan_rules.policy(settings),
        task=functools.partial(_scan_of, settings),
        findings=scan_rules.findings(settings),
        again=settings.scan.timeout if settings.scan.place == "task" else 0.0,
    )


def _scan_of(settings: Settings, image: Resolved) -> Task:
    return scan_rules.task(settings, image.pinned)


def _desk(settings: Settings, kept: Store) -> Desk | None:
    asked = resolver(settings)
    return None if asked is None else Desk(kept, asked, scanning(settings))


def reconciler(settings: Settings, kept: Store, running: dict[str, Backend]) -> Reconciler:
    """The loop of one reconciler process."""
    retries, control = settings.retries, settings.control
    return Reconciler(
        kept,
        running,
        targets(settings),
        Rules(
            budgets={
                Reason.LOST: retries.lost,
                Reason.PREEMPTED: retries.lost,
                Reason.STAGING: retries.staging,
                Reason.BACKEND: retries.backend,
                Reason.IMAGE: retries.backend,
                Reason.CAPACITY: retries.backend,
            },
            first_delay=retries.first_delay,
            longest_delay=retries.longest_delay,
            lost_after=settings.local.lost_after,
        ),
        Pace(interval=control.interval, batch=control.batch, poll=control.poll),
        # A reconciler with a place is known by it: others then see that what is at the place is looked after.
        next((backend.place for backend in running.values() if backend.place), f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"),
        clock,
        random.Random().random,  # noqa: S311 - jitter, not a secret
        _retention(settings, kept),
        _desk(settings, kept),
        running=settings.limits.running,
    )
