"""The composition root: from settings to a store, backends, a service and a reconciler. Names implementations; decides nothing."""

from __future__ import annotations

import datetime
import functools
import hashlib
import importlib.util
import os
import pathlib
import random
import secrets
import shutil
import socket

import msgspec

import tes_server
from tes_server import cluster_rules, errors, site_rules
from tes_server.backends.base import Backend
from tes_server.backends.local import place
from tes_server.backends.local.driver import LocalBackend
from tes_server.control import retention
from tes_server.control.decide import Rules
from tes_server.control.reconciler import Pace, Reconciler
from tes_server.control.service import About, Service
from tes_server.filer.control import Control
from tes_server.filer.spool_directory import SpoolDirectory
from tes_server.filer.spool_objects import SpoolObjects
from tes_server.model.run import Reason
from tes_server.plan import parameters, paths, route
from tes_server.plan.compiler import GB
from tes_server.plan.policy import Capabilities, Target
from tes_server.runner.engine import Engine
from tes_server.runner.images import Images
from tes_server.runner.site import Site
from tes_server.settings import Settings, StoreSettings
from tes_server.store.base import Store
from tes_server.store.mongo_account import Account, account

LOCAL = "local"
KUBERNETES = "kubernetes"

TASKS = "tasks.sqlite"
"""The embedded store's file in the data directory."""

ENGINES = ("docker", "podman", "sandbox")
"""Engines of the local backend, in the order in which "auto" tries them."""

FIRST_LOOK = 2.0
"""Seconds that the start waits for a cluster to tell what there is; tasks elsewhere must not wait for one that is away."""

SUBMIT_WINDOW = 10.0
"""Seconds within which a local submit (a few small files and a thread) has ended, one way or the other."""


def clock() -> datetime.datetime:
    """Now, in UTC: the one clock of the server's processes."""
    return datetime.datetime.now(datetime.UTC)


def data_directory(settings: Settings) -> pathlib.Path:
    """The data directory, made if missing, for this user only."""
    directory = settings.data_directory(pathlib.Path.home(), os.environ.get("XDG_DATA_HOME", ""))
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as cause:
        raise errors.SettingsError(f"{directory} cannot be made: {cause.strerror}", "data") from cause
    if not os.access(directory, os.W_OK | os.X_OK):
        why = "it is on a read-only file system" if os.statvfs(directory).f_flag & os.ST_RDONLY else "this user may not"
        raise errors.SettingsError(f"{directory} cannot be written to: {why}", "data")
    return directory


def check(settings: Settings) -> None:
    """Refuse settings that contradict each other or this machine, with the key at fault."""
    site_rules.check(settings)
    if not store_url(settings).startswith("sqlite:"):
        mongo_account(settings)
    if cluster_rules.enabled(settings):
        cluster_rules.check(settings)
        if importlib.util.find_spec("kubernetes") is None:
            raise errors.SettingsError("Kubernetes needs more: pip install 'tes-server[kubernetes]'", "kubernetes.namespace")
    elif settings.kubernetes.image or settings.kubernetes.kubeconfig:
        raise errors.SettingsError("must be named: without it no task runs in the cluster", "kubernetes.namespace")
    known = backend_names(settings)
    if not known:
        raise errors.SettingsError("no tasks can run: kubernetes.namespace names no other place for them", "local.enabled")
    for number, rule in enumerate(settings.routes):
        if rule.backend not in known:
            raise errors.SettingsError(f"there is no backend {rule.backend!r}; there is {', '.join(known)}", f"routes[{number}].backend")


def backend_names(settings: Settings) -> tuple[str, ...]:
    """The backends that there are, the default first."""
    return (*((LOCAL,) if settings.local.enabled else ()), *((KUBERNETES,) if cluster_rules.enabled(settings) else ()))


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
    return pathlib.Path(path) if path else data_directory(settings) / TASKS


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


def engine_settings(settings: Settings) -> Settings:
    """Settings with `local.engine = "auto"` replaced by the first engine that works here; by the last where none does."""
    if settings.local.engine != "auto" or not settings.local.enabled:
        return settings
    found = next((name for name in ENGINES[:-1] if _works(settings, name)), ENGINES[-1])
    return msgspec.structs.replace(settings, local=msgspec.structs.replace(settings.local, engine=found))


def _works(settings: Settings, name: str) -> bool:
    try:
        engine(settings, name).check()
    except errors.EngineError:
        return False
    return True


def engine(settings: Settings, name: str) -> Engine:
    """The engine `name`, not checked yet."""
    data = data_directory(settings)
    if name in ("docker", "podman"):
        from tes_server.runner import docker_products
        from tes_server.runner.docker import DockerEngine

        product, wanted = (docker_products.DOCKER, settings.docker) if name == "docker" else (docker_products.PODMAN, settings.podman)
        return DockerEngine(wanted.url, _data_id(data), product=product, network=wanted.network, grace=settings.local.grace)
    from tes_server.runner.sandbox import SandboxEngine

    sandbox = settings.sandbox
    return SandboxEngine(data=data, allow_host=sandbox.allow_host, network=sandbox.network, processes=sandbox.processes, images=images(settings))


def images(settings: Settings) -> Images:
    """The images of the sandbox engine. Docker's login file is found as Docker finds it."""
    from tes_server.runner import userns
    from tes_server.runner.images import Mirror, Options

    sandbox = settings.sandbox
    options = Options(
        limit=int(sandbox.images_gb * GB),
        mirrors=tuple(Mirror(mirror.prefix, mirror.url) for mirror in sandbox.mirrors),
        plain_http=frozenset(sandbox.plain_http),
        docker_config=pathlib.Path(os.environ.get("DOCKER_CONFIG") or pathlib.Path.home() / ".docker") / "config.json",
    )
    return Images(data_directory(settings) / "images", options, ids=userns.ids())


def _data_id(data: pathlib.Path) -> str:
    """Names a data directory on an engine that several servers share."""
    return hashlib.sha256(str(data.resolve()).encode()).hexdigest()[:16]


def targets(settings: Settings) -> dict[str, Target]:
    """What tasks are checked against, by backend."""
    made = {
        LOCAL: lambda: Target(policy=site_rules.policy(settings), capabilities=capabilities(settings)),
        KUBERNETES: lambda: cluster_rules.target(settings),
    }
    return {name: made[name]() for name in backend_names(settings)}


def capabilities(settings: Settings) -> Capabilities:
    """What this machine has for tasks, by the settings or by looking."""
    local = settings.local
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Capabilities(
        cpus=local.cpus or float(len(os.sched_getaffinity(0))),
        # A tenth stays with the system and this server.
        ram_bytes=int(local.ram_gb * GB) or memory * 9 // 10,
        disk_bytes=int(local.disk_gb * GB) or shutil.disk_usage(data_directory(settings)).free,
        gpus=local.gpus,
        host_image=local.engine == "sandbox" and settings.sandbox.allow_host,
        submit_window=SUBMIT_WINDOW,
    )


def service(settings: Settings, kept: Store) -> Service:
    """The API's door."""
    rules = [msgspec.convert(rule, route.Rule, from_attributes=True) for rule in settings.routes]
    return Service(kept, targets(settings), rules, about(settings), settings.server.compat, clock)


def about(settings: Settings) -> About:
    """The facts of service-info."""
    server = settings.server
    return About(
        id=server.id,
        name=server.name,
        organization=server.organization,
        organization_url=server.organization_url,
        version=tes_server.__version__,
        description=f"GA4GH TES 1.1 server; runs tasks {' or '.join(_places(settings))}",
        storage=site_rules.storage(settings),
        parameters=(*parameters.COMMON, *sorted({key for target in targets(settings).values() for key in target.capabilities.parameters})),
    )


def _places(settings: Settings) -> list[str]:
    """Where tasks run, in words, the default first."""
    here = [f"on this machine with the {settings.local.engine} engine, {_promises(settings)}"] if settings.local.enabled else []
    there = ["as pods of a Kubernetes cluster, which take any container image"] if cluster_rules.enabled(settings) else []
    return here + there


def _promises(settings: Settings) -> str:
    """What a task may count on here, in words, found by a look at this machine. Service-info has no other place for it."""
    if settings.local.engine != "sandbox":
        return "which takes any container image"
    from tes_server.runner import cgroups, sandbox

    own = " and this machine's own programs (image 'host')" if settings.sandbox.allow_host else ""
    network = sandbox.network_in_words(settings.sandbox.network)
    return f"which takes any container image{own}; {sandbox.limits_in_words(cgroups.find())}; {network}"


def place_name(settings: Settings) -> str:
    """What this data directory is called among all that share a store."""
    return place.place(data_directory(settings))


def backends(settings: Settings) -> dict[str, Backend]:
    """Backends that run tasks, resumed. Only the reconciler's process has them."""
    made = {LOCAL: local_backend, KUBERNETES: kubernetes_backend}
    return {name: made[name](settings) for name in backend_names(settings)}


def local_backend(settings: Settings) -> Backend:
    """This machine, with what was under way here."""
    site = Site(
        access=site_rules.access(settings),
        live_roots=site_rules.live_roots(settings),
        tail_bytes=settings.tasks.tail_bytes,
        grace=settings.local.grace,
    )
    local = LocalBackend(data_directory(settings), engine(settings, settings.local.engine), site, capabilities(settings), clock)
    local.resume()
    return local


def kubernetes_backend(settings: Settings) -> Backend:
    """The cluster, watched. That it does not answer shows when it is asked."""
    from tes_server.backends.kubernetes import calls
    from tes_server.backends.kubernetes.driver import KubernetesBackend
    from tes_server.filer import spool_place

    cluster = settings.kubernetes
    kept = spool_place.opened(settings.spool.url, cluster_rules.spool_access(settings)) if settings.spool.url else None
    server = calls.connect(cluster.kubeconfig, cluster.context)
    capable = cluster_rules.target(settings).capabilities
    backend = KubernetesBackend(server, cluster_rules.site(settings), capable, clock, bounds=cluster_rules.bounds(settings), kept=kept)
    backend.resume()
    backend.wait(FIRST_LOOK)
    return backend


def archive(settings: Settings) -> retention.Archive:
    """Where old tasks go. Raises SettingsError where its credentials are not there."""
    url = settings.retention.archive
    if url.startswith("file:"):
        return SpoolDirectory(pathlib.Path(paths.file_path(url)), called="archive", private=True)
    return SpoolObjects(url, site_rules.access(settings, server=True), Control(lambda: False), called="archive", setting="retention.archive")


def _retention(settings: Settings, kept: Store) -> retention.Retention | None:
    rules = settings.retention
    if not rules.days:
        return None
    return retention.Retention(kept, datetime.timedelta(days=rules.days), functools.partial(archive, settings) if rules.archive else None)


def reconciler(settings: Settings, kept: Store, platforms: dict[str, Backend]) -> Reconciler:
    """The loop of one reconciler process."""
    retries, control = settings.retries, settings.control
    return Reconciler(
        kept,
        platforms,
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
        next((platform.place for platform in platforms.values() if platform.place), f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"),
        clock,
        random.Random().random,  # noqa: S311 - jitter, not a secret
        _retention(settings, kept),
    )
