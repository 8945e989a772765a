"""The Kubernetes cluster that tests run against, namespaces of their own on it, and the images that its node needs.

KUBECONFIG names it; without that the one that `../shared/cluster/up` starts is tried. Its node must be this machine, with which its pods share files:
whatever other cluster a developer is signed in at is never touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kubernetes import client, config

from tes_server import errors
from tes_server.backends.kubernetes.calls import Answer, Calls
from tests import server_image
from tests.integration.conftest import unreachable

Json = dict[str, Any]

ROOT = pathlib.Path(__file__).parents[1]
LOAD = ROOT.parent / "shared" / "cluster" / "load"
USUAL = pathlib.Path("~/.cache/tes-cluster/kubeconfig")
HOW = "../shared/cluster/up starts one, KUBECONFIG names it"

BUSYBOX, STATIC = "tes-test/busybox", "tes-test/static"

PATIENCE = 60.0


class Counted(Calls):
    """Connections as the backend has them, with its `writes`: method and path of each request that changes something."""

    def __init__(self, configuration: Any) -> None:
        super().__init__(configuration)
        self.writes: list[str] = []

    def _call(self, method: str, path: str, query: Mapping[str, str], body: Mapping[str, Any] | None = None, kind: str = "application/json") -> Answer:
        if method != "GET":
            self.writes.append(f"{method} {path}")
        return super()._call(method, path, query, body, kind)


class Cluster:
    """`address`: this machine, as pods reach it. `server_image`: of stage containers and of servers."""

    def __init__(self, kubeconfig: pathlib.Path, server_image: str) -> None:
        self.kubeconfig = kubeconfig
        self.address = ""
        self.server_image = server_image
        self.calls = self.connect()

    def connect(self) -> Counted:
        """The caller closes them."""
        configuration = client.Configuration()
        config.load_kube_config(str(self.kubeconfig), client_configuration=configuration)
        return Counted(configuration)

    # -- what tests do behind the backend's back

    def get(self, path: str, **query: str) -> Json:
        """An object, or a list."""
        return _read(self.calls.get(path, **query), path)

    def names(self, path: str, **query: str) -> list[str]:
        """Of all objects in a list."""
        return [item["metadata"]["name"] for item in self.get(path, **query)["items"]]

    def make(self, path: str, body: Json) -> Json:
        """A new object, below the path of its kind."""
        return _read(self.calls.post(path, body), path)

    def patch(self, path: str, body: Json) -> Json:
        """An object with a merge patch."""
        return _read(self.calls.patch(path, body), path)

    def delete(self, path: str, **options: Any) -> None:
        """Ask for its end; what is not there has ended."""
        answer = self.calls.delete(path, options)
        if answer.status != 404:
            _read(answer, path)

    def until(self, holds: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
        """What `holds` answers as soon as that is true."""
        deadline = time.monotonic() + patience
        while not (found := holds()):
            assert time.monotonic() < deadline, f"not within {patience:g} s: {what}"
            time.sleep(0.1)
        return found


def find() -> Cluster:
    """The cluster, with the images; skips, or fails, where there is none or it is not a test's to use."""
    path = pathlib.Path(os.environ.get("KUBECONFIG") or USUAL).expanduser()
    try:
        found = Cluster(path, server_image.find())
    except (config.ConfigException, OSError) as why:
        unreachable("the cluster", f"{why} ({HOW})")
    with contextlib.ExitStack() as unless_it_works:
        unless_it_works.callback(found.calls.close)
        try:
            nodes = found.get("/api/v1/nodes")["items"]
        except (errors.Unavailable, AssertionError) as why:
            unreachable("the cluster", f"{why} ({HOW})")
        found.address = next((each["address"] for node in nodes for each in node["status"]["addresses"] if each["type"] == "InternalIP"), "")
        if len(nodes) != 1 or not _is_ours(found.address):
            unreachable("the cluster", f"{path} leads to one whose node is not this machine")
        load(found, BUSYBOX, STATIC, found.server_image)
        unless_it_works.pop_all()
    return found


def load(cluster: Cluster, *images: str) -> None:
    """Docker's images onto the node, as far as it has not got them: an annotation tells which version of each was loaded last."""
    node = cluster.get("/api/v1/nodes")["items"][0]
    given = node["metadata"].get("annotations", {})
    wanted = {f"images.tes-test/{re.sub(r'[/:]', '_', image)}": server_image.run("image", "inspect", "--format", "{{.Id}}", image).strip() for image in images}
    missing = {image: key for image, key in zip(images, wanted, strict=True) if given.get(key) != wanted[key]}
    if not missing:
        return
    with tempfile.TemporaryDirectory() as directory:
        archive = f"{directory}/images.tar"
        server_image.run("save", "--output", archive, *missing)
        done = subprocess.run([LOAD, archive], check=False, capture_output=True, text=True) if LOAD.exists() else None
    if done is None or done.returncode:
        unreachable("the cluster's image store", done.stderr if done else f"there is no {LOAD}")
    cluster.patch(f"/api/v1/nodes/{node['metadata']['name']}", {"metadata": {"annotations": wanted}})


@contextlib.contextmanager
def built(image: str, dockerfile: str) -> Iterator[None]:
    """Docker has an image that was made without any other file, for as long as this lasts."""
    server_image.run("build", "--quiet", "--tag", image, "-", text=dockerfile)
    try:
        yield
    finally:
        server_image.run("rmi", image)


@contextlib.contextmanager
def namespace(cluster: Cluster, **labels: str) -> Iterator[str]:
    """A namespace of its own, deleted with all that is in it; nobody waits for that."""
    name = f"tes-test-{uuid.uuid4().hex[:8]}"
    cluster.make("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    try:
        cluster.until(lambda: cluster.calls.get(f"/api/v1/namespaces/{name}/serviceaccounts/default").status == 200, "a service account for pods")
        yield name
    finally:
        cluster.delete(f"/api/v1/namespaces/{name}")


@contextlib.contextmanager
def claim(cluster: Cluster, namespace: str, directory: pathlib.Path) -> Iterator[str]:
    """A PersistentVolumeClaim whose files are those of a directory of this machine."""
    volume, name = f"{namespace}-{uuid.uuid4().hex[:8]}", f"claim-{uuid.uuid4().hex[:8]}"
    shape: Json = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    claimed = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": name}
    spec = {**shape, "capacity": {"storage": "1Gi"}, "hostPath": {"path": str(directory)}, "claimRef": claimed, "persistentVolumeReclaimPolicy": "Retain"}
    cluster.make("/api/v1/persistentvolumes", {"metadata": {"name": volume}, "spec": spec})
    try:
        wanted = {**shape, "volumeName": volume, "resources": {"requests": {"storage": "1Gi"}}}
        place = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims"
        cluster.make(place, {"metadata": {"name": name}, "spec": wanted})
        cluster.until(lambda: cluster.get(f"{place}/{name}")["status"].get("phase") == "Bound", "the claim is bound")
        yield name
    finally:
        cluster.delete(f"/api/v1/persistentvolumes/{volume}")


# -- the parts


def _read(answer: Answer, path: str) -> Json:
    assert answer.status < 300, f"{path}: {answer.status} {answer.words}"
    found: Json = json.loads(answer.body)
    return found


def _is_ours(address: str) -> bool:
    try:
        socket.create_server((address, 0)).close()
    except OSError:
        return False
    return bool(address)
