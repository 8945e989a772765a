"""A server's configuration for a namespace of a real cluster, and for one who is signed in there otherwise or reaches it through a relay."""

from __future__ import annotations

import base64
import json
import pathlib
import time
import urllib.parse
from collections.abc import Collection, Iterable
from typing import Any

import yaml

from tests.acceptance.server import Client
from tests.cluster import PATIENCE, Cluster, Json
from tests.relay import Relay

SMALL = {"cpu_cores": 0.05, "ram_gb": 0.05}


def relay(cluster: Cluster) -> Relay:
    """Before the cluster's API server, on this machine; to be closed."""
    parts = urllib.parse.urlsplit(_file(cluster)["clusters"][0]["cluster"]["server"])
    return Relay("127.0.0.1", (parts.hostname or "", parts.port or 443))


def kubeconfig(cluster: Cluster, path: pathlib.Path, *, port: int = 0, token: str = "") -> pathlib.Path:
    """The cluster's, with another port of this machine, or another's token."""
    content = _file(cluster)
    if port:
        content["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{port}"
    if token:
        content["users"][0]["user"] = {"token": token}
    path.write_text(json.dumps(content))
    path.chmod(0o600)
    return path


def settings(
    cluster: Cluster, namespace: str, path: pathlib.Path, *, kubeconfig: pathlib.Path | None = None, cluster_more: str = "", more: str = ""
) -> tuple[str, ...]:
    """Flags of a server whose only place for tasks is the namespace, unless `more` (TOML tables) says otherwise."""
    local = "" if "[local]" in more else "[local]\nenabled = false\n"
    path.write_text(
        f"""
        {local}
        {more}
        [kubernetes]
        namespace = "{namespace}"
        kubeconfig = "{kubeconfig or cluster.kubeconfig}"
        image = "{cluster.server_image}"
        grace = 2
        {cluster_more}
        """
    )
    return ("--config", str(path))


def claim(name: str, directory: pathlib.Path) -> str:
    """The table of a shared volume."""
    return f'[[kubernetes.claims]]\nname = "{name}"\npath = "{directory}"\n'


def sh(script: str, *words: str) -> dict[str, Any]:
    """An executor."""
    return {"image": "tes-test/busybox", "command": ["/bin/sh", "-euc", script, "sh", *words]}


def jobs(cluster: Cluster, namespace: str) -> dict[str, Json]:
    """By name."""
    return {job["metadata"]["name"]: job for job in cluster.get(f"/apis/batch/v1/namespaces/{namespace}/jobs")["items"]}


def running(cluster: Cluster, namespace: str) -> list[str]:
    """Pods that have not ended."""
    pods = cluster.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
    return [pod["metadata"]["name"] for pod in pods if pod["status"].get("phase") not in ("Succeeded", "Failed")]


def secrets(cluster: Cluster, namespace: str) -> list[str]:
    """What the server made of them."""
    return cluster.names(f"/api/v1/namespaces/{namespace}/secrets", labelSelector="app.kubernetes.io/managed-by=tes-server")


def until_said(server: Client, task_id: str, words: Collection[str]) -> None:
    """Until a line of system_logs has all of the words."""
    deadline = time.monotonic() + PATIENCE
    while True:
        logs = server.get(task_id).get("logs") or [{}]
        lines = logs[0].get("system_logs", [])
        if any(all(word in line for word in words) for line in lines):
            return
        assert time.monotonic() < deadline, lines
        time.sleep(0.1)


def token_of(cluster: Cluster, namespace: str, account: str) -> str:
    """A service account of that name, which may do nothing, and its token."""
    place = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    cluster.make(place, {"metadata": {"name": account}})
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    return str(cluster.make(f"{place}/{account}/token", asked)["status"]["token"])


def allow(cluster: Cluster, namespace: str, account: str) -> None:
    """The Role of docs/kubernetes.md, word for word, bound to the account."""
    rules = list(documented_rules())
    place = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    cluster.make(f"{place}/roles", {"metadata": {"name": account}, "rules": rules})
    who = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account}
    cluster.make(f"{place}/rolebindings", {"metadata": {"name": account}, "subjects": [who], "roleRef": ref})


def documented_rules() -> Iterable[Json]:
    """The rows of the table of rights in docs/kubernetes.md."""
    text = (pathlib.Path(__file__).parents[2] / "docs" / "kubernetes.md").read_text()
    rows = text.partition("| resource | verbs | for |")[2].partition("\n\n")[0].splitlines()[2:]
    for row in rows:
        named, verbs, _ = (cell.strip() for cell in row.strip("|").split("|", 2))
        resource = named.split("`")[1]
        yield {"apiGroups": ["batch" if "`batch`" in named else ""], "resources": [resource], "verbs": verbs.split(", ")}


def opaque(values: dict[str, str]) -> dict[str, str]:
    """As a Secret's data."""
    return {name: base64.b64encode(value.encode()).decode() for name, value in values.items()}


def _file(cluster: Cluster) -> Json:
    content: Json = yaml.safe_load(cluster.kubeconfig.read_text())
    return content
