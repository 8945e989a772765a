"""Where a pod may run: tolerations, affinity, node selectors, priority. Pure."""

from __future__ import annotations

from typing import Any

from tes_server.backends.kubernetes.site import Pool, Site
from tes_server.plan.steps import Plan

ZONE = "topology.kubernetes.io/zone"

SERVICE_ACCOUNT = "service_account"
"""Key of backend_parameters that chooses the service account of the pod."""

SILENT = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
"""Taints of nodes that do not answer. Kubernetes tolerates them for 300 s."""

PREFERRED = 100
"""Weight of the wish for spot nodes: the largest."""


def of(plan: Plan, site: Site) -> dict[str, Any]:
    """The fields of a pod's spec that say where it may run."""
    gpu = site.gpu_of(plan.limits.gpu_type) if plan.limits.gpus else None
    tolerations = [{"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": int(site.node_patience)} for key in SILENT]
    selector = dict(gpu.pool.labels) if gpu else {}
    selector.update({site.selectors[key]: value for key, value in plan.placement.parameters.items() if key in site.selectors})
    affinity: dict[str, Any] = {}
    if gpu:
        tolerations += _tolerations(gpu.pool)
    if plan.on_spot:
        tolerations += _tolerations(site.spot)
        wish = [_among(key, [value]) for key, value in sorted(site.spot.labels.items())]
        if wish:
            affinity["preferredDuringSchedulingIgnoredDuringExecution"] = [{"weight": PREFERRED, "preference": {"matchExpressions": wish}}]
    if plan.placement.zones:
        terms = [{"matchExpressions": [_among(ZONE, list(plan.placement.zones))]}]
        affinity["requiredDuringSchedulingIgnoredDuringExecution"] = {"nodeSelectorTerms": terms}
    return {
        "tolerations": tolerations,
        **({"nodeSelector": selector} if selector else {}),
        **({"affinity": {"nodeAffinity": affinity}} if affinity else {}),
        **({"priorityClassName": site.priority_class} if site.priority_class else {}),
    }


def _tolerations(pool: Pool) -> list[dict[str, Any]]:
    return [
        {"key": taint.key, "operator": "Equal" if taint.value else "Exists", **({"value": taint.value} if taint.value else {}), "effect": taint.effect}
        for taint in pool.taints
    ]


def _among(key: str, values: list[str]) -> dict[str, Any]:
    return {"key": key, "operator": "In", "values": values}
