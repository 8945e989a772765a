"""What the settings of all platforms mean that run tasks on nodes with the node runner: the nodes' directories, in place of those of this machine."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

import msgspec

from tes_server import errors, site_rules
from tes_server.plan.paths import below
from tes_server.plan.policy import Policy
from tes_server.runner.node import NodeSite
from tes_server.settings import Settings
from tes_server.settings_aws import AwsBatchSettings
from tes_server.settings_azure import AzureBatchSettings
from tes_server.settings_parts import HostMountSettings

NETWORKS = ("bridge", "none")

RUNNERS = ("/var/run", "/run", "/dev", "/proc", "/sys", "/etc", "/usr")
"""Directories of a node or of the runner's image that no mount may hide."""


def check(settings: Settings, batch: AwsBatchSettings | AzureBatchSettings, table: str) -> None:
    """Refuse settings of the table `table` that make no sense on a node: SettingsError with the key at fault."""
    if not batch.work.startswith("/") or directory(batch.work) == "/":
        raise errors.SettingsError("must be an absolute path below /", f"{table}.work")
    if batch.network not in NETWORKS:
        raise errors.SettingsError("must be bridge or none: in the hosts' own network tasks would reach their credentials", f"{table}.network")
    for number, mount in enumerate(batch.mounts):
        _check_mount(mount.path, batch.work, f"{table}.mounts[{number}].path")
    site_rules.check_secrets(batch.secrets, batch.scan_secrets, table)
    if not settings.spool.url:
        raise errors.SettingsError("must be named: plans go to the hosts through it, and reports come back", "spool.url")
    site_rules.check_spool(settings)


def _check_mount(path: str, work: str, where: str) -> None:
    given = directory(path)
    if not path.startswith("/") or given == "/":
        raise errors.SettingsError("must be an absolute path below /", where)
    for taken in (directory(work), *RUNNERS):
        if below(given, taken) or below(taken, given):
            raise errors.SettingsError(f"is a place that the runner needs itself ({taken})", where)


def site(settings: Settings, batch: AwsBatchSettings | AzureBatchSettings, run: tuple[str, ...], client_id: str = "") -> NodeSite:
    """What all runners of a platform are told. `run`, `client_id`: see NodeSite."""
    return NodeSite(
        spool=settings.spool.url,
        spool_stores=site_rules.spool_access(settings).stores,
        run=run,
        access=msgspec.structs.replace(site_rules.access(settings), roots=roots(batch.mounts)),
        live_roots=live_roots(settings, batch.mounts),
        tail_bytes=settings.tasks.tail_bytes,
        grace=batch.grace,
        work=directory(batch.work),
        network=batch.network,
        secrets=batch.secrets,
        scan_secrets=batch.scan_secrets,
        client_id=client_id,
    )


def policy(settings: Settings, mounts: Sequence[HostMountSettings]) -> Policy:
    """The site's rules, with directories of the nodes in place of those of this machine."""
    rules = site_rules.policy(settings)
    sites = msgspec.structs.replace(rules.sites, roots=roots(mounts))
    return msgspec.structs.replace(rules, sites=sites, live_mounts=live_roots(settings, mounts))


def roots(mounts: Sequence[HostMountSettings]) -> tuple[str, ...]:
    """The nodes' directories that tasks may name."""
    return tuple(directory(mount.path) for mount in mounts)


def live_roots(settings: Settings, mounts: Sequence[HostMountSettings]) -> tuple[str, ...]:
    """Those of the live mounts that lie in them. Live mounts are read-write."""
    writable = [directory(mount.path) for mount in mounts if not mount.read_only]
    return tuple(root for root in site_rules.live_roots(settings) if any(below(root, path) for path in writable))


def directory(path: str) -> str:
    """An absolute path in the one way that it is written here."""
    return "/" + posixpath.normpath(path).lstrip("/")
