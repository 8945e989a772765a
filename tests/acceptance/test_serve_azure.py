"""The whole server with an emulated Azure Batch account, as those who begin with docs/azure.md meet it: real containers, data and spool on Blob storage."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance import azure_site
from tests.acceptance.aws_site import IMAGE
from tests.acceptance.azure_site import SMALL, Site, sh
from tests.acceptance.server import BIN
from tests.integration.azure_lab import Lab
from tests.integration.conftest import unreachable

pytestmark = [pytest.mark.azure_batch, pytest.mark.docker, pytest.mark.azurite]

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def site(azure: Lab, docker_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with azure_site.serving("site", azure, tmp_path_factory.mktemp("site"), docker_client) as made:
        yield made


class TestFirstSteps:
    def test_a_command_and_its_output(self, site: Site) -> None:
        done = site.run("tes", "run", "--image", IMAGE, "--wait", "--", "echo", "hi")
        assert (done.returncode, done.stdout) == (0, "hi\n"), done.stderr

    def test_a_command_that_fails(self, site: Site) -> None:
        done = site.run("tes", "run", "--image", IMAGE, "--", "sh", "-c", "echo out; echo wrong >&2; exit 3")
        assert (done.returncode, done.stdout) == (3, "out\n")
        assert "wrong\n" in done.stderr
        assert "exit code 3" in done.stderr

    def test_from_blobs_to_blobs(self, site: Site) -> None:
        blobs = site.lab.blobs
        blobs.put("data/first/in", b"b\na\n")
        task = site.server.create(
            {**sh("sort in > out; mkdir all; cp out all/1; cp in all/2"), "workdir": "/work"},
            inputs=[{"path": "/work/in", "url": f"{blobs.url}/data/first/in"}],
            outputs=[
                {"path": "/work/out", "url": f"{blobs.url}/data/first/out"},
                {"path": "/work/all", "url": f"{blobs.url}/data/first/all", "type": "DIRECTORY"},
            ],
            resources=SMALL,
        )
        ended = site.server.until(task)
        assert ended["state"] == "COMPLETE", ended
        assert blobs.objects("data/first/") == {"in": b"b\na\n", "out": b"a\nb\n", "all/1": b"a\nb\n", "all/2": b"b\na\n"}
        assert sorted(output["url"].removeprefix(f"{blobs.url}/data/first/") for output in ended["logs"][0]["outputs"]) == ["all/1", "all/2", "out"]

    def test_logs_of_what_runs_and_its_cancel(self, site: Site) -> None:
        task = site.server.create(sh("trap '' TERM; echo up; while :; do sleep 0.2; done"), resources=SMALL)
        with subprocess.Popen(
            [BIN / "tes", "logs", "-f", task], env={**os.environ, "TES_URL": site.server.url}, stdout=subprocess.PIPE, text=True
        ) as following:
            assert following.stdout is not None
            assert following.stdout.readline() == "up\n"
            assert site.server.get(task)["state"] == "RUNNING"
            assert site.run("tes", "cancel", task).returncode == 0
            following.wait(60)
        ended = site.server.until(task)
        assert ended["state"] == "CANCELED"
        assert ended["logs"][0]["logs"][0]["stdout"] == "up\n", ended
        assert not [name for found in site.docker.containers() for name in found["Names"] if task in name], "CANCELED means gone"

    def test_where_a_task_ran(self, site: Site) -> None:
        tasks = {preemptible: site.server.create(sh("true"), resources={**SMALL, "preemptible": preemptible}) for preemptible in (False, True)}
        for preemptible, pool, capacity in ((False, "site-regular", "dedicated"), (True, "site-spot", "spot")):
            [log] = site.server.until(tasks[preemptible])["logs"]
            [made] = site.tasks(f"{tasks[preemptible]}-1")
            assert made.last is not None
            told = {key: value for key, value in log["metadata"].items() if key in ("job", "pool", "node", "capacity", "vm_size")}
            where = {"job": made.key[0], "pool": pool, "node": made.last.node.id, "capacity": capacity, "vm_size": "standard_e8s_v5"}
            assert told == where, log["metadata"]

    def test_service_info(self, site: Site) -> None:
        info = site.server.ask("/v1/service-info")[1]
        assert "as Azure Batch tasks" in info["description"]
        assert f"{site.lab.blobs.url}/data" in info["storage"]
        assert {"backend", "spot_attempts", "max_runtime", "vm_size"} <= set(info["tesResources_backend_parameters"])


def test_a_pool_without_nodes_gets_them_when_tasks_come(azure: Lab, docker_client: Any, tmp_path: pathlib.Path) -> None:
    """Its formula is evaluated at once, not in five minutes; and when nothing waits any more, its nodes go. The server signs in by its identity."""
    with azure_site.serving("burst", azure, tmp_path, docker_client, least=0, key_variable='""') as site:
        assert site.nodes("regular") == []
        tasks = [site.server.create(sh("sleep 1"), resources={**SMALL, "cpu_cores": 4}) for _ in range(3)]
        assert site.server.until_all(tasks, 60) == {"COMPLETE": 3}
        assert "enable_pool_auto_scale" in azure.emulator.calls.seen
        azure.emulator.wait_nodes("burst-regular", 0)


def test_plan_says_where_and_why(site: Site, tmp_path: pathlib.Path) -> None:
    (tmp_path / "task.json").write_text(json.dumps({"executors": [sh("true")], "resources": {"cpu_cores": 7}}))
    here = '[local]\nengine = "sandbox"\ncpus = 2\n'
    flags = azure_site.settings(site.lab, tmp_path / "both.toml", site.files, server="planner", more=here)
    shown = json.loads(site.run(BIN / "tes-server", "plan", "--data", tmp_path / "data", *flags, tmp_path / "task.json").stdout)
    assert (shown["backend"], shown["rule"]) == ("azure_batch", "default: the first backend that can take it, after local")
    (tmp_path / "task.json").write_text(json.dumps({"executors": [sh("true")], "resources": {"cpu_cores": 70}}))
    done = site.run(BIN / "tes-server", "plan", "--data", tmp_path / "data", *flags, tmp_path / "task.json")
    assert done.returncode != 0
    assert "no backend can take it: local: " in done.stderr
    assert "; azure_batch: " in done.stderr


class TestTheDoctor:
    def doctor(self, site: Site, tmp_path: pathlib.Path, flags: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
        words = ("doctor", "--backend", "azure_batch", "--data", tmp_path / "data")
        return site.run(BIN / "tes-server", *words, *(flags or site.flags), environment=environment)

    def test_all_is_well(self, site: Site, tmp_path: pathlib.Path) -> None:
        said = self.doctor(site, tmp_path)
        assert "ok    Azure Batch, " in said.stdout, said.stdout + said.stderr
        assert said.returncode == 0, said.stdout

    def test_what_is_not_allowed_is_named(self, site: Site, tmp_path: pathlib.Path) -> None:
        site.lab.emulator.bad_days.deny("limited", ["create_task_collection", "terminate_task"], "secret")
        flags = azure_site.settings(site.lab, tmp_path / "limited.toml", site.files, server="site", key_variable='""')
        said = self.doctor(site, tmp_path, flags, AZURE_CLIENT_ID="limited", AZURE_CLIENT_SECRET="secret")
        assert said.returncode == 1
        lines = [line for line in said.stdout.splitlines() if line.startswith("no    Azure Batch")]
        assert [line.partition(": ")[2].partition(" is not")[0] for line in lines] == ["adding tasks", "ending tasks"], said.stdout

    def test_a_key_that_is_wrong(self, site: Site, tmp_path: pathlib.Path) -> None:
        said = self.doctor(site, tmp_path, BATCH_KEY="d3Jvbmc=")
        assert said.returncode == 1
        assert "no    Azure Batch" in said.stdout
        assert "Server failed to authenticate the request" in said.stdout

    def test_a_pool_that_is_not_there(self, site: Site, tmp_path: pathlib.Path) -> None:
        flags = azure_site.settings(site.lab, tmp_path / "elsewhere.toml", site.files, server="elsewhere")
        said = self.doctor(site, tmp_path, flags)
        assert "there is no pool elsewhere-regular: `tes-server pools apply` makes it" in said.stdout
        assert said.returncode == 1


def test_here_or_there_by_a_rule(azure: Lab, docker_client: Any, tmp_path: pathlib.Path, sandbox_works: None) -> None:
    tables = '[local]\nengine = "sandbox"\n[sandbox]\nallow_host = true\n[[routes]]\nbackend = "azure_batch"\ntags = { where = "cloud" }\n'
    with azure_site.serving("both", azure, tmp_path, docker_client, more=tables) as both:
        there = both.server.create(sh("cat /proc/1/comm >/dev/null; echo there"), resources=SMALL, tags={"where": "cloud"})
        here = both.server.create({"image": "host", "command": ["/bin/echo", "here"]}, resources=SMALL)
        for task, output in ((here, "here\n"), (there, "there\n")):
            assert both.server.until(task)["logs"][0]["logs"][0]["stdout"] == output
        assert [task.id for task in both.tasks()] == [f"{there}-1"]


def test_alignment_with_data_in_a_store_equals_the_same_tools_by_hand(site: Site, tmp_path: pathlib.Path) -> None:
    data = site.run(EXAMPLES / "alignment" / "get-data", tmp_path)
    if data.returncode != 0:
        unreachable("Debian's package bowtie2-examples", data.stderr)
    store = site.lab.blobs
    for name in ("lambda.fa", "reads_1.fq.gz", "reads_2.fq.gz"):
        store.put(f"data/lambda/{name}", (tmp_path / name).read_bytes())
    done = site.run(EXAMPLES / "alignment" / "run", f"{store.url}/data/lambda", seconds=180, environment={"TES_IMAGE": "tes-test/genomics"})
    assert done.returncode == 0, done.stderr
    results = store.objects("data/lambda/")
    (tmp_path / "calls.vcf").write_bytes(results["calls.vcf"])
    assert results["aligned.bam"].startswith(b"\x1f\x8b")
    inside = ("docker", "run", "--rm", "-v", f"{tmp_path}:{tmp_path}", "tes-test/genomics")
    same = site.run(EXAMPLES / "alignment" / "by-hand", tmp_path, *inside, seconds=180)
    assert same.stdout.startswith("the same "), same.stdout + same.stderr
    assert int(same.stdout.split()[2]) > 50


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("SPOOL__URL", "", "spool.url: must be named: plans go to the hosts through it, and reports come back"),
        ("AZURE_BATCH__IMAGE", "", "azure_batch.image: must name this server's own image"),
        ("AZURE_BATCH__KEY_VARIABLE", "NONE_SUCH", "azure_batch.key_variable: the variable NONE_SUCH is not set"),
    ],
)
def test_settings_that_do_not_suffice(site: Site, tmp_path: pathlib.Path, setting: str, value: str, words: str) -> None:
    done = site.run(BIN / "tes-server", "serve", "--data", tmp_path / "data", *site.flags, environment={f"TES_SERVER__{setting}": value})
    assert (done.returncode, done.stderr) == (2, f"tes-server: {words}\n")


def test_the_sdk_is_not_installed(site: Site, tmp_path: pathlib.Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['azure.batch'] = None")
    done = site.run(BIN / "tes-server", "serve", "--data", tmp_path / "data", *site.flags, environment={"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stderr) == (2, "tes-server: azure_batch.url: Azure Batch needs more: pip install 'tes-server[azure]'\n")
