"""The chart on a real cluster: installed, tested, used as people do, upgraded, uninstalled; in both its shapes."""

from __future__ import annotations

import contextlib
import pathlib
import re
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests import cluster as clusters
from tests import helm, mongo_server
from tests.acceptance.server import BIN, Client
from tests.cluster import BUSYBOX, Cluster
from tests.relay import Relay

pytestmark = pytest.mark.cluster

SMALL = {"cpu_cores": 0.1, "ram_gb": 0.05}
RELEASE = "tes-server"

ROLE = {
    "batch/jobs": {"get", "list", "watch", "create", "patch", "delete"},
    "pods": {"list", "watch", "delete"},
    "pods/log": {"get"},
    "events": {"list", "watch"},
    "secrets": {"create", "delete"},
    "configmaps": {"get", "create"},
}
"""All that the server may do, and in its namespace only."""

OTHERS = (
    "pods/exec", "pods/attach", "pods/portforward", "pods/ephemeralcontainers", "services", "serviceaccounts", "serviceaccounts/token",
    "persistentvolumeclaims", "apps/deployments", "apps/statefulsets", "batch/cronjobs", "rbac.authorization.k8s.io/roles",
    "rbac.authorization.k8s.io/rolebindings", "nodes", "namespaces", "persistentvolumes",
)  # fmt: skip

VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")


class Shell(Client):
    """An installed server, at a url, for the API and for the program `tes`."""

    def __init__(self, url: str) -> None:
        self.url = url

    def tes(self, *words: str) -> str:
        command = [str(BIN / "tes"), words[0], "--url", self.url, *words[1:]]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stderr
        return done.stdout


class Release:
    """The chart in a namespace."""

    def __init__(self, cluster: Cluster, namespace: str, *values: str) -> None:
        repository, _, tag = cluster.server_image.partition(":")
        self.cluster, self.namespace = cluster, namespace
        self._values = (f"image.repository={repository},image.tag={tag or 'latest'},image.pullPolicy=Never,tests.image={BUSYBOX}", *values)

    def run(self, command: str, *words: str) -> str:
        return helm.run(*command.split(), RELEASE, *words, *self._where, "--timeout", "180s").stdout

    def put(self, command: str, *values: str) -> None:
        given = [part for value in (*self._values, *values) for part in ("--set", value)]
        self.run(command, str(helm.CHART), "--wait", *given)

    def pods(self, component: str) -> list[str]:
        return self.cluster.names(f"/api/v1/namespaces/{self.namespace}/pods", labelSelector=f"app.kubernetes.io/component={component}")

    def kubectl(self, *words: str, given: str = "") -> str:
        return helm.kubectl(*self._where, *words, given=given)

    @property
    def _where(self) -> tuple[str, ...]:
        return ("--kubeconfig", str(self.cluster.kubeconfig), "--namespace", self.namespace)

    @contextlib.contextmanager
    def forwarded(self) -> Iterator[Shell]:
        """As NOTES.txt says."""
        command = [helm.program("kubectl"), *self._where, "port-forward", f"service/{RELEASE}", ":80"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                found = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
                assert found, "kubectl says where it listens"
                yield Shell(f"http://127.0.0.1:{found[1]}")
            finally:
                process.terminate()

    def left(self) -> set[str]:
        """What there is in the namespace that no namespace has by itself; what has been told of it apart."""
        usual = {"ConfigMap/kube-root-ca.crt", "ServiceAccount/default"}
        return {each for each in self._objects() if each not in usual and not each.startswith(("Event/", "PodMetrics/"))}

    def _objects(self) -> Iterator[str]:
        groups = self.cluster.get("/apis")["groups"]
        for place in ("/api/v1", *(f"/apis/{group['preferredVersion']['groupVersion']}" for group in groups)):
            for kind in self.cluster.get(place)["resources"]:
                if kind["namespaced"] and "list" in kind["verbs"]:
                    for name in self.cluster.names(f"{place}/namespaces/{self.namespace}/{kind['name']}"):
                        yield f"{kind['kind']}/{name}"


@pytest.fixture
def space(cluster: Cluster) -> Iterator[str]:
    helm.program("helm")
    with clusters.namespace(cluster) as name:
        yield name


def may(cluster: Cluster, account: str, namespace: str, verb: str, what: str) -> bool:
    """What `kubectl auth can-i VERB WHAT --as ACCOUNT` asks."""
    group, _, resource = what.rpartition("/") if what.startswith(("batch/", "apps/", "rbac.")) else ("", "", what)
    resource, _, part = resource.partition("/")
    asked = {"namespace": namespace, "verb": verb, "group": group, "resource": resource, "subresource": part}
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {"user": account, "resourceAttributes": asked}}
    return bool(cluster.make("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)["status"]["allowed"])


def test_the_cluster_takes_every_object_of_the_golden_files(cluster: Cluster, space: str) -> None:
    release = Release(cluster, space)
    for file in sorted((pathlib.Path(__file__).parents[1] / "golden" / "chart").glob("*.objects.yaml")):
        # Of other people's kinds only the operator knows.
        objects = [each for each in yaml.safe_load_all(file.read_text()) if each["kind"] != "ServiceMonitor"]
        for each in objects:
            each["metadata"]["namespace"] = space
        release.kubectl("apply", "--dry-run=server", "--validate=strict", "--filename", "-", given=yaml.safe_dump_all(objects))


@pytest.fixture
def volume(cluster: Cluster, space: str, tmp_path: pathlib.Path) -> Iterator[tuple[str, pathlib.Path]]:
    """A storage class of one volume, and the directory that this is."""
    kept = tmp_path / "kept"
    kept.mkdir()
    kept.chmod(0o777)  # nobody gives a hostPath to the pod's group
    spec: dict[str, Any] = {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "20Gi"}, "storageClassName": space}
    body = {"metadata": {"name": space}, "spec": {**spec, "hostPath": {"path": str(kept)}, "persistentVolumeReclaimPolicy": "Retain"}}
    cluster.make("/api/v1/persistentvolumes", body)
    try:
        yield space, kept
    finally:
        cluster.delete(f"/api/v1/persistentvolumes/{space}")


def of_tasks(left: set[str]) -> set[str]:
    """By design what has ended stays for `kubernetes.ttl`, so that its name is not taken twice; and what pods of one container mount."""
    return {each for each in left if re.fullmatch(r"(Job|Pod)/[a-z0-9]{26}-1(-\w+)?|ConfigMap/tes-step-[0-9a-f]{16}", each)}


def test_one_pod_with_sqlite(cluster: Cluster, space: str, volume: tuple[str, pathlib.Path]) -> None:
    storage_class, kept = volume
    release = Release(cluster, space, f"persistence.storageClass={storage_class}")
    release.put("install")
    release.run("test")
    assert f"ok    cluster, namespace {space}" in release.kubectl("exec", f"{RELEASE}-0", "--", "tes-server", "doctor")
    with release.forwarded() as shell:
        assert shell.tes("run", "--image", BUSYBOX, "--cpu", "0.1", "--", "echo", "hi") == "hi\n"
        status, refused = shell.ask("/v1/tasks", headers={"Host": "elsewhere.example"})
        assert status == 403, refused
        assert shell.ask("/v1/tasks", headers={"Host": f"{RELEASE}.{space}.svc.cluster.local"})[0] == 200
        task = shell.create({"image": BUSYBOX, "command": ["sleep", "6"]}, resources=SMALL)
        shell.until(task, "RUNNING")
    # A running task outlives the server, and the server finds it again.
    release.put("upgrade", "settings.log.level=debug")
    with release.forwarded() as shell:
        ended = shell.until(task)
        assert ended["state"] == "COMPLETE", ended
        assert len(ended["logs"]) == 1
    release.run("uninstall", "--wait", "--cascade", "foreground")
    left = release.left()
    assert left - of_tasks(left) == {f"PersistentVolumeClaim/{RELEASE}-data"}
    assert len([each for each in left if each.startswith("Job/")]) == 3
    assert (kept / "tasks.sqlite").exists()
    # The volume that was kept is taken up again.
    release.put("install")
    with release.forwarded() as shell:
        assert set(shell.states().values()) == {"COMPLETE"}
        assert len(shell.states()) == 3


def test_the_server_may_do_what_is_listed_and_nothing_else(cluster: Cluster) -> None:
    """In a namespace that takes nobody with powers, as any user, with an empty volume."""
    helm.program("helm")
    with clusters.namespace(cluster, **{"pod-security.kubernetes.io/enforce": "restricted"}) as space:
        user = "podSecurityContext.runAsUser=23456,podSecurityContext.runAsGroup=23456,podSecurityContext.fsGroup=23456"
        release = Release(cluster, space, "persistence.enabled=false,settings.kubernetes.profile=restricted", user)
        release.put("install")
        release.run("test")
        _look_at_rights(cluster, space)
        release.run("uninstall", "--wait", "--cascade", "foreground")
        left = release.left()
        assert left == of_tasks(left)


def _look_at_rights(cluster: Cluster, space: str) -> None:
    server, tasks = (f"system:serviceaccount:{space}:{name}" for name in (RELEASE, f"{RELEASE}-tasks"))
    for what in (*ROLE, *OTHERS):
        allowed = {verb for verb in VERBS if may(cluster, server, space, verb, what)}
        assert allowed == ROLE.get(what, set()), what
        assert not {verb for verb in VERBS if may(cluster, tasks, space, verb, what)}, what
    for what in ROLE:
        assert not {verb for verb in VERBS if may(cluster, server, "default", verb, what)}, what


@pytest.mark.mongo
def test_api_pods_and_reconcilers_on_one_database(cluster: Cluster, space: str) -> None:
    named = mongo_server.url()
    there = urllib.parse.urlsplit(named)
    with mongo_server.database(named) as account:
        relay = Relay(cluster.address, (str(there.hostname), there.port or 27017))
        try:
            url = there._replace(netloc=f"{cluster.address}:{relay.port}", path=f"/{account.database}").geturl()
            release = Release(cluster, space, f"store.url={url}", "api.replicas=2,reconciler.replicas=2,service.type=NodePort")
            release.put("install")
            _use(release)
            release.run("uninstall", "--wait", "--cascade", "foreground")
            left = release.left()
            assert left == of_tasks(left)
        finally:
            relay.close()


def _use(release: Release) -> None:
    cluster, space = release.cluster, release.namespace
    assert len(release.pods("api")) == 2
    assert len(release.pods("reconciler")) == 2
    release.run("test")
    [port] = cluster.get(f"/api/v1/namespaces/{space}/services/{RELEASE}")["spec"]["ports"]
    shell = Shell(f"http://127.0.0.1:{port['nodePort']}")
    assert shell.tes("run", "--image", BUSYBOX, "--cpu", "0.1", "--", "echo", "hi") == "hi\n"
    tasks = [shell.create({"image": BUSYBOX, "command": ["sleep", "4"]}, resources=SMALL) for _ in range(6)]
    answers: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answers.append(shell.ask("/v1/tasks?view=MINIMAL")[0])

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        # Every pod is replaced, and nobody notices.
        release.put("upgrade", "settings.log.level=debug")
    finally:
        stop.set()
        asking.join()
    assert set(answers) == {200}, "the API is never away"
    # One reconciler dies without a word: the other one goes on with what it had.
    victim = release.pods("reconciler")[0]
    cluster.delete(f"/api/v1/namespaces/{space}/pods/{victim}", gracePeriodSeconds=0)
    tasks += [shell.create({"image": BUSYBOX, "command": ["echo", str(number)]}, resources=SMALL) for number in range(6)]
    assert set(shell.until_all(tasks, 120.0)) == {"COMPLETE"}
    for task in tasks:
        ended: Any = shell.get(task)
        assert len(ended["logs"]) == 1, ended
    jobs = cluster.names(f"/apis/batch/v1/namespaces/{space}/jobs")
    assert len(jobs) == len(set(jobs)) == 14, "none was made twice"
    deadline = time.monotonic() + 60
    while len(release.pods("reconciler")) != 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)
