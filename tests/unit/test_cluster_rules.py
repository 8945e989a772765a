"""From settings to what the Kubernetes backend is told."""

from __future__ import annotations

from typing import Any

import pytest

from tes_server import cluster_rules, configuration, errors, settings
from tes_server.backends.kubernetes import names
from tes_server.backends.kubernetes.site import AKS_SPOT, Claim, Gpu, Pool, SecretKey, Taint
from tes_server.plan.policy import Values

CLAIMS = [{"name": "data", "path": "/data/"}, {"name": "reference", "path": "/reference", "read_only": True}]


def made(**tree: Any) -> settings.Settings:
    return configuration.load(None, {}, {"kubernetes.namespace": "tes", "kubernetes.image": "server:1", **tree})


@pytest.mark.parametrize(
    ("tree", "where"),
    [
        ({"kubernetes.image": ""}, "kubernetes.image"),
        ({"kubernetes.identity_client_id": "x"}, "kubernetes.identity_tenant_id"),
        ({"server.id": "---"}, "server.id"),
        ({"kubernetes.storage_claim": "big", "kubernetes.storage_class": "managed-csi"}, "kubernetes.storage_claim"),
        ({"kubernetes.storage_claim": "data", "kubernetes.claims": CLAIMS}, "kubernetes.storage_claim"),
        ({"kubernetes.selectors": {"GPUs": "pool"}}, "kubernetes.selectors"),
        ({"kubernetes.selectors": {"service_account": "pool"}}, "kubernetes.selectors"),
        ({"kubernetes.ttl": 60}, "kubernetes.ttl"),
        ({"kubernetes.claims": [{"name": "a", "path": "a"}]}, "kubernetes.claims[0].path"),
        ({"kubernetes.claims": [{"name": "a", "path": "/a"}, {"name": "b", "path": "/"}]}, "kubernetes.claims[1].path"),
        ({"kubernetes.claims": [{"name": "a", "path": "/tes/control"}]}, "kubernetes.claims[0].path"),
        ({"kubernetes.secrets": {"a/b": "c"}}, "kubernetes.secrets.a/b"),
        ({"kubernetes.secrets": {"a": "Portal"}}, "kubernetes.secrets.a"),
        ({"kubernetes.scan_secrets": {"a": "portal/"}}, "kubernetes.scan_secrets.a"),
        ({"kubernetes.secrets": {"a": "x"}, "kubernetes.scan_secrets": {"a": "y"}}, "kubernetes.scan_secrets.a"),
        ({"spool.url": "s3://bucket"}, "spool.url"),
        ({"spool.url": "s3://bucket/x", "storage": [{"url": "s3://bucket"}]}, "spool.url"),
        ({"spool.url": "s3://bucket/x", "storage": [{"url": "s3://bucket", "tasks": False}]}, "spool.url"),
        ({"spool.url": "s3://bucket/x", "storage": [{"url": "s3://bucket", "write": True}]}, "spool.url"),  # tasks could write there
        ({"spool.url": "file:///data/x", "kubernetes.claims": CLAIMS}, "spool.url"),
    ],
)
def test_what_makes_no_sense_is_refused(tree: dict[str, Any], where: str) -> None:
    with pytest.raises(errors.SettingsError) as caught:
        cluster_rules.check(made(**tree))
    assert caught.value.where == where


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"spool.url": "s3://bucket/x", "storage": [{"url": "s3://bucket", "write": True, "tasks": False}]},
    ],
)
def test_what_makes_sense_is_taken(tree: dict[str, Any]) -> None:
    cluster_rules.check(made(**tree))


def test_files_are_those_of_claims_and_not_of_this_machine() -> None:
    known = made(**{"files.roots": ["/home"], "files.live_mounts": ["/data/jobs", "/reference/jobs", "/elsewhere"], "kubernetes.claims": CLAIMS})
    policy = cluster_rules.target(known).policy
    assert policy.sites.roots == ("/data", "/reference")
    assert policy.live_mounts == ("/data/jobs",)
    site = cluster_rules.site(known)
    assert site.claims == (Claim(name="data", path="/data"), Claim(name="reference", path="/reference", read_only=True))
    assert site.shared.access.roots == ("/data", "/reference")
    assert site.shared.live_roots == ("/data/jobs",)


def test_the_store_of_the_spool_is_not_one_of_tasks() -> None:
    storage = [{"url": "s3://results", "write": True}, {"url": "s3://kept", "write": True, "tasks": False}]
    shared = cluster_rules.site(made(**{"spool.url": "s3://kept/spool", "storage": storage})).shared
    assert [store.url for store in shared.access.stores] == ["s3://results"]
    assert [store.url for store in shared.spool_stores] == ["s3://kept"]


def test_spot_nodes_are_those_of_aks_unless_others_are_named() -> None:
    assert cluster_rules.site(made()).spot == AKS_SPOT
    other = cluster_rules.site(made(**{"kubernetes.spot_labels": {"karpenter.sh/capacity-type": "spot"}})).spot
    assert other == Pool(labels={"karpenter.sh/capacity-type": "spot"})


def test_gpus_of_several_types() -> None:
    site = cluster_rules.site(made(**{"kubernetes.gpu_types": {"a100": {"labels": {"sku": "a100"}, "taints": {"sku": "gpu"}}}}))
    assert site.gpu_of("") == Gpu()
    assert site.gpu_of("a100") == Gpu(pool=Pool(labels={"sku": "a100"}, taints=(Taint(key="sku", value="gpu"),)))
    assert site.gpu_of("h100") is None


def test_secrets_of_tasks_and_those_of_scans() -> None:
    known = made(**{"kubernetes.secrets": {"portal": "portal", "token": "keys/token"}, "kubernetes.scan_secrets": {"console": "prisma"}})
    cluster_rules.check(known)
    capable, site = cluster_rules.target(known).capabilities, cluster_rules.site(known)
    assert (capable.secrets, capable.scan_secrets) == (("portal", "token"), ("console",))
    assert capable.secret_keys == {"portal": True, "token": False, "console": True}
    assert site.secrets == {"portal": SecretKey("portal"), "token": SecretKey("keys", "token")}
    assert site.scan_secrets == {"console": SecretKey("prisma")}


def test_bounds_of_a_task_and_its_parameters() -> None:
    capable = cluster_rules.target(made(**{"kubernetes.max_cpus": 16, "kubernetes.max_ram_gb": 64, "kubernetes.selectors": {"Node_Pool": "pool"}})).capabilities
    assert (capable.cpus, capable.ram_bytes, capable.gpus) == (16, 64 * 10**9, 0)
    assert capable.parameters == {"node_pool": Values(pattern=names.LABEL_VALUE)}
    named = cluster_rules.target(made(**{"kubernetes.service_accounts": ["reader", "writer"]})).capabilities
    assert named.parameters == {"service_account": Values(choices=("reader", "writer"))}
    assert not capable.host_image
