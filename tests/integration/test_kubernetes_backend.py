"""The Kubernetes backend held to BackendContract: rendered Jobs whose containers really run (`tests.fake_kubelet`), behind an API server in memory.

What only a real cluster shows (its scheduler, quotas, evictions, OOM kills) is not here.
"""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Callable, Iterator

import pytest
from pytest_httpserver import HTTPServer

from tes_server.backends.kubernetes import program
from tes_server.backends.kubernetes.calls import Calls
from tes_server.backends.kubernetes.driver import KubernetesBackend
from tes_server.backends.kubernetes.site import Claim, Program, Site
from tes_server.filer.manifest import Access
from tes_server.model.run import Reason
from tes_server.plan.policy import Capabilities
from tes_server.runner.pod import PodSite
from tests.clock import utc
from tests.contract.backend_contract import BackendContract, Driven
from tests.fake_cluster import FakeCluster
from tests.fake_kubelet import FakeKubelet, leftovers
from tests.guards import LOOPBACK


@pytest.mark.sandbox
@pytest.mark.usefixtures("sandbox_works")
class TestKubernetes(BackendContract):
    @pytest.fixture
    def image(self) -> str:
        return "this-machine"

    @pytest.fixture
    def cluster(self, site: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, alone: Program | None) -> Iterator[FakeCluster]:
        monkeypatch.setattr(logging.getLogger("werkzeug"), "disabled", True)
        with HTTPServer(threaded=True) as server:
            made = FakeCluster(server)
            if alone is not None:  # tes-step is there: it is no write of a task
                made.set("configmaps", program.config_map(alone, "tes"))
            kubelet = FakeKubelet(made, tmp_path / "pods", {"site": site})
            yield made
            still = leftovers(made)
            kubelet.close()
            made.close()
            assert still == []

    @pytest.fixture
    def alone(self) -> Program | None:
        """Every task in a pod with stage steps."""
        return None

    @pytest.fixture
    def make(self, cluster: FakeCluster, site: pathlib.Path, alone: Program | None) -> Callable[[], KubernetesBackend]:
        from kubernetes import client

        def made() -> KubernetesBackend:
            shared = PodSite(access=Access(roots=(str(site),), guard=LOOPBACK), live_roots=(str(site / "live"),))
            backend = KubernetesBackend(
                Calls(client.Configuration(host=cluster.url.rstrip("/"))),
                Site(
                    namespace="tes",
                    server="s",
                    image="server:1",
                    shared=shared,
                    claims=(Claim(name="site", path=str(site)),),
                    grace=2.0,
                    pod_grace=20.0,
                    program=alone,
                ),
                Capabilities(submit_window=60.0),
                utc,
            )
            backend.resume()
            cluster.until(lambda: backend.fresh)
            return backend

        return made

    def test_a_task_is_one_write(self, driven: Driven, cluster: FakeCluster) -> None:
        driven.run(driven.executor("true"))
        assert cluster.writes == 1

    def test_arguments_with_dollars_in_paths(self, driven: Driven, site: pathlib.Path) -> None:
        report = driven.run(
            driven.executor("pwd; echo out", workdir="/work/$(HOME)/$$", stdout="/work/$$(PATH)"), outputs=[{"path": "/work/$$(PATH)", "url": f"{site}/out"}]
        )
        assert report.reason is None, report
        assert (site / "out").read_text() == "/work/$(HOME)/$$\nout\n"

    def test_no_executor_sees_what_is_not_its_own(self, driven: Driven) -> None:
        script = "find /.tes /tes /var/run/secrets; for place in bin before; do touch /.tes/$place/x && echo $place; done; true"
        report = driven.run(driven.executor("true"), driven.executor(script))
        assert set((report.executors[1].stdout or "").split()) == {
            "/.tes",
            "/.tes/before",
            *(f"/.tes/before/{name}" for name in ("argv", "env", "exit", "lock", "start", "stderr", "stdout")),
            "/.tes/bin",
            "/.tes/bin/tes-step",
            "/.tes/step",
            *(f"/.tes/step/{name}" for name in ("argv", "env", "exit.tmp", "lock", "start", "stderr", "stdout")),
        }

    def test_ending_the_pod_by_hand_is_no_fault_of_the_command(self, driven: Driven, cluster: FakeCluster, site: pathlib.Path) -> None:
        script = "echo part > /work/out; echo up; exec sleep 1000"
        handle = driven.start(driven.executor(script, workdir="/work"), outputs=[{"path": "/work/out", "url": f"{site}/out"}])
        driven.until(handle, lambda _: (tail := driven.backend.tail([handle]).get(handle)) is not None and tail.executors[0].stdout == "up\n")
        cluster.set("jobs", {**(job := cluster.objects["jobs"][handle.name]), "spec": {**job["spec"], "activeDeadlineSeconds": 1}})
        cluster.patched(cluster.objects["jobs"][handle.name])
        report = driven.end(handle)
        assert report.reason is Reason.LOST
        assert [log.exit_code for log in report.executors] == [143]
        assert not (site / "out").exists(), "another attempt follows"


class TestKubernetesAlone(TestKubernetes):
    """The same where tasks that need one container have one."""

    @pytest.fixture
    def alone(self) -> Program | None:
        return program.of_this_server()

    def test_which_tasks_have_one_container(self, driven: Driven, cluster: FakeCluster) -> None:
        handles = [driven.start(driven.executor("true")), driven.start(driven.executor("true"), driven.executor("true"))]
        for handle in handles:
            driven.end(handle)
        assert [len(cluster.objects["jobs"][handle.name]["spec"]["template"]["spec"]["containers"]) for handle in handles] == [1, 3]

    def test_arguments_environment_and_workdir_are_given_as_they_are(self, driven: Driven) -> None:
        environment = {"A": "$(PATH) $$ =", "odd.name": "", "--": "--"}
        words = ["--env", "--", "$(HOME) $$", "", "a\nb"]
        script = 'pwd; printf "<%s>" "$@"; tr "\\0" "|" < /proc/self/environ'
        command = ["/bin/sh", "-c", script, "sh", *words]
        report = driven.run({"image": driven.image, "command": command, "env": environment, "workdir": "/work/$(HOME)"})
        assert report.reason is None, report
        out = report.executors[0].stdout or ""
        assert out.startswith("/work/$(HOME)\n" + "".join(f"<{word}>" for word in words))
        assert all(f"{name}={value}|" in out for name, value in environment.items() if name.isidentifier())

    def test_both_streams_of_a_long_output_come_from_the_log(self, driven: Driven, cluster: FakeCluster) -> None:
        report = driven.run(driven.executor("seq 3000; seq 3000 >&2; exit 3"))
        words = "".join(f"{number}\n" for number in range(1, 3001))
        assert (report.executors[0].stdout, report.executors[0].stderr) == (words, words)
        assert (report.reason, report.executors[0].exit_code) == (Reason.EXIT, 3)
        assert cluster.count("LOG", "pods") == 1

    def test_a_log_that_is_gone_leaves_what_the_message_holds(self, driven: Driven, cluster: FakeCluster) -> None:
        cluster.read_log = lambda _pod, _container: None
        report = driven.run(driven.executor("seq 3000; exit 3"))
        text = report.executors[0].stdout or ""
        assert text.startswith("1\n2\n")
        assert text.endswith("2999\n3000\n")
        assert "bytes left out" in text
        assert (report.reason, report.executors[0].exit_code) == (Reason.EXIT, 3)
