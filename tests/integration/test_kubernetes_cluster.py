"""The Kubernetes backend held to BackendContract on a real cluster: its scheduler, its kubelet, its container runtime, and the image of the server."""

from __future__ import annotations

import pathlib
import uuid
from collections.abc import Callable, Iterator

import pytest

from tes_server.backends.kubernetes.driver import KubernetesBackend
from tes_server.backends.kubernetes.site import Claim, Site
from tes_server.filer.manifest import Access
from tes_server.plan.policy import Capabilities
from tes_server.runner.pod import PodSite
from tests import cluster as clusters
from tests.clock import utc
from tests.cluster import Cluster
from tests.contract.backend_contract import BackendContract

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]


@pytest.fixture(scope="module")
def shared(cluster: Cluster, namespace: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Claim]:
    """A directory of this machine that pods of the namespace see as a claim."""
    directory = tmp_path_factory.mktemp("claim")
    with clusters.claim(cluster, namespace, directory) as name:
        yield Claim(name=name, path=str(directory))


class TestKubernetesCluster(BackendContract):
    @pytest.fixture
    def image(self) -> str:
        return clusters.BUSYBOX

    @pytest.fixture
    def address(self, cluster: Cluster) -> str:
        return cluster.address

    @pytest.fixture
    def site(self, shared: Claim) -> pathlib.Path:
        path = pathlib.Path(shared.path) / uuid.uuid4().hex
        path.mkdir()
        return path

    @pytest.fixture
    def make(self, cluster: Cluster, namespace: str, shared: Claim, site: pathlib.Path) -> Callable[[], KubernetesBackend]:
        def made() -> KubernetesBackend:
            backend = KubernetesBackend(
                cluster.connect(),
                Site(
                    namespace=namespace,
                    server=site.name,
                    image=cluster.server_image,
                    shared=PodSite(access=Access(roots=(str(site),), closed=()), live_roots=(str(site / "live"),)),
                    claims=(shared,),
                    grace=2.0,
                    pod_grace=20.0,
                ),
                Capabilities(submit_window=60.0),
                utc,
            )
            backend.resume()
            cluster.until(lambda: backend.fresh, "the backend has listed what there is")
            return backend

        return made
