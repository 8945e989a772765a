"""A plan as a Job of one pod, and Secrets where its order is long. Pure: same plan and site, same bytes.

Every path of a plan is a stranger's: nothing of it may name a host path, a Secret or a service account.
"""

from __future__ import annotations

import base64
import math
from typing import Any

import msgspec

from tes_server.backends.base import Job
from tes_server.backends.kubernetes import alone, containers, names, placement
from tes_server.backends.kubernetes.site import Site
from tes_server.model import run
from tes_server.plan import reach
from tes_server.plan.steps import Plan
from tes_server.runner import pod
from tes_server.runner.pod import Order

INLINE = 96 * 1024
"""Bytes of an order that goes into a variable: Linux takes no string of 128 KiB, and every copy of the pod carries it."""

PART = 900 * 1024
"""Bytes of an order in one Secret, which takes 1 MiB of base64 and names together."""

PLAN_BYTES = 8 * PART - 64 * 1024
"""Bytes of the largest plan: eight Secrets hold it with what its site adds, and a cluster's store many of them."""

Object = dict[str, Any]
"""A Kubernetes object, as JSON has it."""


class Rendered(msgspec.Struct, frozen=True):
    """The body of a rendered attempt: what is created, the Job first."""

    job: Object
    secrets: tuple[Object, ...] = ()
    alone: bool = False
    """its pod is of one container"""


def render(plan: Plan, site: Site) -> Job:
    """The objects of one attempt."""
    name = run.job_name(plan.task_id, plan.attempt)
    order = pod.encode(Order(plan, site.shared))
    if len(order) <= INLINE and alone.fits(plan, site):
        job = _job(plan, site, name, _pod_alone(plan, site), {names.ALONE: alone.annotation(plan)})
        return Job(name, msgspec.json.encode(Rendered(job, alone=True), order="sorted"))
    parts = [] if len(order) <= INLINE else [order[at : at + PART] for at in range(0, len(order), PART)]
    secrets = tuple(_secret(plan, site, name, number, part) for number, part in enumerate(parts))
    rendered = Rendered(_job(plan, site, name, _pod(plan, site, name, order, len(parts)), {}, len(parts)), secrets)
    return Job(name, msgspec.json.encode(rendered, order="sorted"))


def _job(plan: Plan, site: Site, name: str, spec: Object, notes: dict[str, str], parts: int = 0) -> Object:
    """Of a pod of that spec, with annotations `notes` of its own."""
    queue = {names.QUEUE: site.queue} if site.queue else {}
    annotations = {names.OWNER: plan.owner}
    if parts:
        annotations[names.SECRETS] = str(parts)
    if site.claims_disk(plan):
        annotations[names.CLAIM] = "1"
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": site.namespace, "labels": {**_labels(plan, site), **queue}, "annotations": annotations},
        "spec": {
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            # Not finished before its pod is: what a finished Job has, runs no more.
            "podReplacementPolicy": "Failed",
            "ttlSecondsAfterFinished": site.ttl,
            **({"suspend": True} if site.queue else {}),
            "template": {
                "metadata": {"labels": {**_labels(plan, site), **_costs(plan, site)}, "annotations": {**names.UNDISTURBED, **notes}},
                "spec": spec,
            },
        },
    }


def _pod(plan: Plan, site: Site, name: str, order: bytes, parts: int) -> Object:
    """The scans of its images where they are to be, stage-in, the executors, stage-out."""
    return {
        **_spec(plan, site),
        "initContainers": [*_scans(plan, site), containers.stage_in(plan, site, order, parts)],
        "containers": [*(containers.executor(plan, step, site) for step in plan.executors), containers.stage_out(plan, site)],
        "volumes": _volumes(plan, site, name, len(order), parts),
    }


def _scans(plan: Plan, site: Site) -> list[Object]:
    if plan.gate is None:
        return []
    return [containers.scan_tools(plan, site), *(containers.scan(plan, plan.gate, number, site) for number in range(len(plan.gate.checks)))]


def _pod_alone(plan: Plan, site: Site) -> Object:
    """One container. A root of the plan is a volume by itself: nobody is there to make directories in one."""
    if site.program is None:
        raise TypeError("a site without tes-step has no such pods")
    [step] = plan.executors
    spec = _spec(plan, site)
    disk = {"sizeLimit": str(plan.limits.disk_bytes)} if plan.limits.disk_bytes else {}
    return {
        **spec,
        "nodeSelector": {**spec.get("nodeSelector", {}), names.ARCHITECTURE: site.program.architecture},
        "containers": [containers.alone(plan, step, site)],
        "volumes": [
            {"name": names.PROGRAM, "configMap": {"name": site.program.name, "defaultMode": 0o555}},
            {"name": names.CONTROL, "emptyDir": {"sizeLimit": f"{_control(plan, site, 0)}Mi"}},
            *({"name": names.root(number), "emptyDir": disk} for number in range(len(plan.mounts))),
        ],
    }


def _spec(plan: Plan, site: Site) -> Object:
    """What every pod has but containers and volumes."""
    runtime = plan.limits.max_runtime
    security: Object = {"seccompProfile": {"type": "RuntimeDefault"}}
    if site.restricted:
        security.update(runAsNonRoot=True, runAsUser=site.uid, runAsGroup=site.uid, fsGroup=site.uid)
    spec: Object = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": math.ceil(site.pod_grace),
        "securityContext": security,
        **placement.of(plan, site),
    }
    if runtime:
        spec["activeDeadlineSeconds"] = math.ceil(runtime + site.grace + site.save_seconds)
    account = plan.placement.parameters.get(placement.SERVICE_ACCOUNT, site.service_account)
    if account:
        spec["serviceAccountName"] = account
    # The owner's own come first: a kubelet tries them in this order.
    own = (secret for owners, secrets in site.owner_pull_secrets.items() if reach.fits(plan.owner, (owners,)) for secret in secrets)
    if pulls := dict.fromkeys((*own, *site.pull_secrets)):
        spec["imagePullSecrets"] = [{"name": secret} for secret in pulls]
    if site.user_namespaces:
        spec["hostUsers"] = False
    return spec


def _volumes(plan: Plan, site: Site, name: str, order_bytes: int, parts: int) -> list[Object]:
    volumes: list[Object] = [
        {"name": names.CONTROL, "emptyDir": {"sizeLimit": f"{_control(plan, site, order_bytes)}Mi"}},
        {"name": names.TASK_VOLUME, **_task_volume(plan, site)},
    ]
    if plan.gate is not None:
        volumes.append({"name": names.SCAN, "emptyDir": {}})
    if parts:
        secrets = [{"secret": {"name": names.secret(name, number), "items": [{"key": "part", "path": str(number)}]}} for number in range(parts)]
        volumes.append({"name": names.ORDER, "projected": {"sources": secrets}})
    if site.identity is not None:
        token = {"audience": "api://AzureADTokenExchange", "expirationSeconds": 3600, "path": containers.TOKEN}
        volumes.append({"name": names.IDENTITY, "projected": {"sources": [{"serviceAccountToken": token}]}})
    for number, claim in enumerate(site.claims):
        volumes.append({"name": names.claim(number), "persistentVolumeClaim": {"claimName": claim.name, **({"readOnly": True} if claim.read_only else {})}})
    return volumes


def _control(plan: Plan, site: Site, order_bytes: int) -> int:
    """MiB: of each executor head and tail of two streams, argv and environment (the order has them too); the order; tes-step."""
    return 8 + math.ceil((len(plan.executors) * 4 * site.shared.tail_bytes + 2 * order_bytes) / (1 << 20))


def _task_volume(plan: Plan, site: Site) -> Object:
    disk = plan.limits.disk_bytes
    if site.claims_disk(plan):
        claim = {"accessModes": ["ReadWriteOnce"], "storageClassName": site.storage_class, "resources": {"requests": {"storage": str(disk)}}}
        return {"ephemeral": {"volumeClaimTemplate": {"metadata": {"labels": _labels(plan, site)}, "spec": claim}}}
    if site.shares_disk(plan):
        return {"persistentVolumeClaim": {"claimName": site.storage_claim}}
    return {"emptyDir": {"sizeLimit": str(disk)} if disk else {}}


def _secret(plan: Plan, site: Site, name: str, number: int, part: bytes) -> Object:
    """Without its owner, the Job, which has no uid yet: `driver` adds it."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "immutable": True,
        "metadata": {"name": names.secret(name, number), "namespace": site.namespace, "labels": _labels(plan, site)},
        "data": {"part": base64.b64encode(part).decode()},
    }


def _labels(plan: Plan, site: Site) -> dict[str, str]:
    return {names.MANAGED: names.MANAGER, names.SERVER: site.server, names.TASK: plan.task_id, names.ATTEMPT: str(plan.attempt)}


def _costs(plan: Plan, site: Site) -> dict[str, str]:
    """Labels from those tags of the task that the site counts costs by."""
    given = ((names.label_value(tag), names.label_value(plan.tags[tag])) for tag in site.tag_labels if tag in plan.tags)
    return {f"tag.tes-server/{tag}": value for tag, value in given if tag and value}
