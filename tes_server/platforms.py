"""The platforms that tasks can run on, and the only list of them: what the settings make of each, up to the backend that runs its tasks.

It must never choose among them: routes do. Nor ask one: what is wrong with one that is away shows when its backend is asked.
"""

from __future__ import annotations

import datetime
import importlib.util
from collections.abc import Callable

import msgspec

from tes_server import aws_rules, azure_rules, cluster_rules, errors, machine, site_rules
from tes_server.backends.base import Backend
from tes_server.backends.local.driver import LocalBackend
from tes_server.filer import spool_place
from tes_server.filer.spool import Spool
from tes_server.plan.policy import Target
from tes_server.settings import Settings

FIRST_LOOK = 2.0
"""Seconds that the start waits for a cluster to tell what there is; tasks elsewhere must not wait for one that is away."""

Clock = Callable[[], datetime.datetime]


class Platform(msgspec.Struct, frozen=True, kw_only=True):
    """One platform. Everything but `backend` asks the settings and this machine only."""

    name: str
    """What routes and tasks call it, as its backend does."""
    key: str
    """The setting that enables it."""
    enabled: Callable[[Settings], bool]
    rules: Callable[[Settings], None]
    """Refuse settings of one that is enabled which contradict each other: SettingsError with the key at fault."""
    meant: Callable[[Settings], object] = lambda _settings: False
    """Whether other settings mean it, enabled or not."""
    without: str = ""
    """What does not happen while they mean it and do not enable it."""
    sdk: tuple[str, str, str] | None = None
    """What is to be installed for it: in words, the package, and our extra with it."""
    target: Callable[[Settings], Target]
    """What its tasks are checked against."""
    backend: Callable[[Settings, Clock], Backend]
    """What runs its tasks, resumed. Only the reconciler's process has one."""
    where: Callable[[Settings], str]
    """Where its tasks run, in words that follow "runs tasks", for service-info."""
    how: Callable[[Settings], str]
    """How, in a few words, for the line with which `serve` starts."""


def enabled(settings: Settings) -> tuple[Platform, ...]:
    """The platforms that the settings enable, the default first."""
    return tuple(platform for platform in PLATFORMS if platform.enabled(settings))


def check(settings: Settings) -> None:
    """Refuse settings of a platform that contradict each other, and those that enable none."""
    for platform in PLATFORMS:
        _check(platform, settings)
    if not enabled(settings):
        local, *others = PLATFORMS
        elsewhere = " nor ".join(platform.key for platform in others)
        raise errors.SettingsError(f"no tasks can run: neither {elsewhere} names another place for them", local.key)


def _check(platform: Platform, settings: Settings) -> None:
    """One of them: its rules, what is installed, and that it is enabled where other settings mean it."""
    if not platform.enabled(settings):
        if platform.meant(settings):
            raise errors.SettingsError(f"must be named: without it no task runs {platform.without}", platform.key)
        return
    platform.rules(settings)
    if platform.sdk is not None and not _installed(platform.sdk[1]):
        words, _, extra = platform.sdk
        raise errors.SettingsError(f"{words} needs more: pip install 'tes-server[{extra}]'", platform.key)


def _installed(package: str) -> bool:
    """Whether a package, or one within another, is there."""
    above, _, _ = package.rpartition(".")
    return (not above or _installed(above)) and importlib.util.find_spec(package) is not None


def spool(settings: Settings) -> Spool:
    """The spool that `spool.url` names, of tasks on other machines."""
    return spool_place.opened(settings.spool.url, site_rules.spool_access(settings))


# -- this machine -----------------------------------------------------------------------------------------------------


def _local_backend(settings: Settings, clock: Clock) -> Backend:
    """This machine, with what was under way here."""
    engine = machine.engine(settings, settings.local.engine)
    backend = LocalBackend(machine.data_directory(settings), engine, machine.site(settings), machine.capabilities(settings), clock)
    backend.resume()
    return backend


# -- Kubernetes -------------------------------------------------------------------------------------------------------


def _kubernetes_backend(settings: Settings, clock: Clock) -> Backend:
    """The cluster, watched. That it does not answer shows when it is asked."""
    from tes_server.backends.kubernetes import calls
    from tes_server.backends.kubernetes.driver import KubernetesBackend

    cluster = settings.kubernetes
    kept = spool(settings) if settings.spool.url else None
    server = calls.connect(cluster.kubeconfig, cluster.context)
    capable = cluster_rules.target(settings).capabilities
    backend = KubernetesBackend(server, cluster_rules.site(settings), capable, clock, bounds=cluster_rules.bounds(settings), kept=kept)
    backend.resume()
    backend.wait(FIRST_LOOK)
    return backend


# -- AWS Batch --------------------------------------------------------------------------------------------------------


def _aws_batch_backend(settings: Settings, clock: Clock) -> Backend:
    """AWS Batch, heard of by events where there are any. That it does not answer shows when it is asked."""
    from tes_server.backends.aws_batch.calls import Calls
    from tes_server.backends.aws_batch.driver import AwsBatchBackend, Times

    batch = settings.aws_batch
    backend = AwsBatchBackend(
        Calls(batch.region, batch.profile),
        aws_rules.site(settings),
        aws_rules.target(settings).capabilities,
        clock,
        spool(settings),
        bounds=aws_rules.bounds(settings),
        times=Times(poll=batch.poll, sweep=batch.sweep),
        events=batch.events,
    )
    backend.resume()
    return backend


# -- Azure Batch ------------------------------------------------------------------------------------------------------


def _azure_batch_backend(settings: Settings, clock: Clock) -> Backend:
    """Azure Batch, looked at every few seconds. That it does not answer shows when it is asked."""
    from tes_server.backends.azure_batch import calls
    from tes_server.backends.azure_batch.driver import AzureBatchBackend, Times

    batch = settings.azure_batch
    backend = AzureBatchBackend(
        calls.Calls(azure_rules.account(settings)),
        azure_rules.site(settings),
        azure_rules.target(settings).capabilities,
        clock,
        spool(settings),
        bounds=azure_rules.bounds(settings),
        times=Times(poll=batch.poll, job_tasks=batch.job_tasks),
    )
    backend.resume()
    return backend


# -- all of them ------------------------------------------------------------------------------------------------------

PLATFORMS = (
    Platform(
        name="local",
        key="local.enabled",
        enabled=machine.enabled,
        rules=machine.check,
        target=machine.target,
        backend=_local_backend,
        where=lambda settings: f"on this machine with the {settings.local.engine} engine, {machine.promises(settings)}",
        how=lambda settings: f"engine {settings.local.engine}",
    ),
    Platform(
        name="kubernetes",
        key="kubernetes.namespace",
        enabled=cluster_rules.enabled,
        rules=cluster_rules.check,
        meant=lambda settings: settings.kubernetes.image or settings.kubernetes.kubeconfig,
        without="in the cluster",
        sdk=("Kubernetes", "kubernetes", "kubernetes"),
        target=cluster_rules.target,
        backend=_kubernetes_backend,
        where=lambda _settings: "as pods of a Kubernetes cluster, which take any container image",
        how=lambda settings: f"namespace {settings.kubernetes.namespace}",
    ),
    Platform(
        name="aws_batch",
        key="aws_batch.queue",
        enabled=aws_rules.enabled,
        rules=aws_rules.check,
        meant=lambda settings: settings.aws_batch.image or settings.aws_batch.spot_queue,
        without="on AWS Batch",
        sdk=("AWS Batch", "boto3", "aws"),
        target=aws_rules.target,
        backend=_aws_batch_backend,
        where=lambda _settings: "as AWS Batch jobs, which take any container image",
        how=lambda settings: f"AWS Batch queue {settings.aws_batch.queue}",
    ),
    Platform(
        name="azure_batch",
        key="azure_batch.url",
        enabled=azure_rules.enabled,
        rules=azure_rules.check,
        meant=lambda settings: settings.azure_batch.image or settings.azure_batch.pools,
        without="on Azure Batch",
        sdk=("Azure Batch", "azure.batch", "azure"),
        target=azure_rules.target,
        backend=_azure_batch_backend,
        where=lambda _settings: "as Azure Batch tasks, which take any container image",
        how=lambda settings: f"Azure Batch pools {', '.join(settings.azure_batch.pools)}",
    ),
)
"""All platforms, the default first: the first one that is enabled takes what no route sends elsewhere."""
