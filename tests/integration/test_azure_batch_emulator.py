"""The Azure Batch emulator with Docker and the SDK: tasks really run, and nodes really are lost."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import azure.core.credentials
import pytest
from azure.batch import BatchClient, models

from tests.emulators.azure_batch.docker_agents import BOOT
from tests.emulators.azure_batch.emulator import Emulator
from tests.emulators.azure_batch.records import Task
from tests.emulators.azure_batch.world import ACCOUNT, CLIENT, KEY, World
from tests.integration.conftest import unreachable

pytestmark = [pytest.mark.azure_batch, pytest.mark.docker]
ROOT = pathlib.Path(__file__).parents[2]
IMAGE = "tes-test/busybox"
SLEEP = "echo started; sleep 600"
WORLD = World(boot=0.0, restore=None, second=0.01)
LABEL = "tes-emulator.azure-batch"
Submit = Callable[..., str]


@pytest.fixture
def emulator(docker_client: Any) -> Iterator[Emulator]:
    with Emulator(WORLD, metadata="loopback") as emulator:
        yield emulator
        assert emulator.endpoint.defects == []
    assert docker_client.containers(all=True, filters={"label": f"{LABEL}={emulator.id}"}) == []
    assert not emulator.ca.parent.exists()


@pytest.fixture
def client(emulator: Emulator) -> Iterator[BatchClient]:
    with emulator.client() as client:
        yield client


@pytest.fixture
def submit(emulator: Emulator, client: BatchClient) -> Submit:
    """Onto a pool of two Spot nodes with two slots each."""
    prepared(client)
    emulator.wait_nodes("spot", 2, "idle")
    return lambda command, **given: submitted(client, command, **given)


def prepared(client: BatchClient, *, nodes: int = 2, job: dict[str, Any] | None = None, **given: Any) -> None:
    """The pool `spot` and the job `job`."""
    image = models.BatchVmImageReference(publisher="microsoft-dsvm", offer="ubuntu-hpc", sku="2204")
    containers = models.BatchContainerConfiguration(type="dockerCompatible")
    machine = models.VirtualMachineConfiguration(image_reference=image, node_agent_sku_id="batch.node.ubuntu 22.04", container_configuration=containers)
    usual: dict[str, Any] = {"id": "spot", "vm_size": "Standard_D2s_v3", "task_slots_per_node": 2, "target_low_priority_nodes": nodes}
    client.create_pool(models.BatchPoolCreateOptions(**{**usual, "virtual_machine_configuration": machine, **given}))
    client.create_job(models.BatchJobCreateOptions(id="job", pool_info=models.BatchPoolInfo(pool_id="spot"), **(job or {})))


def submitted(client: BatchClient, command: str, *, name: str = "a", image: str = IMAGE, settings: dict[str, Any] | None = None, **given: Any) -> str:
    """A task of a shell command; its id."""
    line = f"/bin/sh -c '{command}'"
    container = models.BatchTaskContainerSettings(image_name=image, **(settings or {}))
    client.create_task("job", models.BatchTaskCreateOptions(id=name, command_line=line, container_settings=container, **given))
    return name


def ended(emulator: Emulator, name: str = "a") -> Task:
    return emulator.wait("job", name, "completed")


def variables(**given: str) -> list[models.EnvironmentSetting]:
    return [models.EnvironmentSetting(name=name, value=value) for name, value in given.items()]


# -- tasks -------------------------------------------------------------------------------------------------------------


def test_a_task_runs_and_all_is_told(emulator: Emulator, client: BatchClient, submit: Submit) -> None:
    command = "echo $GREETING $AZ_BATCH_POOL_ID/$AZ_BATCH_JOB_ID/$AZ_BATCH_TASK_ID $AZ_BATCH_NODE_IS_DEDICATED; pwd; echo oh >&2; echo x > made; exit 3"
    submit(command, environment_settings=variables(GREETING="hello"))
    task = ended(emulator)
    assert task.last is not None
    assert emulator.log(task) == f"hello spot/job/a false\n{task.last.directory}/wd\n"
    info = client.get_task("job", "a").execution_info
    assert info is not None
    assert (info.exit_code, info.failure_info and info.failure_info.code) == (3, "FailureExitCode")
    assert info.container_info is not None
    assert (info.container_info.state, len(info.container_info.container_id or "")) == ("exited", 64)
    assert {found.name for found in client.list_task_files("job", "a", recursive=True)} == {"stderr.txt", "stdout.txt", "wd", "wd/made"}
    assert b"".join(client.download_task_file("job", "a", "stderr.txt")) == b"oh\n"


def test_settings_of_the_container(emulator: Emulator, submit: Submit, tmp_path: pathlib.Path) -> None:
    """Its run options, and only those directories of the node that it is to see."""
    options = f"--network host -v {tmp_path}:/work -w /work --user 0"
    mounts = [models.ContainerHostBatchBindMountEntry(source="Task", is_read_only=True)]
    settings = {"container_run_options": options, "container_host_batch_bind_mounts": mounts, "working_directory": "containerImageDefault"}
    submit("pwd > out; touch $AZ_BATCH_TASK_DIR/x && echo written >> out; ls $AZ_BATCH_NODE_ROOT_DIR >> out", settings=settings)
    assert ended(emulator).info["exitCode"] == 0
    assert (tmp_path / "out").read_text() == "/work\nworkitems\n"


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"image": "localhost:1/none"}, "ContainerInvalidImage"),
        ({"settings": {"container_run_options": "--nonsense"}}, "ContainerInvalidSettings"),
        ({"settings": {"container_run_options": "--network nowhere"}}, "ContainerInvalidSettings"),
    ],
)
def test_a_container_that_cannot_be_made(emulator: Emulator, submit: Submit, given: dict[str, Any], code: str) -> None:
    submit("true", **given)
    info = ended(emulator).info
    assert ("exitCode" in info, info["failureInfo"]["code"], info["failureInfo"]["category"]) == (False, code, "usererror")


def test_a_task_is_killed_by_a_call_or_by_its_limit(emulator: Emulator, client: BatchClient, submit: Submit, docker_client: Any) -> None:
    submit(SLEEP)
    limit = models.BatchTaskConstraints(max_wall_clock_time=datetime.timedelta(seconds=30))  # 0.3 s of this world
    submit(SLEEP, name="b", constraints=limit)
    emulator.wait("job", "a", "running")
    client.terminate_task("job", "a")
    assert [ended(emulator, name).info["failureInfo"]["code"] for name in ("a", "b")] == ["TaskEnded", "TaskEnded"]
    emulator.account.wait(lambda: not docker_client.containers(all=True, filters={"label": f"{LABEL}={emulator.id}"}))


# -- nodes -------------------------------------------------------------------------------------------------------------


def test_a_preempted_node_takes_everything_along(emulator: Emulator, docker_client: Any, submit: Submit, tmp_path: pathlib.Path) -> None:
    """What its tasks have started beside them, and their directories; the tasks run elsewhere."""
    left = tmp_path / "attempts" / "t1-2" / "volume"
    left.mkdir(parents=True)
    binds = docker_client.create_host_config(binds=[f"{left}:/v"], network_mode="none")
    sibling = docker_client.create_container(IMAGE, ["sleep", "600"], host_config=binds)["Id"]
    docker_client.start(sibling)
    try:
        submit(SLEEP, environment_settings=variables(TES_NODE=json.dumps({"work": str(tmp_path)}), TES_ATTEMPT="t1/2"))
        first = emulator.wait("job", "a", "running").run
        assert first is not None
        assert emulator.bad_days.preempt() == first.node.id
        second = emulator.account.wait(lambda: (run := emulator.task("job", "a").run) is not None and run is not first and run)
        assert (second.node.id != first.node.id, first.node.root.exists(), left.exists()) == (True, False, False)
        assert sibling not in [container["Id"] for container in docker_client.containers(all=True)]
        emulator.wait("job", "a", "running")
        assert emulator.task("job", "a").info["requeueCount"] == 0
    finally:
        with contextlib.suppress(Exception):
            docker_client.remove_container(sibling, force=True)


def test_a_preempted_node_returns_under_its_name_and_is_another(docker_client: Any) -> None:
    """Its tasks run there once more, and can tell."""
    world = World(boot=0.0, restore=0.0, second=0.01)
    with Emulator(world, metadata="loopback") as emulator, emulator.client() as client:
        prepared(client, nodes=1)
        submitted(client, f"cat {BOOT}; exec sleep 600")
        task = emulator.wait("job", "a", "running")

        def told() -> tuple[str, str]:
            """The node, and what its kernel says."""
            emulator.account.wait(lambda: task.state == "running" and emulator.log(task))
            assert task.last is not None
            return task.last.node.id, emulator.log(task)

        first, run = told(), task.last
        emulator.bad_days.preempt()
        emulator.account.wait(lambda: task.last is not run)
        second = told()
        assert second[0] == first[0]
        assert second[1] != first[1]


def test_a_lost_node_may_run_on(emulator: Emulator, docker_client: Any, submit: Submit) -> None:
    """The task runs twice, and how the first one ends is nothing to anybody."""
    submit("echo started; while [ ! -e $AZ_BATCH_TASK_WORKING_DIR/go ]; do sleep 0.05; done")
    first = emulator.wait("job", "a", "running").run
    assert first is not None
    emulator.bad_days.lose(first.node.id, alive=True)
    emulator.account.wait(lambda: (run := emulator.task("job", "a").run) is not None and run is not first and emulator.task("job", "a").state == "running")
    assert len(docker_client.containers(filters={"label": f"{LABEL}={emulator.id}"})) == 2
    (first.directory / "wd" / "go").touch()
    emulator.account.wait(lambda: len(docker_client.containers(all=True, filters={"label": f"{LABEL}={emulator.id}"})) == 1)
    assert emulator.task("job", "a").state == "running"


def test_a_runner_is_killed_and_nothing_else(emulator: Emulator, submit: Submit) -> None:
    submit(SLEEP)
    emulator.wait("job", "a", "running")
    emulator.bad_days.kill_runner("job", "a")
    assert ended(emulator).info["exitCode"] == 137


def test_start_tasks_run_on_every_node(emulator: Emulator, client: BatchClient) -> None:
    start = models.BatchStartTask(
        command_line="/bin/sh -c 'echo $AZ_BATCH_NODE_ID; env > $AZ_BATCH_NODE_STARTUP_DIR/env'", environment_settings=variables(A="1")
    )
    prepared(client, start_task=start)
    for node in emulator.wait_nodes("spot", 2, "idle"):
        assert (node.root / "startup" / "stdout.txt").read_text() == f"{node.id}\n"
        assert "A=1" in (node.root / "startup" / "env").read_text().splitlines()
    (info, _) = (node.start_task_info for node in client.list_nodes("spot"))
    assert info is not None
    assert (info.exit_code, info.result) == (0, models.BatchTaskExecutionResult.SUCCESS)


@pytest.mark.parametrize(("command", "code"), [("/bin/false", "FailureExitCode"), ("/no/such/program", "CommandProgramNotFound")])
def test_a_start_task_that_fails(emulator: Emulator, client: BatchClient, command: str, code: str) -> None:
    prepared(client, start_task=models.BatchStartTask(command_line=command, wait_for_success=True, max_task_retry_count=1))
    emulator.wait_nodes("spot", 2, "starttaskfailed")
    (info, _) = (node.start_task_info for node in client.list_nodes("spot", filter="startTaskInfo/result eq 'failure'"))
    assert info is not None
    assert (info.failure_info and info.failure_info.code, info.retry_count) == (code, 1)


def test_a_preparation_runs_once_a_node_and_its_failure_is_the_nodes(emulator: Emulator, client: BatchClient) -> None:
    good = models.BatchJobPreparationTask(command_line="/bin/sh -c 'echo $AZ_BATCH_JOB_ID; test $AZ_BATCH_NODE_IS_DEDICATED = false'")
    prepared(client, nodes=1, job={"job_preparation_task": good})
    for name in ("a", "b"):
        submitted(client, "true", name=name)
        assert ended(emulator, name).info["exitCode"] == 0
    (status,) = client.list_job_preparation_and_release_task_status("job")
    assert status.job_preparation_task_execution_info is not None
    assert status.job_preparation_task_execution_info.result == models.BatchTaskExecutionResult.SUCCESS
    bad = models.BatchJobPreparationTask(command_line="/bin/false")
    client.create_job(models.BatchJobCreateOptions(id="stuck", pool_info=models.BatchPoolInfo(pool_id="spot"), job_preparation_task=bad))
    settings = models.BatchTaskContainerSettings(image_name=IMAGE)
    client.create_task("stuck", models.BatchTaskCreateOptions(id="a", command_line="true", container_settings=settings))
    emulator.account.wait(lambda: any("stuck" in node.prepared for node in emulator.nodes("spot")) and emulator.task("stuck", "a").state == "active")
    assert list(client.list_tasks("stuck", filter="state eq 'completed'")) == []


def test_the_nodes_reaper_runs_beside_the_tasks(tmp_path: pathlib.Path) -> None:
    """The real one: an attempt whose runner does not live is removed."""
    left = tmp_path / "attempts" / "t1-2"
    left.mkdir(parents=True)
    with Emulator(WORLD, reaper=str(tmp_path), metadata="loopback", pretend=True) as emulator:
        emulator.account.wait(lambda: not left.exists())


# -- metadata ----------------------------------------------------------------------------------------------------------

TOKEN = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://storage.azure.com/"


def test_managed_identities_are_reached_from_the_host_and_from_a_bridge(docker_client: Any) -> None:
    """Azure does not keep containers off: a start task has to."""
    if os.geteuid() != 0:
        unreachable("a network namespace", "this user is not root")

    def ask(network: str, address: str, path: str, port: int = 80) -> str:
        command = f'printf "GET {path} HTTP/1.0\\r\\nMetadata: true\\r\\n\\r\\n" | nc -w 3 {address} {port} || echo nothing'
        container = docker_client.create_container(IMAGE, ["sh", "-c", command], host_config=docker_client.create_host_config(network_mode=network))["Id"]
        try:
            docker_client.start(container)
            docker_client.wait(container)
            return str(docker_client.logs(container).decode())
        finally:
            docker_client.remove_container(container, force=True)

    with Emulator(WORLD, metadata="network", pretend=True) as emulator:
        for network in ("host", "bridge"):
            head, _, body = ask(network, "169.254.169.254", TOKEN).partition("\r\n\r\n")
            assert "200 OK" in head
            assert json.loads(body).keys() >= {"access_token", "expires_on", "resource", "token_type"}
            assert "GoalState" in ask(network, "168.63.129.16", "/machine?comp=goalstate")
            assert "extensionGoalStates" in ask(network, "168.63.129.16", "/vmSettings", 32526)
        assert emulator.identities.given == [(CLIENT, "https://storage.azure.com/")] * 2


# -- by hand -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def by_hand() -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """`python -m tests.emulators.azure_batch`, and the environment that it prints."""
    with subprocess.Popen([sys.executable, "-m", "tests.emulators.azure_batch"], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        told: dict[str, str] = {}
        for line in process.stdout:
            if line.startswith("export "):
                name, _, value = line.removeprefix("export ").strip().partition("=")
                told[name] = value
            elif "/_emulator/mend" in line:
                break
        try:
            yield process, told
        finally:
            process.kill()


def started(told: dict[str, str], docker_client: Any) -> str:
    """A task that runs in the emulator of this environment; its container."""
    key = azure.core.credentials.AzureNamedKeyCredential(ACCOUNT, KEY)
    with BatchClient(told["AZURE_BATCH_ENDPOINT"], key, connection_verify=told["REQUESTS_CA_BUNDLE"]) as client:
        prepared(client, nodes=1)
        submitted(client, SLEEP)
        while not (found := client.get_task("job", "a").execution_info) or not found.container_info:
            time.sleep(0.05)
        return str(found.container_info.container_id)


def exists(docker_client: Any, container: str) -> bool:
    return container in [found["Id"] for found in docker_client.containers(all=True)]


def test_by_hand_it_prints_its_environment_and_stops_at_once(docker_client: Any) -> None:
    with by_hand() as (process, told):
        container = started(told, docker_client)
        assert exists(docker_client, container)
        process.terminate()
        assert process.wait(60) == 0
    assert not exists(docker_client, container)


def test_what_a_killed_emulator_left_the_next_one_removes(docker_client: Any) -> None:
    with by_hand() as (process, told):
        container = started(told, docker_client)
        process.kill()
        process.wait(60)
    assert exists(docker_client, container)
    with Emulator(WORLD, metadata="loopback") as emulator, emulator.client() as client:
        assert not pathlib.Path(told["REQUESTS_CA_BUNDLE"]).exists()
        prepared(client, nodes=1)
        submitted(client, "true")
        assert ended(emulator).info["exitCode"] == 0
        assert not exists(docker_client, container)
