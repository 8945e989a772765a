"""The Kubernetes backend held to BackendContract on a real cluster: its scheduler, its kubelet, its container runtime, and the image of the server."""

from __future__ import annotations

import pathlib
import uuid
from collections.abc import Callable, Iterator

import pytest

from tes_server.backends.kubernetes import program
from tes_server.backends.kubernetes.driver import KubernetesBackend
from tes_server.backends.kubernetes.site import Claim, Program, Site
from tes_server.filer.manifest import Access
from tes_server.model.run import Phase, Reason
from tes_server.plan.policy import Capabilities
from tes_server.runner.pod import PodSite
from tests import cluster as clusters
from tests.clock import utc
from tests.cluster import Cluster
from tests.contract.backend_contract import BackendContract, Driven

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
    def alone(self) -> Program | None:
        """Every task in a pod with stage steps."""
        return None

    @pytest.fixture
    def make(self, cluster: Cluster, namespace: str, shared: Claim, site: pathlib.Path, alone: Program | None) -> Callable[[], KubernetesBackend]:
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
                    program=alone,
                ),
                Capabilities(submit_window=60.0),
                utc,
            )
            backend.resume()
            cluster.until(lambda: backend.fresh, "the backend has listed what there is")
            return backend

        return made


class TestKubernetesClusterAlone(TestKubernetesCluster):
    """The same where tasks that need one container have one."""

    @pytest.fixture
    def alone(self) -> Program | None:
        return program.of_this_server()

    def test_killed_for_memory_it_tells_so(self, driven: Driven) -> None:
        script = "echo before; sleep 1; head -c 400000000 /dev/zero | tail > /dev/null"
        report = driven.run(driven.executor(script), resources={"cpu_cores": 0.5, "ram_gb": 0.05})
        assert (report.reason, report.executors[0].stdout) == (Reason.OOM, "before\n")

    def test_deleted_pods_have_told_what_became_of_them(self, driven: Driven, cluster: Cluster, namespace: str) -> None:
        handle = driven.start(driven.executor("echo up; exec sleep 1000"))
        seen = driven.until(handle, lambda seen: seen.phase is Phase.RUNNING)
        path = f"/api/v1/namespaces/{namespace}/pods/{seen.where['pod']}"
        server = cluster.connect()
        try:
            assert server.delete(path).status == 200
        finally:
            server.close()
        report = driven.end(handle)
        assert (report.reason, report.executors[0].exit_code, report.executors[0].stdout) == (Reason.LOST, 143, "up\n")

    def test_both_streams_of_a_long_output(self, driven: Driven) -> None:
        report = driven.run(driven.executor("seq 3000; seq 3000 >&2; exit 3"))
        words = "".join(f"{number}\n" for number in range(1, 3001))
        assert (report.executors[0].stdout, report.executors[0].stderr) == (words, words)
        assert (report.reason, report.executors[0].exit_code) == (Reason.EXIT, 3)
