"""A namespace of a real cluster with a directory that its pods share with this machine, and backends on it."""

from __future__ import annotations

import contextlib
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any

import msgspec

from tes_server.backends.kubernetes import program
from tes_server.backends.kubernetes.driver import KubernetesBackend
from tes_server.backends.kubernetes.seen import Bounds
from tes_server.backends.kubernetes.site import Claim, Site
from tes_server.control.service import new_id
from tes_server.filer.manifest import Access
from tes_server.filer.spool import Spool
from tes_server.model import views
from tes_server.model.run import Handle, Later, Observation, Phase, Refusal
from tes_server.model.task import Task
from tes_server.plan import compiler
from tes_server.plan.paths import Sites
from tes_server.plan.policy import Capabilities, Policy
from tes_server.runner.pod import PodSite
from tests import cluster as clusters
from tests.clock import utc
from tests.cluster import Cluster, Counted, Json
from tests.contract.backend_contract import Driven
from tests.guards import LOOPBACK

SMALL = {"cpu_cores": 0.05, "ram_gb": 0.05}
WRITABLE = frozenset({"file", "http"})


class Lab:
    """Where `namespace` is, and `directory`, which the pods see at its own path by the claim `claim`."""

    def __init__(self, cluster: Cluster, namespace: str, directory: pathlib.Path, claim: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.directory = directory
        self._claim = Claim(name=claim, path=str(directory))
        self.core = f"/api/v1/namespaces/{namespace}"
        self.jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"

    def site(self) -> pathlib.Path:
        """A new directory below the shared one, an allowed root of the tasks of one backend."""
        path = self.directory / uuid.uuid4().hex
        path.mkdir()
        path.chmod(0o777)
        return path

    def backend(self, site: pathlib.Path, *, bounds: Bounds | None = None, kept: Spool | None = None, **fields: Any) -> KubernetesBackend:
        """A fresh one, as after a restart; to be closed. All of one `site` are one server's."""
        shared = PodSite(access=Access(roots=(str(site),), guard=LOOPBACK, uploads=("http",), tries=1), live_roots=(str(site / "live"),))
        given: dict[str, Any] = {"claims": (self._claim,), "grace": 2.0, "pod_grace": 20.0, "shared": shared, "program": program.of_this_server(), **fields}
        made = KubernetesBackend(
            self.cluster.connect(),
            Site(namespace=self.namespace, server=site.name, image=self.cluster.server_image, **given),
            Capabilities(submit_window=60.0, secrets=tuple(fields.get("secrets", ())), scan_secrets=tuple(fields.get("scan_secrets", ()))),
            utc,
            bounds=bounds,
            kept=kept,
        )
        made.resume()
        self.cluster.until(lambda: made.fresh, "the backend has listed what there is")
        return made

    @contextlib.contextmanager
    def driven(self, **options: Any) -> Iterator[Driven]:
        """A backend with a site of its own; at the end it has no task left."""
        site = self.site()
        backend = self.backend(site, **options)
        try:
            yield Driven(backend, policy(site), clusters.BUSYBOX)
            backend.cancel(list(backend.survey()))
        finally:
            backend.close()

    # -- what tests look at and do behind the backend's back

    def pod(self, handle: Handle) -> Json | None:
        """The pod of an attempt."""
        items: list[Json] = self.cluster.get(f"{self.core}/pods", labelSelector=f"batch.kubernetes.io/job-name={handle.name}")["items"]
        return items[0] if items else None

    def evict(self, handle: Handle) -> None:
        """By the eviction API, as a drain does it."""
        name = self._pod_name(handle)
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
        self.cluster.make(f"{self.core}/pods/{name}/eviction", eviction)

    def delete_pod(self, handle: Handle) -> None:
        """By hand."""
        self.cluster.delete(f"{self.core}/pods/{self._pod_name(handle)}")

    def _pod_name(self, handle: Handle) -> str:
        pod = self.pod(handle)
        assert pod is not None
        return str(pod["metadata"]["name"])


@contextlib.contextmanager
def lab(cluster: Cluster, directory: pathlib.Path, **labels: str) -> Iterator[Lab]:
    """In a namespace of its own."""
    directory.chmod(0o755)
    with clusters.namespace(cluster, **labels) as namespace, clusters.claim(cluster, namespace, directory) as claim:
        yield Lab(cluster, namespace, directory, claim)


def policy(site: pathlib.Path) -> Policy:
    """What tasks may name."""
    return Policy(sites=Sites(roots=(str(site),), guard=LOOPBACK, writable=WRITABLE), live_mounts=(str(site / "live"),))


def writes(driven: Driven) -> list[str]:
    """The requests of its backend that change something, beside tes-step for pods of one container, which is kept once for all."""
    assert isinstance(driven.backend, KubernetesBackend)
    calls = driven.backend._calls
    assert isinstance(calls, Counted)
    return [write for write in calls.writes if not write.endswith("/configmaps")]


def start(driven: Driven, *executors: dict[str, Any], **fields: Any) -> Handle:
    """A task that asks for little."""
    return driven.start(*executors, **{"resources": SMALL, **fields})


def submitted(driven: Driven, *executors: dict[str, Any]) -> Handle | Refusal | Later:
    """What a submit is answered."""
    task = views.with_types(msgspec.convert({"executors": list(executors), "resources": SMALL}, Task))
    job = driven.backend.render(compiler.compile_task(task, new_id(utc()), 1, "o", driven.policy, driven.backend.capabilities).plan)
    return driven.backend.submit([job])[job.name]


def says(code: str, *words: str) -> Any:
    """Holds while an attempt waits with this code, and these words in its message."""

    def holds(seen: Observation) -> bool:
        assert seen.phase is not Phase.ENDED, seen
        return seen.code == code and all(word in seen.message for word in words)

    return holds
