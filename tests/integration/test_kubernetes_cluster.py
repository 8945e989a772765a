"""The Kubernetes backend held to BackendContract on a real cluster: its scheduler, its kubelet, its container runtime, and the image of the server.

As servers have it by default: what one container can do runs in a pod of one, the rest between stage steps.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator

import pytest

from tes_server.backends.kubernetes.driver import KubernetesBackend
from tes_server.model.run import Phase, Reason
from tests import cluster as clusters
from tests.cluster import Cluster
from tests.contract.backend_contract import BackendContract, Driven
from tests.integration import cluster_lab
from tests.integration.cluster_lab import Lab

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def lab(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with cluster_lab.lab(cluster, tmp_path_factory.mktemp("claim")) as made:
        yield made


class TestKubernetesCluster(BackendContract):
    @pytest.fixture
    def image(self) -> str:
        return clusters.BUSYBOX

    @pytest.fixture
    def address(self, cluster: Cluster) -> str:
        return cluster.address

    @pytest.fixture
    def site(self, lab: Lab) -> pathlib.Path:
        return lab.site()

    @pytest.fixture
    def make(self, lab: Lab, site: pathlib.Path) -> Callable[[], KubernetesBackend]:
        return lambda: lab.backend(site)

    # -- pods of one container

    def test_killed_for_memory_it_tells_so(self, driven: Driven) -> None:
        script = "echo before; sleep 1; head -c 400000000 /dev/zero | tail > /dev/null"
        report = driven.run(driven.executor(script), resources={"cpu_cores": 0.5, "ram_gb": 0.05})
        assert (report.reason, report.executors[0].stdout) == (Reason.OOM, "before\n")

    def test_deleted_pods_have_told_what_became_of_them(self, driven: Driven, lab: Lab) -> None:
        handle = driven.start(driven.executor("echo up; exec sleep 1000"))
        driven.until(handle, lambda seen: seen.phase is Phase.RUNNING)
        lab.delete_pod(handle)
        report = driven.end(handle)
        assert (report.reason, report.executors[0].exit_code, report.executors[0].stdout) == (Reason.LOST, 143, "up\n")

    def test_both_streams_of_a_long_output(self, driven: Driven) -> None:
        report = driven.run(driven.executor("seq 3000; seq 3000 >&2; exit 3"))
        words = "".join(f"{number}\n" for number in range(1, 3001))
        assert (report.executors[0].stdout, report.executors[0].stderr) == (words, words)
        assert (report.reason, report.executors[0].exit_code) == (Reason.EXIT, 3)
