"""This machine as a place for tasks, from the settings: the data directory, the engines, and what there is for tasks.

It must never start a task: the local backend does.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import re
import shutil
from typing import TYPE_CHECKING

import msgspec

from tes_server import errors, site_rules
from tes_server.plan.compiler import GB
from tes_server.plan.paths import below
from tes_server.plan.policy import Capabilities, Target
from tes_server.runner import local_secrets
from tes_server.runner.engine import Engine
from tes_server.runner.image_registry import Mirror
from tes_server.runner.images import Images
from tes_server.runner.site import Site
from tes_server.settings import DockerSettings, PodmanSettings, Settings

if TYPE_CHECKING:
    from tes_server.runner.docker_products import Product

DAEMONS = ("docker", "podman")

ENGINES = (*DAEMONS, "sandbox")
"""Engines of the local backend, in the order in which "auto" tries them."""

SUBMIT_WINDOW = 10.0
"""Seconds within which a local submit (a few small files and a thread) has ended, one way or the other."""


def enabled(settings: Settings) -> bool:
    """True if tasks run on this machine."""
    return settings.local.enabled


def check(settings: Settings) -> None:
    """Refuse settings of this machine that contradict each other: SettingsError with the key at fault. What its engine can do, that tells."""
    local = settings.local
    site_rules.check_secrets(local.secrets, local.scan_secrets, "local")
    data = os.path.realpath(settings.data_directory(pathlib.Path.home(), os.environ.get("XDG_DATA_HOME", "")))
    for number, root in enumerate(settings.files.live_mounts):
        if below(data, os.path.realpath(root)):
            raise errors.SettingsError(f"holds the data directory {data}, which a task with this mount could read and change", f"files.live_mounts[{number}]")
    for key, references in (("secrets", local.secrets), ("scan_secrets", local.scan_secrets)):
        for name, reference in references.items():
            if not reference.startswith("/") and not re.fullmatch(rf"{local_secrets.VARIABLE}[A-Za-z_][A-Za-z0-9_]*", reference):
                raise errors.SettingsError("must be the absolute path of a file or directory, or env:VARIABLE", f"local.{key}.{name}")


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
    if name in DAEMONS:
        from tes_server.runner.docker import DockerEngine

        product, wanted = daemon(settings, name)
        return DockerEngine(wanted.url, _data_id(data), product=product, network=wanted.network, grace=settings.local.grace)
    from tes_server.runner.sandbox import SandboxEngine

    sandbox = settings.sandbox
    return SandboxEngine(data=data, allow_host=sandbox.allow_host, network=sandbox.network, processes=sandbox.processes, images=images(settings))


def daemon(settings: Settings, name: str) -> tuple[Product, DockerSettings | PodmanSettings]:
    """One of `DAEMONS`, and its settings."""
    from tes_server.runner import docker_products

    return (docker_products.DOCKER, settings.docker) if name == "docker" else (docker_products.PODMAN, settings.podman)


def docker_config() -> pathlib.Path:
    """Docker's login file, where Docker looks for it."""
    return pathlib.Path(os.environ.get("DOCKER_CONFIG") or pathlib.Path.home() / ".docker") / "config.json"


def mirrors(settings: Settings) -> tuple[Mirror, ...]:
    """The mirrors of registries, in order."""
    return tuple(Mirror(mirror.prefix, mirror.url) for mirror in settings.sandbox.mirrors)


def images(settings: Settings) -> Images:
    """The images of the sandbox engine. Docker's login file is found as Docker finds it."""
    from tes_server.runner import userns
    from tes_server.runner.images import Options

    sandbox = settings.sandbox
    options = Options(
        limit=int(sandbox.images_gb * GB),
        mirrors=mirrors(settings),
        plain_http=frozenset(sandbox.plain_http),
        docker_config=docker_config(),
    )
    return Images(data_directory(settings) / "images", options, ids=userns.ids())


def _data_id(data: pathlib.Path) -> str:
    """Names a data directory on an engine that several servers share."""
    return hashlib.sha256(str(data.resolve()).encode()).hexdigest()[:16]


def target(settings: Settings) -> Target:
    """What tasks for this machine are checked against."""
    return Target(policy=site_rules.policy(settings), capabilities=capabilities(settings))


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
        secrets=tuple(sorted(local.secrets)),
        scan_secrets=tuple(sorted(local.scan_secrets)),
        engine_socket=local.engine in ("docker", "podman"),
        host_image=local.engine == "sandbox" and settings.sandbox.allow_host,
        submit_window=SUBMIT_WINDOW,
    )


def site(settings: Settings) -> Site:
    """What the runner is told of this machine."""
    access = site_rules.access(settings)
    return Site(
        access=msgspec.structs.replace(access, guard=site_rules.guard_here(settings), hidden=(*access.hidden, str(data_directory(settings)))),
        live_roots=site_rules.live_roots(settings),
        tail_bytes=settings.tasks.tail_bytes,
        grace=settings.local.grace,
        secrets=settings.local.secrets,
        scan_secrets=settings.local.scan_secrets,
        look=local_secrets.look,
    )


def promises(settings: Settings) -> str:
    """What a task may count on here, in words, found by a look at this machine. Service-info has no other place for it."""
    if settings.local.engine != "sandbox":
        return "which takes any container image"
    from tes_server.runner import cgroups, sandbox

    own = " and this machine's own programs (image 'host')" if settings.sandbox.allow_host else ""
    network = sandbox.network_in_words(settings.sandbox.network)
    return f"which takes any container image{own}; {sandbox.limits_in_words(cgroups.find())}; {network}"
