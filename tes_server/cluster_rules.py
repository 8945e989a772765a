"""From the settings to what the Kubernetes backend is told, and whether that makes sense.

In the cluster a `file://` url leads to a shared claim, never to a directory of this machine. This module must never talk to a cluster.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

import msgspec

from tes_server import errors, site_rules
from tes_server.backends.base import Job
from tes_server.backends.kubernetes import names, placement, program, render
from tes_server.backends.kubernetes.seen import Bounds
from tes_server.backends.kubernetes.site import AKS_SPOT, Claim, Gpu, Identity, Pool, SecretKey, Share, Site, Taint
from tes_server.filer.manifest import Access
from tes_server.model.task import Executor, Task
from tes_server.plan import compiler, parameters
from tes_server.plan.compiler import GB
from tes_server.plan.paths import below
from tes_server.plan.policy import Capabilities, Policy, Target, Values
from tes_server.runner.pod import PodSite
from tes_server.settings import Settings
from tes_server.settings_kubernetes import GpuSettings, KubernetesSettings

SUBMIT_WINDOW = 60.0
"""Seconds within which a submit has ended: three tries of a create, connections included."""

REFERENCE = r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?(/[-._A-Za-z0-9]{1,253})?"
"""A Secret, perhaps with one of its keys, as Kubernetes takes their names."""


def enabled(settings: Settings) -> bool:
    """True if tasks run in a cluster."""
    return bool(settings.kubernetes.namespace)


def check(settings: Settings) -> None:
    """Refuse settings that contradict each other: SettingsError with the key at fault. Asks no cluster."""
    cluster = settings.kubernetes
    if not cluster.image:
        raise errors.SettingsError("must name this server's own image", "kubernetes.image")
    if any(key.lower() in (*parameters.COMMON, placement.SERVICE_ACCOUNT) for key in cluster.selectors):
        raise errors.SettingsError(f"{', '.join(parameters.COMMON)} and {placement.SERVICE_ACCOUNT} have a meaning already", "kubernetes.selectors")
    if cluster.storage_class and cluster.storage_claim:
        raise errors.SettingsError("storage_class and storage_claim exclude each other", "kubernetes.storage_claim")
    if cluster.storage_claim in [claim.name for claim in cluster.claims]:
        raise errors.SettingsError("must not be one of the claims, where tasks could reach the files of others", "kubernetes.storage_claim")
    if bool(cluster.identity_client_id) != bool(cluster.identity_tenant_id):
        raise errors.SettingsError("identity_client_id and identity_tenant_id go together", "kubernetes.identity_tenant_id")
    if not names.label_value(settings.server.id):
        raise errors.SettingsError("must hold letters or digits: it marks the tasks' Jobs", "server.id")
    least = settings.store.lease + SUBMIT_WINDOW
    if cluster.ttl < least:
        raise errors.SettingsError(f"must be at least {least:g}: a lease and the submit window together (store.lease)", "kubernetes.ttl")
    if cluster.owner_pull_secrets and not settings.auth.modes:
        raise errors.SettingsError("without sign-in (auth.modes) tasks have no owners", "kubernetes.owner_pull_secrets")
    for number, claim in enumerate(cluster.claims):
        if not claim.path.startswith("/") or _directory(claim.path) == "/":
            raise errors.SettingsError("must be an absolute path below /", f"kubernetes.claims[{number}].path")
        if any(below(_directory(claim.path), taken) or below(taken, _directory(claim.path)) for taken in ("/tes", "/.tes", "/dev", "/proc", "/sys")):
            raise errors.SettingsError("is a place that the pods need themselves", f"kubernetes.claims[{number}].path")
    site_rules.check_secrets(cluster.secrets, cluster.scan_secrets, "kubernetes")
    for table, references in (("secrets", cluster.secrets), ("scan_secrets", cluster.scan_secrets)):
        for name, reference in references.items():
            if not re.fullmatch(REFERENCE, reference):
                raise errors.SettingsError("must be SECRET or SECRET/KEY: the name of a Secret in the tasks' namespace", f"kubernetes.{table}.{name}")
    if settings.spool.url:
        site_rules.check_spool(settings)


def target(settings: Settings) -> Target:
    """What tasks for the cluster are checked against."""
    cluster = settings.kubernetes
    capabilities = Capabilities(
        cpus=cluster.max_cpus,
        ram_bytes=int(cluster.max_ram_gb * GB),
        disk_bytes=int(cluster.max_disk_gb * GB),
        gpus=cluster.max_gpus,
        parameters=_parameters(cluster),
        plan_bytes=render.PLAN_BYTES,
        submit_window=SUBMIT_WINDOW,
        names_last=True,
        secrets=tuple(sorted(cluster.secrets)),
        scan_secrets=tuple(sorted(cluster.scan_secrets)),
        secret_keys={name: not found.key for name, found in {**_secrets(cluster.secrets), **_secrets(cluster.scan_secrets)}.items()},
    )
    return Target(policy=policy(settings), capabilities=capabilities)


def _parameters(cluster: KubernetesSettings) -> dict[str, Values]:
    """The backend_parameters that tasks in the cluster may use: labels of nodes and service accounts, from lists of the site alone."""
    found = {key.lower(): Values(pattern=names.LABEL_VALUE) for key in cluster.selectors}
    if cluster.service_accounts:
        found[placement.SERVICE_ACCOUNT] = Values(choices=cluster.service_accounts)
    return found


def policy(settings: Settings) -> Policy:
    """The site's rules, with claims in place of directories of this machine."""
    rules = site_rules.policy(settings)
    sites = msgspec.structs.replace(rules.sites, roots=_roots(settings))
    return msgspec.structs.replace(rules, sites=sites, live_mounts=_live_roots(settings))


def access(settings: Settings) -> Access:
    """What stage-in and stage-out may reach."""
    return msgspec.structs.replace(site_rules.access(settings), roots=_roots(settings))


def bounds(settings: Settings) -> Bounds:
    """How long tasks wait for the cluster."""
    cluster = settings.kubernetes
    return Bounds(image=cluster.wait_image, config=cluster.wait_config, start=cluster.wait_start, capacity=cluster.wait_capacity)


def site(settings: Settings) -> Site:
    """The cluster as the renderer has it."""
    cluster = settings.kubernetes
    spot = _pool(cluster.spot_labels, cluster.spot_taints) if cluster.spot_labels or cluster.spot_taints else AKS_SPOT
    identity = Identity(client_id=cluster.identity_client_id, tenant_id=cluster.identity_tenant_id) if cluster.identity_client_id else None
    usual = Share(cpus=0.02, ram_bytes=64 * 1024 * 1024, most_cpus=2.0)
    return Site(
        namespace=cluster.namespace,
        server=names.label_value(settings.server.id),
        image=cluster.image,
        shared=PodSite(
            access=access(settings),
            live_roots=_live_roots(settings),
            tail_bytes=settings.tasks.tail_bytes,
            spool=settings.spool.url,
            spool_stores=site_rules.spool_access(settings).stores,
        ),
        pull_policy=cluster.pull_policy,
        pull_secrets=cluster.pull_secrets,
        owner_pull_secrets=cluster.owner_pull_secrets,
        service_account=cluster.service_account,
        identity=identity,
        stage_environment=cluster.stage_environment,
        stage_secrets=cluster.stage_secrets,
        secrets=_secrets(cluster.secrets),
        scan_secrets=_secrets(cluster.scan_secrets),
        stage=msgspec.structs.replace(usual, most_ram_bytes=int(cluster.stage_ram_gb * GB)),
        cpu_limit=cluster.cpu_limit,
        claims=_claims(settings),
        storage_class=cluster.storage_class,
        storage_claim=cluster.storage_claim,
        storage_from=int(cluster.storage_from_gb * GB),
        spot=spot,
        gpu=_gpu(cluster.gpu),
        gpu_types={name: _gpu(gpu) for name, gpu in cluster.gpu_types.items()},
        selectors={key.lower(): label for key, label in cluster.selectors.items()},
        tag_labels=cluster.tag_labels,
        priority_class=cluster.priority_class,
        queue=cluster.queue,
        restricted=cluster.profile == "restricted",
        uid=cluster.uid,
        user_namespaces=cluster.user_namespaces,
        grace=cluster.grace,
        # What is not saved by then is not waited for: who was ended from outside only has to report.
        pod_grace=cluster.grace + 20.0,
        save_seconds=cluster.save_seconds,
        program=program.of_this_server() if cluster.one_container else None,
        node_patience=cluster.node_patience,
        ttl=cluster.ttl,
    )


def trial(settings: Settings) -> Job:
    """The smallest task, as the cluster would get it."""
    whole = target(settings)
    task = Task(executors=(Executor(image="busybox", command=("true",)),))
    return render.render(compiler.compile_task(task, "trial", 1, "", whole.policy, whole.capabilities).plan, site(settings))


def _secrets(references: Mapping[str, str]) -> dict[str, SecretKey]:
    found = {}
    for name, reference in references.items():
        secret, _, key = reference.partition("/")
        found[name] = SecretKey(secret, key)
    return found


def _claims(settings: Settings) -> tuple[Claim, ...]:
    return tuple(Claim(name=claim.name, path=_directory(claim.path), read_only=claim.read_only) for claim in settings.kubernetes.claims)


def _roots(settings: Settings) -> tuple[str, ...]:
    return tuple(claim.path for claim in _claims(settings))


def _live_roots(settings: Settings) -> tuple[str, ...]:
    """Live mounts are read-write, and lie on a claim."""
    writable = [claim.path for claim in _claims(settings) if not claim.read_only]
    return tuple(root for root in site_rules.live_roots(settings) if any(below(root, path) for path in writable))


def _directory(path: str) -> str:
    return "/" + posixpath.normpath(path).lstrip("/")


def _gpu(gpu: GpuSettings) -> Gpu:
    return Gpu(resource=gpu.resource, pool=_pool(gpu.labels, gpu.taints))


def _pool(labels: dict[str, str], taints: dict[str, str]) -> Pool:
    return Pool(labels=labels, taints=tuple(Taint(key=key, value=value) for key, value in sorted(taints.items())))
