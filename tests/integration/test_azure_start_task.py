"""The start task on nodes of the emulated Azure Batch: this machine, whose Docker, firewall and addresses of a host of Azure are real."""

from __future__ import annotations

import pathlib
import stat
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from azure.batch import BatchClient, models

from tes_server.backends.azure_batch import start_task
from tests import server_image
from tests.emulators.azure_batch.emulator import Emulator
from tests.emulators.azure_batch.world import CLIENT, World
from tests.integration import azure_machine
from tests.integration.node_lab import Node, shell, until

pytestmark = [pytest.mark.azure_batch, pytest.mark.docker]

VALUE = "correct-horse-battery"  # of nothing


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """It has the addresses of a host of Azure for itself: whoever else needs them waits, and is spared these rules."""
    azure_machine.needs_a_firewall()
    with Emulator(World(boot=0.0, secrets={"lab/db": VALUE}), metadata="network") as made:
        yield made
        assert made.endpoint.defects == []


@pytest.fixture(autouse=True)
def machine(emulator: Emulator, docker_client: Any) -> Iterator[None]:
    with azure_machine.restored(docker_client):
        yield


@pytest.fixture
def node(emulator: Emulator, tmp_path: pathlib.Path) -> Iterator[Node]:
    """What runs on the node: runners, on its own network."""
    made = Node(tmp_path, uuid.uuid4().hex[:26], secrets={"db": "https://lab.vault.azure.net/secrets/db"}, client_id=CLIENT)
    yield made
    made.clear()


@pytest.fixture
def client(emulator: Emulator) -> Iterator[BatchClient]:
    with emulator.client() as client:
        yield client


def make_pool(client: BatchClient, work: pathlib.Path) -> None:
    """Of one node."""
    machine = models.VirtualMachineConfiguration(
        image_reference=models.BatchVmImageReference(publisher="microsoft-dsvm", offer="ubuntu-hpc", sku="2204"),
        node_agent_sku_id="batch.node.ubuntu 22.04",
        container_configuration=models.BatchContainerConfiguration(type="dockerCompatible"),
    )
    root = models.UserIdentity(auto_user=models.AutoUserSpecification(elevation_level="admin", scope="pool"))
    start = models.BatchStartTask(command_line=start_task.command(server_image.find(), str(work)), user_identity=root, wait_for_success=True)
    client.create_pool(
        models.BatchPoolCreateOptions(id="pool", vm_size="Standard_D2s_v3", virtual_machine_configuration=machine, start_task=start, target_dedicated_nodes=1)
    )


def test_executors_do_not_reach_what_the_runner_reaches(emulator: Emulator, client: BatchClient, node: Node) -> None:
    script = "; ".join(azure_machine.asks(name) for name in azure_machine.PLACES)
    asks = {**shell(f'test "$DB" = {VALUE} && echo secret; {script}; true'), "env": {"DB": "secret://db"}}

    def reached(number: int) -> list[str]:
        node.plan(asks, number=number, secrets=("db",))
        report = node.run(number=number, more=emulator.node_environment)
        assert report.reason is None, report
        return (report.executors[0].stdout or "").split()

    assert reached(1) == ["secret", "token", "wire", "plugin"], "without a start task Azure keeps no container off"
    make_pool(client, node.work)
    emulator.wait_nodes("pool", 1, "idle", seconds=60)
    assert reached(2) == ["secret"]
    assert [name for name, _ in emulator.identities.given].count(CLIENT) == 3, "the runner got its tokens both times, an executor one"


def test_a_node_is_made_ready_once_however_often_it_starts(emulator: Emulator, client: BatchClient, node: Node, docker_client: Any) -> None:
    left = node.work / "attempts" / "t1-2"
    left.mkdir(parents=True)
    before = azure_machine.rules()
    make_pool(client, node.work)
    (made,) = emulator.wait_nodes("pool", 1, "idle", seconds=60)
    assert stat.S_IMODE(node.work.stat().st_mode) == 0o700
    until(lambda: not left.exists(), "the reaper deletes what a dead runner left")
    reaper = docker_client.inspect_container(start_task.REAPER)
    host = reaper["HostConfig"]
    assert (reaper["State"]["Running"], host["NetworkMode"], host["RestartPolicy"]["Name"]) == (True, "none", "always")
    added = azure_machine.rules()
    assert len(added) == len(before) + 3

    booted = made.booted
    client.begin_reboot_node("pool", made.id, {"nodeRebootOption": "requeue"}, polling_interval=3600)  # type: ignore[arg-type] # its model is not exported
    emulator.account.wait(lambda: made.booted != booted and made.state == "idle")
    assert azure_machine.rules() == added
    assert docker_client.inspect_container(start_task.REAPER)["Id"] == reaper["Id"]


def test_a_node_without_its_image_takes_no_task(emulator: Emulator, client: BatchClient, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says why."""
    good = start_task.command("localhost:1/none:1", str(node.work))
    # What a node does for five minutes takes a test no time.
    monkeypatch.setattr(start_task, "command", lambda *_: good.replace("sleep 15", "sleep 0"))
    make_pool(client, node.work)
    emulator.wait_nodes("pool", 1, "starttaskfailed", seconds=60)
    (told,) = client.list_nodes("pool")
    assert told.start_task_info is not None
    assert (told.start_task_info.exit_code, told.start_task_info.result) == (1, models.BatchTaskExecutionResult.FAILURE)
    said = b"".join(client.download_node_file("pool", told.id or "", "startup/stderr.txt")).decode()
    assert "this node can run no tasks: localhost:1/none:1 cannot be had" in said
