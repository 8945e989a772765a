"""What the doctor asks a cluster for is what docs/kubernetes.md tells to allow."""

from __future__ import annotations

from tes_server.backends.kubernetes import rights
from tests.acceptance import cluster_site


def test_the_documented_role_is_the_one_that_is_asked_for() -> None:
    documented = {(rule["resources"][0], tuple(rule["apiGroups"])): set(rule["verbs"]) for rule in cluster_site.documented_rules()}
    assert documented == {(right.resource, (right.group,)): set(right.verbs) for right in (*rights.NEEDED, rights.FOR_ALONE)}
