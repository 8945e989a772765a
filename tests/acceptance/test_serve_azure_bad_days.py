"""The whole server with an emulated Azure Batch account on days that are not like others: nodes are taken back, servers are killed, answers are lost."""

from __future__ import annotations

import os
import pathlib
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests import mongo_server
from tests.acceptance import azure_scatter, azure_site
from tests.acceptance.azure_site import SMALL, Site, sh
from tests.acceptance.server import served
from tests.integration.azure_lab import Lab

pytestmark = [pytest.mark.azure_batch, pytest.mark.docker, pytest.mark.azurite]


@pytest.fixture(scope="module")
def site(azure: Lab, docker_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with azure_site.serving("bad-days", azure, tmp_path_factory.mktemp("site"), docker_client) as made:
        yield made
        azure.emulator.bad_days.mend()


def kill(site: Site) -> None:
    """The reconciler; the server starts another one."""
    os.kill(site.server.part("reconciler"), signal.SIGKILL)


def test_a_scatter_while_nodes_are_taken_back(azure: Lab, docker_client: Any, tmp_path: pathlib.Path) -> None:
    with azure_site.serving("scatter", azure, tmp_path, docker_client, least=2) as site:
        counted = azure_scatter.run(site, tasks=60, preempted=12, patience=240)
    assert counted["preempted"] >= 10


class TestKilled:
    def test_the_reconciler_while_a_task_runs(self, site: Site) -> None:
        task = site.marked("runs", "sleep 3; echo done")
        azure_site.until(lambda: site.runs("runs"), "the command runs")
        kill(site)
        assert site.server.until(task)["logs"][0]["logs"][0]["stdout"] == "done\n"
        assert (site.runs("runs"), len(site.tasks(f"{task}-1"))) == (1, 1)

    def test_the_whole_server_while_tasks_run_and_wait(self, site: Site) -> None:
        """What ends meanwhile has told nobody: the spool has it."""
        [node] = site.nodes("spot")
        node.scheduling = "disabled"
        waits = site.marked("waits", resources={**SMALL, "preemptible": True})
        ends = site.marked("ends", "echo done")
        azure_site.until(lambda: site.runs("ends"), "the command runs")
        azure_site.until(lambda: site.tasks(f"{waits}-1"), "the task is there")
        site.server.stop(signal.SIGKILL)
        [task] = site.tasks(f"{ends}-1")
        site.lab.emulator.wait(task.key[0], task.id, "completed")
        site.server.start()
        assert site.server.until(ends)["logs"][0]["logs"][0]["stdout"] == "done\n"
        node.scheduling = "enabled"
        assert site.server.until(waits)["state"] == "COMPLETE"
        assert [(site.runs(name), len(site.tasks(f"{task}-1"))) for name, task in (("waits", waits), ("ends", ends))] == [(1, 1), (1, 1)]

    def test_the_reconciler_while_answers_of_submits_are_lost(self, site: Site) -> None:
        """Each task is there once, as its name is taken."""
        site.lab.emulator.bad_days.lose_answers(times=2)
        tasks = [site.marked(f"lost-{number}", "sleep 1") for number in range(3)]
        azure_site.until(lambda: all(site.tasks(f"{task}-1") for task in tasks), "tasks are there")
        kill(site)
        assert {site.server.until(task)["state"] for task in tasks} == {"COMPLETE"}
        assert [site.runs(f"lost-{number}") for number in range(3)] == [1, 1, 1]
        assert not [found for task in tasks for found in site.tasks(f"{task}-2")]

    def test_the_reconciler_before_it_has_submitted(self, site: Site) -> None:
        site.lab.emulator.bad_days.throttle("create_task_collection")
        task = site.marked("throttled-first")
        azure_site.until(lambda: site.lab.emulator.calls.refused["create_task_collection TooManyRequests"], "a submit was refused")
        kill(site)
        site.lab.emulator.bad_days.mend()
        assert site.server.until(task)["state"] == "COMPLETE"
        assert (site.runs("throttled-first"), len(site.tasks(f"{task}-1"))) == (1, 1)

    def test_the_reconciler_before_it_has_canceled(self, site: Site) -> None:
        task = site.marked("canceled", "trap '' TERM; while :; do sleep 0.2; done")
        azure_site.until(lambda: site.runs("canceled"), "the command runs")
        site.lab.emulator.bad_days.throttle("terminate_task")
        assert site.server.ask(f"/v1/tasks/{task}:cancel", b"")[0] == 200
        kill(site)
        site.lab.emulator.bad_days.mend()
        assert site.server.until(task)["state"] == "CANCELED"
        assert not [name for found in site.docker.containers() for name in found["Names"] if task in name], "CANCELED means gone"


def test_throttled_all_the_time(site: Site) -> None:
    """Every second call of each kind is refused: it takes longer, and nothing is lost or doubled."""
    for call in ("create_*", "list_*", "get_*", "enable_*"):
        site.lab.emulator.bad_days.throttle(call, every=2)
    tasks = [site.marked(f"throttled-{number}") for number in range(5)]
    assert {site.server.until(task)["state"] for task in tasks} == {"COMPLETE"}
    site.lab.emulator.bad_days.mend()
    assert [site.runs(f"throttled-{number}") for number in range(5)] == [1] * 5


def test_what_never_starts_ends_with_the_words_of_azure(azure: Lab, docker_client: Any, tmp_path: pathlib.Path) -> None:
    with azure_site.serving("stuck", azure, tmp_path, docker_client, least=0, wait_capacity="25") as site:
        azure.emulator.bad_days.exhaust("stuck-regular")
        task = site.server.create(sh("true"), resources=SMALL)
        assert "The specified account has reached core quota" in azure_site.said(site.server, task, "WAITING_CAPACITY", "quota")
        ended = site.server.until(task)
        assert ended["state"] == "SYSTEM_ERROR"
        assert "no node for 0.00694 hours" in "\n".join(line for log in ended["logs"] for line in log["system_logs"])
        azure.emulator.bad_days.mend()


@pytest.mark.mongo
def test_two_servers_of_one_store(azure: Lab, docker_client: Any, tmp_path: pathlib.Path) -> None:
    """One of them is killed in mid-flight, and the other one looks after its tasks."""
    with mongo_server.database(mongo_server.url()) as account:
        shared = {"TES_SERVER__STORE__URL": account.url, "TES_SERVER__STORE__DATABASE": account.database, "TES_SERVER__STORE__LEASE": "3"}
        with azure_site.serving("replicas", azure, tmp_path, docker_client, environment=shared, key_variable='""') as site:
            with served(tmp_path / "second", *site.flags, environment={**shared, **azure_site.lives(tmp_path)}) as second:
                tasks = [site.marked(f"task-{number}", "sleep 2") for number in range(10)]
                azure_site.until(lambda: site.runs("task-0"), "the first command runs")
                second.stop(signal.SIGKILL)
                assert site.server.until_all(tasks, 120) == {"COMPLETE": 10}
            assert [site.runs(f"task-{number}") for number in range(10)] == [1] * 10
            assert len(site.tasks()) == 10
