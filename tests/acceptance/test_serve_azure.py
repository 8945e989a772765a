"""The whole server with an emulated Azure Batch account, as those who begin with docs/azure.md meet it: real containers, data and spool on Blob storage."""

from __future__ import annotations

import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance import azure_site, batch_contract
from tests.acceptance.azure_site import Site
from tests.acceptance.batch_site import SMALL, sh
from tests.acceptance.server import BIN
from tests.integration.azure_lab import Lab

pytestmark = [pytest.mark.azure_batch, pytest.mark.docker, pytest.mark.azurite]


@pytest.fixture(scope="module")
def site(azure: Lab, docker_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with azure_site.serving("site", azure, tmp_path_factory.mktemp("site"), docker_client) as made:
        yield made


class TestFirstSteps(batch_contract.FirstSteps):
    def test_where_a_task_ran(self, site: Site) -> None:
        tasks = {preemptible: site.server.create(sh("true"), resources={**SMALL, "preemptible": preemptible}) for preemptible in (False, True)}
        for preemptible, pool, capacity in ((False, "site-regular", "dedicated"), (True, "site-spot", "spot")):
            [log] = site.server.until(tasks[preemptible])["logs"]
            [made] = site.attempts(f"{tasks[preemptible]}-1")
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
        pool = azure.emulator.account.pool("burst-regular")
        usual, pool.interval = pool.interval, 1e9  # five minutes are three seconds here: on a busy machine they pass before the server looks
        tasks = [site.server.create(sh("sleep 1"), resources={**SMALL, "cpu_cores": 4}) for _ in range(3)]
        assert site.server.until_all(tasks, 60) == {"COMPLETE": 3}
        assert "enable_pool_auto_scale" in azure.emulator.calls.seen
        pool.interval = usual
        azure.emulator.wait_nodes("burst-regular", 0)


class TestBesideThisMachine(batch_contract.BesideThisMachine):
    pass


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
        flags = site.flags_of(tmp_path / "limited.toml", "site", key_variable='""')
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
        flags = site.flags_of(tmp_path / "elsewhere.toml", "elsewhere")
        said = self.doctor(site, tmp_path, flags)
        assert "there is no pool elsewhere-regular: `tes-server pools apply` makes it" in said.stdout
        assert said.returncode == 1


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
