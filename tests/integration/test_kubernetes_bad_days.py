"""What goes wrong on a real cluster, seen through the Kubernetes backend: each fault is made with the cluster's own means."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tes_server.backends.kubernetes.seen import Bounds
from tes_server.backends.kubernetes.site import Claim, Share
from tes_server.model.run import Handle, Later, Observation, Phase, Reason, Report
from tests import cluster as clusters
from tests.cluster import Cluster
from tests.contract.backend_contract import Driven
from tests.integration import cluster_lab
from tests.integration.cluster_lab import SMALL, Lab, says, start
from tests.integration.doors import doors

pytestmark = pytest.mark.cluster

QUICK = Bounds(image=4.0, config=4.0)
UP = "echo up; exec sleep 1000"
DEAF = "trap '' TERM; echo up; while :; do sleep 0.2; done"
INPUT = [{"path": "/work/in", "content": "x"}]
"""With it a task has stage steps; without, and with one executor, its pod is one container."""


@pytest.fixture(scope="module")
def lab(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with cluster_lab.lab(cluster, tmp_path_factory.mktemp("claim")) as made:
        yield made


@pytest.fixture
def own(cluster: Cluster, tmp_path: pathlib.Path) -> Iterator[Lab]:
    """In a namespace that a test may spoil."""
    with cluster_lab.lab(cluster, tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def bench(lab: Lab) -> Iterator[Driven]:
    """A backend for all that need nothing special."""
    with lab.driven(bounds=QUICK) as driven:
        yield driven


@pytest.fixture(scope="module", autouse=True)
def hog(bench: Driven) -> Handle:
    """A task that uses more disk than it asked for. Kubelets look once a minute: it is begun with the first test."""
    script = "dd if=/dev/zero of=/work/x bs=1M count=50; exec sleep 1000"
    return start(bench, bench.executor(script, workdir="/work"), resources={**SMALL, "disk_gb": 0.01}, inputs=INPUT)


def ended(driven: Driven, handle: Handle) -> Observation | Report:
    """The end of an attempt: its report, or what is known without one."""
    seen = driven.until(handle, lambda seen: seen.phase is Phase.ENDED)
    return seen.report or seen


def up(driven: Driven, handle: Handle) -> None:
    """Until the first executor has said so."""

    def said(_: Observation) -> bool:
        tails = driven.backend.tail([handle]).get(handle)
        return tails is not None and bool(tails.executors) and (tails.executors[0].stdout or "").startswith("up\n")

    driven.until(handle, said)


class TestImages:
    @pytest.mark.parametrize(("status", "code"), [(404, "IMAGE_NOT_FOUND"), (403, "IMAGE_DENIED"), (500, "IMAGE_ERROR")])
    def test_one_that_cannot_be_had(self, bench: Driven, status: int, code: str) -> None:
        with doors("127.0.0.1", status) as registry:
            image = f"127.0.0.1:{registry.server_port}/none:1"
            handle = start(bench, {"image": image, "command": ["true"]})
            assert bench.until(handle, says(code, image)).phase is Phase.STAGING
            seen = ended(bench, handle)
        assert (seen.reason, seen.code) == (Reason.IMAGE, code)
        assert image in seen.message
        assert seen.transient is (code == "IMAGE_ERROR")

    def test_of_the_second_executor(self, bench: Driven) -> None:
        """The first one runs, and its end is told."""
        with doors("127.0.0.1") as registry:
            handle = start(bench, bench.executor("echo ran"), {"image": f"127.0.0.1:{registry.server_port}/none:1", "command": ["true"]})
            assert bench.until(handle, says("IMAGE_NOT_FOUND")).phase is Phase.RUNNING
            seen = ended(bench, handle)
        assert isinstance(seen, Report)
        assert (seen.reason, [(log.stdout, log.exit_code) for log in seen.executors]) == (Reason.IMAGE, [("ran\n", 0)])

    def test_a_name_that_is_none(self, bench: Driven) -> None:
        seen = ended(bench, start(bench, {"image": "UPPER/case:x", "command": ["true"]}))
        assert (seen.reason, seen.transient) == (Reason.IMAGE, False)
        assert "UPPER/case:x" in seen.message

    def test_one_that_must_be_there_and_is_not(self, lab: Lab) -> None:
        with lab.driven(bounds=QUICK, pull_policy="Never") as driven:
            seen = ended(driven, start(driven, {"image": "tes-test/nowhere:1", "command": ["true"]}))
        assert (seen.reason, seen.transient) == (Reason.IMAGE, False)
        assert "tes-test/nowhere:1" in seen.message

    @pytest.mark.parametrize("inputs", [[], INPUT])
    def test_one_without_a_shell(self, bench: Driven, inputs: list[Any]) -> None:
        words = ["a b", "", "$HOME", "$(X)", "$$"]
        handle = start(bench, {"image": clusters.STATIC, "command": ["/echo", *words]}, inputs=inputs)
        report = bench.end(handle)
        assert report.reason is None, report
        assert report.executors[0].stdout == "".join(f"{word}\n" for word in words)


class TestMemory:
    @pytest.mark.parametrize("inputs", [[], INPUT])
    def test_the_command_is_killed(self, bench: Driven, inputs: list[Any]) -> None:
        report = bench.end(start(bench, bench.executor("echo before; exec tail /dev/zero"), inputs=inputs))
        assert (report.reason, report.code) == (Reason.OOM, "OOM")
        assert [(log.exit_code, log.stdout) for log in report.executors] == [(137, "before\n")]

    def test_a_command_that_lives_on_is_its_own_judge(self, bench: Driven) -> None:
        report = bench.end(start(bench, bench.executor("tail /dev/zero; echo after")))
        assert (report.reason, report.executors[0].stdout, report.executors[0].exit_code) == (None, "after\n", 0)

    def test_stage_in_is_killed(self, lab: Lab) -> None:
        with lab.driven(stage=Share(cpus=0.02, ram_bytes=8 << 20, most_ram_bytes=12 << 20)) as driven:
            seen = ended(driven, start(driven, driven.executor("true"), inputs=INPUT))
        assert (seen.reason, seen.code, seen.transient) == (Reason.BACKEND, "ENGINE_ERROR", True)
        assert "stage-in was killed" in seen.message


@pytest.mark.parametrize("inputs", [[], INPUT])
class TestTakenAway:
    """Each is run again, and its words are known."""

    def test_evicted(self, lab: Lab, bench: Driven, inputs: list[Any]) -> None:
        handle = start(bench, bench.executor(UP), inputs=inputs)
        up(bench, handle)
        lab.evict(handle)
        report = bench.end(handle)
        assert (report.reason, report.transient, report.code) == (Reason.PREEMPTED, True, "PREEMPTED")
        assert "EvictionByEvictionAPI" in report.message
        assert [(log.exit_code, log.stdout) for log in report.executors] == [(143, "up\n")]

    def test_pod_deleted(self, lab: Lab, bench: Driven, inputs: list[Any]) -> None:
        handle = start(bench, bench.executor(UP), inputs=inputs)
        up(bench, handle)
        lab.delete_pod(handle)
        report = bench.end(handle)
        assert (report.reason, report.transient, report.executors[0].exit_code) == (Reason.LOST, True, 143)

    def test_job_deleted(self, lab: Lab, bench: Driven, inputs: list[Any]) -> None:
        handle = start(bench, bench.executor(UP), inputs=inputs)
        up(bench, handle)
        lab.cluster.delete(f"{lab.jobs}/{handle.name}", propagationPolicy="Background")
        seen = bench.until(handle, lambda seen: seen.phase in (Phase.ENDED, Phase.GONE))
        if seen.phase is Phase.ENDED:
            assert seen.report is not None
            assert (seen.report.reason, seen.report.transient) == (Reason.LOST, True)

    def test_job_deleted_without_its_pod(self, lab: Lab, bench: Driven, inputs: list[Any]) -> None:
        handle = start(bench, bench.executor(UP), inputs=inputs)
        up(bench, handle)
        lab.cluster.delete(f"{lab.jobs}/{handle.name}", propagationPolicy="Orphan")
        lab.cluster.until(lambda: not lab.cluster.names(lab.jobs, fieldSelector=f"metadata.name={handle.name}"), "the Job is gone")
        assert bench.backend.observe([handle])[handle].phase is Phase.RUNNING
        bench.backend.cancel([handle])
        lab.cluster.until(lambda: lab.pod(handle) is None, "the pod is gone")

    def test_an_executors_container_is_killed(self, lab: Lab, bench: Driven, inputs: list[Any]) -> None:
        handle = start(bench, bench.executor(UP), inputs=inputs)
        up(bench, handle)
        _kill(lab, handle)
        seen = ended(bench, handle)
        assert (seen.reason, seen.code) == (Reason.LOST, "LOST")


class TestNamespace:
    def test_gone(self, own: Lab) -> None:
        with own.driven() as driven:
            handle = start(driven, driven.executor(UP))
            up(driven, handle)
            path = f"/api/v1/namespaces/{own.namespace}"
            own.cluster.delete(path)
            driven.until(handle, lambda seen: seen.phase in (Phase.ENDED, Phase.GONE))
            refused = cluster_lab.submitted(driven, driven.executor("true"))
            assert isinstance(refused, Later)
            assert refused.code == "WAITING_BACKEND"
            own.cluster.until(lambda: own.cluster.calls.get(path).status == 404, "the namespace is gone")
            driven.until(handle, lambda seen: seen.phase is Phase.GONE)
            refused = cluster_lab.submitted(driven, driven.executor("true"))
            assert isinstance(refused, Later)
            assert own.namespace in refused.message


class TestWaits:
    def test_no_node_is_large_enough(self, lab: Lab) -> None:
        with lab.driven(bounds=Bounds(capacity=4.0)) as driven:
            handle = start(driven, driven.executor("true"), resources={"cpu_cores": 1000, "ram_gb": 0.05})
            driven.until(handle, says("WAITING_CAPACITY", "Insufficient cpu"))
            seen = ended(driven, handle)
        assert (seen.reason, seen.code, seen.transient) == (Reason.CAPACITY, "WAITING_CAPACITY", False)
        assert "Insufficient cpu" in seen.message

    def test_a_secret_of_the_site_is_missing(self, lab: Lab) -> None:
        with lab.driven(bounds=QUICK, stage_secrets=("nothing",)) as driven:
            handle = start(driven, driven.executor("true"), inputs=INPUT)
            driven.until(handle, says("WAITING_BACKEND", '"nothing" not found'))
            seen = ended(driven, handle)
        assert (seen.reason, seen.code) == (Reason.REJECTED, "REJECTED")
        assert '"nothing" not found' in seen.message

    def test_a_claim_of_the_site_is_missing(self, lab: Lab) -> None:
        with lab.driven(bounds=QUICK, claims=(Claim(name="nothing", path="/data"),)) as driven:
            handle = start(driven, driven.executor("true"), inputs=INPUT)
            driven.until(handle, says("WAITING_CAPACITY", '"nothing" not found'))

    def test_a_service_account_of_the_site_is_missing(self, lab: Lab) -> None:
        with lab.driven(bounds=QUICK, service_account="nobody") as driven:
            handle = start(driven, driven.executor("true"))
            driven.until(handle, says("WAITING_BACKEND", '"nobody" not found'))
            seen = ended(driven, handle)
        assert (seen.reason, seen.code) == (Reason.REJECTED, "REJECTED")

    def test_a_quota_of_pods(self, own: Lab) -> None:
        with own.driven() as driven:
            own.cluster.make(f"{own.core}/resourcequotas", {"metadata": {"name": "q"}, "spec": {"hard": {"pods": "0"}}})
            handle = start(driven, driven.executor("echo ran"))
            driven.until(handle, says("WAITING_CAPACITY", "exceeded quota", "limited: pods=0"))
            own.cluster.patch(f"{own.core}/resourcequotas/q", {"spec": {"hard": {"pods": "1"}}})
            assert driven.end(handle).executors[0].stdout == "ran\n"

    def test_a_quota_of_jobs(self, own: Lab) -> None:
        with own.driven() as driven:
            own.cluster.make(f"{own.core}/resourcequotas", {"metadata": {"name": "q"}, "spec": {"hard": {"count/jobs.batch": "0"}}})
            own.cluster.until(lambda: own.cluster.get(f"{own.core}/resourcequotas/q").get("status", {}).get("used"), "the quota is counted")
            answer = cluster_lab.submitted(driven, driven.executor("true"))
            assert isinstance(answer, Later)
            assert answer.code == "WAITING_CAPACITY"
            assert "count/jobs.batch=0" in answer.message


class TestCanceled:
    """In each phase; when it is told, nothing runs any more."""

    def test_while_no_node_has_room(self, bench: Driven) -> None:
        handle = start(bench, bench.executor("true"), resources={"cpu_cores": 1000, "ram_gb": 0.05})
        bench.until(handle, says("WAITING_CAPACITY"))
        bench.backend.cancel([handle])
        assert ended(bench, handle).reason is Reason.CANCELED

    def test_while_an_image_is_pulled(self, lab: Lab) -> None:
        with lab.driven() as driven, doors("127.0.0.1") as registry:
            handle = start(driven, {"image": f"127.0.0.1:{registry.server_port}/none:1", "command": ["true"]}, inputs=INPUT)
            driven.until(handle, says("IMAGE_NOT_FOUND"))
            driven.backend.cancel([handle])
            seen = ended(driven, handle)
        assert isinstance(seen, Report), "stage-out hears of it, though it has only just been started"
        assert (seen.reason, seen.executors) == (Reason.CANCELED, ())

    def test_while_inputs_come(self, cluster: Cluster, bench: Driven) -> None:
        with doors(cluster.address) as source:
            handle = start(bench, bench.executor("true"), inputs=[{"path": "/work/in", "url": f"http://{cluster.address}:{source.server_port}/slow"}])
            assert source.knocked.wait(30)
            bench.until(handle, lambda seen: seen.phase is Phase.STAGING)
            bench.backend.cancel([handle])
            seen = ended(bench, handle)
        assert (seen.reason, seen.code) == (Reason.CANCELED, "CANCELED")

    @pytest.mark.parametrize("inputs", [[], INPUT])
    def test_while_a_command_runs_that_does_not_listen(self, bench: Driven, inputs: list[Any]) -> None:
        handle = start(bench, bench.executor(DEAF), inputs=inputs)
        up(bench, handle)
        bench.backend.cancel([handle])
        report = bench.end(handle)
        assert (report.reason, [log.exit_code for log in report.executors]) == (Reason.CANCELED, [137])

    def test_while_outputs_go(self, cluster: Cluster, bench: Driven) -> None:
        with doors(cluster.address) as sink:
            url = f"http://{cluster.address}:{sink.server_port}/slow"
            handle = start(bench, bench.executor("echo out > /work/out", workdir="/work"), outputs=[{"path": "/work/out", "url": url}])
            assert sink.knocked.wait(30)
            bench.until(handle, lambda seen: seen.phase is Phase.RUNNING)
            bench.backend.cancel([handle])
            report = bench.end(handle)
        assert (report.reason, [log.exit_code for log in report.executors]) == (Reason.CANCELED, [0])


class TestMaxRuntime:
    def test_of_a_command_that_does_not_listen(self, bench: Driven) -> None:
        resources = {**SMALL, "backend_parameters": {"max_runtime": "4s"}}
        report = bench.end(start(bench, bench.executor(DEAF), resources=resources))
        assert (report.reason, [log.exit_code for log in report.executors]) == (Reason.TIMEOUT, [137])

    def test_and_then_outputs_that_hang(self, cluster: Cluster, lab: Lab) -> None:
        """The pod's own deadline ends it."""
        resources = {**SMALL, "backend_parameters": {"max_runtime": "3s"}}
        with lab.driven(grace=1.0, save_seconds=3.0) as driven, doors(cluster.address) as sink:
            url = f"http://{cluster.address}:{sink.server_port}/slow"
            handle = start(driven, driven.executor("echo out > /work/out", workdir="/work"), outputs=[{"path": "/work/out", "url": url}], resources=resources)
            report = driven.end(handle)
        assert (report.reason, report.code, report.transient) == (Reason.TIMEOUT, "TIMEOUT", False)
        assert [log.exit_code for log in report.executors] == [0]


class TestDisk:
    def test_more_than_was_asked_for(self, bench: Driven, hog: Handle) -> None:
        seen = ended(bench, hog)
        assert (seen.reason, seen.code, seen.transient) == (Reason.BACKEND, "DISK_FULL", False)
        assert "exceeds the limit" in seen.message


# -- means


def _kill(lab: Lab, handle: Handle) -> None:
    """SIGKILL to the first process of the first executor's container, from outside of it: this machine is the node."""
    pod = lab.pod(handle)
    assert pod is not None
    identity = next(status["containerID"] for status in pod["status"]["containerStatuses"] if status["name"] == "executor-0").rpartition("/")[2]
    first = next(
        place.parent
        for place in sorted(pathlib.Path("/proc").glob("[0-9]*/cgroup"))
        if identity in _text(place) and "tes-step" in _text(place.parent / "cmdline")
    )
    os.kill(int(first.name), signal.SIGKILL)


def _text(path: pathlib.Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text()
    return ""
