"""The whole server with two backends: tasks in the sandbox of this machine, and as pods of a cluster in memory whose containers really run."""

from __future__ import annotations

import json
import logging
import pathlib
import subprocess
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from pytest_httpserver import HTTPServer

from tests.acceptance.server import BIN, Server, served
from tests.fake_cluster import FakeCluster
from tests.fake_kubelet import FakeKubelet

pytestmark = [pytest.mark.sandbox, pytest.mark.usefixtures("sandbox_works")]

HELLO = {"image": "busybox", "command": ["/bin/sh", "-c", "echo hello; cat /work/in"]}
SMALL = {"cpu_cores": 0.2, "ram_gb": 0.1}
CLOUD = {**SMALL, "backend_parameters": {"backend": "kubernetes"}}


class Site(NamedTuple):
    cluster: FakeCluster
    config: pathlib.Path
    data: pathlib.Path
    files: pathlib.Path

    @property
    def flags(self) -> tuple[str, ...]:
        return ("--config", str(self.config), "--engine", "sandbox", "--allow-host")


@pytest.fixture
def site(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(logging.getLogger("werkzeug"), "disabled", True)
    files = tmp_path / "files"
    files.mkdir()
    with HTTPServer(threaded=True) as server:
        cluster = FakeCluster(server)
        kubelet = FakeKubelet(cluster, tmp_path / "pods", {"files": files})
        user: dict[str, Any] = {"apiVersion": "v1", "kind": "Config", "current-context": "c"}
        user["clusters"] = [{"name": "c", "cluster": {"server": cluster.url.rstrip("/")}}]
        user["users"] = [{"name": "u", "user": {"token": "t"}}]
        user["contexts"] = [{"name": "c", "context": {"cluster": "c", "user": "u"}}]
        (tmp_path / "kubeconfig").write_text(json.dumps(user))
        config = tmp_path / "config.toml"
        config.write_text(
            f"""
            [[routes]]
            backend = "kubernetes"
            tags = {{ where = "cloud" }}
            [kubernetes]
            namespace = "tes"
            kubeconfig = "{tmp_path / "kubeconfig"}"
            image = "server:1"
            [[kubernetes.claims]]
            name = "files"
            path = "{files}"
            """
        )
        yield Site(cluster, config, tmp_path / "data", files)
        kubelet.close()
        cluster.close()


def test_tasks_run_where_they_are_routed_to(site: Site) -> None:
    with served(site.data, *site.flags) as server:
        (site.files / "in").write_text("from the claim\n")
        files = {
            "inputs": [{"url": f"{site.files}/in", "path": "/work/in"}],
            "outputs": [{"path": "/work/in", "url": f"{site.files}/out"}],
        }
        cloud = server.create(HELLO, resources=SMALL, tags={"where": "cloud"}, **files)
        here = server.create({"image": "host", "command": ["/bin/echo", "here"]}, resources=SMALL)
        task = server.until(cloud)
        assert task["state"] == "COMPLETE", task
        assert task["logs"][0]["logs"][0]["stdout"] == "hello\nfrom the claim\n"
        assert task["logs"][0]["outputs"][0]["url"] == f"{site.files}/out"
        assert task["logs"][0]["metadata"]["node"] == "here"
        assert (site.files / "out").read_text() == "from the claim\n"
        assert server.until(here)["logs"][0]["logs"][0]["stdout"] == "here\n"
        failed = server.until(server.create({"image": "busybox", "command": ["/bin/sh", "-c", "exit 7"]}, resources=CLOUD))
        assert (failed["state"], failed["logs"][0]["logs"][0]["exit_code"]) == ("EXECUTOR_ERROR", 7)
        assert (site.cluster.count("POST", "configmaps"), site.cluster.writes) == (1, 3), "one create a task, and once tes-step"
        status, answer = server.ask("/v1/tasks", {"executors": [HELLO], "resources": CLOUD, "inputs": [{"content": "x" * 8_000_000, "path": "/work/in"}]})
        assert status == 413, answer
        assert "/inputs" in json.dumps(answer)
        long = server.create(HELLO, resources=CLOUD, inputs=[{"content": "x" * 4_000_000 + "\n", "path": "/work/in"}])
        assert server.until(long)["state"] == "COMPLETE"
        assert site.cluster.count("POST", "secrets") == 5


def test_a_cluster_that_is_away_leaves_other_tasks_untouched(site: Site) -> None:
    with served(site.data, *site.flags) as server:
        site.cluster.fail("POST", "jobs", 429, "too many requests, please try again later", times=1000)
        for kind in ("jobs", "pods"):
            site.cluster.fail("GET", kind, 503, "the server is currently unable to handle the request", times=1000)
        site.cluster.cut()
        waits = server.create(HELLO, resources=CLOUD, inputs=[{"content": "x\n", "path": "/work/in"}])
        here = [server.create({"image": "host", "command": ["/bin/true"]}, resources=SMALL) for _ in range(3)]
        assert [server.until(task)["state"] for task in here] == ["COMPLETE"] * 3
        assert server.get(waits)["state"] == "QUEUED"
        assert any("too many requests" in line for line in server.get(waits)["logs"][0]["system_logs"])
        site.cluster.mend()
        assert server.until(waits)["state"] == "COMPLETE"
        assert len(site.cluster.objects["jobs"]) == 1


def test_killed_and_started_again_it_finds_its_pods(site: Site) -> None:
    server = Server(site.data, *site.flags)
    task = server.create({"image": "busybox", "command": ["/bin/sh", "-c", "echo up; sleep 3; echo done"]}, resources=CLOUD)
    server.until(task, "RUNNING")
    server.stop(9)
    time.sleep(0.2)  # its children notice
    server.start()
    try:
        assert server.until(task)["logs"][0]["logs"][0]["stdout"] == "up\ndone\n"
    finally:
        server.stop()
    assert len(site.cluster.objects["jobs"]) == 1


def test_cancel_ends_the_pod(site: Site) -> None:
    with served(site.data, *site.flags) as server:
        task = server.create({"image": "busybox", "command": ["/bin/sleep", "1000"]}, resources=CLOUD)
        server.until(task, "RUNNING")
        assert server.ask(f"/v1/tasks/{task}:cancel", b"")[0] == 200
        deadline = time.monotonic() + 60
        while site.cluster.objects["pods"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert server.until(task, "CANCELED")["state"] == "CANCELED"


def test_plan_and_doctor_tell(site: Site, tmp_path: pathlib.Path) -> None:
    (tmp_path / "task.json").write_text(json.dumps({"executors": [HELLO], "tags": {"where": "cloud"}}))
    run = [str(BIN / "tes-server")]
    options = ["--config", str(site.config), "--data", str(site.data)]
    planned = subprocess.run([*run, "plan", *options, str(tmp_path / "task.json")], capture_output=True, text=True, check=True, timeout=60)
    shown = json.loads(planned.stdout)
    assert (shown["backend"], shown["rule"]) == ("kubernetes", "routes[0]: tags={'where': 'cloud'}")
    well = subprocess.run([*run, "doctor", *options], capture_output=True, text=True, check=False, timeout=60)
    assert "ok    cluster, namespace tes: takes tasks" in well.stdout
    assert site.cluster.objects["jobs"] == {}
    site.cluster.denied |= {("watch", "events"), ("create", "secrets"), ("delete", "secrets"), ("get", "pods/log")}
    badly = subprocess.run([*run, "doctor", *options], capture_output=True, text=True, check=False, timeout=60)
    assert "no    cluster, namespace tes: this server may not get pods/log; watch events; create, delete secrets: " in badly.stdout
    site.cluster.denied.clear()
    site.cluster.fail("POST", "jobs", 404, 'namespaces "tes" not found')
    badly = subprocess.run([*run, "doctor", *options], capture_output=True, text=True, check=False, timeout=60)
    assert 'no    cluster, namespace tes: no task\'s Job can be made there: namespaces "tes" not found' in badly.stdout
