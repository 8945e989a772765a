"""The whole server with an emulated AWS account on days that are not like others: hosts are reclaimed, servers are killed, answers are lost."""

from __future__ import annotations

import os
import pathlib
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests import mongo_server
from tests.acceptance import aws_scatter, aws_site
from tests.acceptance.aws_site import SMALL, Site, sh
from tests.acceptance.server import served
from tests.integration.aws_lab import Lab

pytestmark = [pytest.mark.aws_batch, pytest.mark.docker, pytest.mark.s3]


@pytest.fixture(scope="module")
def site(aws: Lab, docker_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with aws_site.serving("bad-days", aws, tmp_path_factory.mktemp("site"), docker_client) as made:
        yield made
        aws.emulator.bad_days.mend()


def kill(site: Site) -> None:
    """The reconciler; the server starts another one."""
    os.kill(site.server.part("reconciler"), signal.SIGKILL)


def test_a_scatter_while_hosts_are_reclaimed(aws: Lab, docker_client: Any, tmp_path: pathlib.Path) -> None:
    with aws_site.serving("scatter", aws, tmp_path, docker_client) as site:
        counted = aws_scatter.run(site, tasks=60, reclaimed=12, patience=240)
    assert counted["reclaimed"] >= 12


class TestKilled:
    def test_the_reconciler_while_a_job_runs(self, site: Site) -> None:
        task = site.marked("runs", "sleep 3; echo done")
        aws_site.until(lambda: site.runs("runs"), "the command runs")
        kill(site)
        assert site.server.until(task)["logs"][0]["logs"][0]["stdout"] == "done\n"
        assert (site.runs("runs"), len(site.jobs(f"{task}-1"))) == (1, 1)

    def test_the_whole_server_while_jobs_run_and_wait(self, site: Site) -> None:
        """What ends meanwhile has told nobody: the spool has it."""
        site.lab.emulator.bad_days.hold("spot")
        waits = site.marked("waits", resources={**SMALL, "preemptible": True})
        ends = site.marked("ends", "echo done")
        aws_site.until(lambda: site.runs("ends"), "the command runs")
        aws_site.until(lambda: site.jobs(f"{waits}-1"), "the job is there")
        site.server.stop(signal.SIGKILL)
        site.lab.emulator.wait(f"{site.name}_{ends}-1", "SUCCEEDED")
        site.server.start()
        assert site.server.until(ends)["logs"][0]["logs"][0]["stdout"] == "done\n"
        site.lab.emulator.bad_days.release("spot")
        assert site.server.until(waits)["state"] == "COMPLETE"
        assert [(site.runs(name), len(site.jobs(f"{task}-1"))) for name, task in (("waits", waits), ("ends", ends))] == [(1, 1), (1, 1)]

    def test_the_reconciler_while_answers_of_submits_are_lost(self, site: Site) -> None:
        """Whatever jobs there are then, one of them runs the command."""
        site.lab.emulator.bad_days.lose_answers(times=2)
        tasks = [site.marked(f"lost-{number}", "sleep 1") for number in range(3)]
        aws_site.until(lambda: all(site.jobs(f"{task}-1") for task in tasks), "jobs are there")
        kill(site)
        assert {site.server.until(task)["state"] for task in tasks} == {"COMPLETE"}
        assert [site.runs(f"lost-{number}") for number in range(3)] == [1, 1, 1]
        assert not [job for task in tasks for job in site.jobs(f"{task}-2")]

    def test_the_reconciler_before_it_has_canceled(self, site: Site) -> None:
        task = site.marked("canceled", "trap '' TERM; while :; do sleep 0.2; done")
        aws_site.until(lambda: site.runs("canceled"), "the command runs")
        site.lab.emulator.bad_days.throttle("batch.TerminateJob")
        assert site.server.ask(f"/v1/tasks/{task}:cancel", b"")[0] == 200
        kill(site)
        site.lab.emulator.bad_days.mend()
        assert site.server.until(task)["state"] == "CANCELED"
        assert not [name for found in site.docker.containers() for name in found["Names"] if task in name], "CANCELED means gone"


def test_throttled_all_the_time(site: Site) -> None:
    """Every second call of AWS Batch is refused: it takes longer, and nothing is lost or doubled."""
    site.lab.emulator.bad_days.throttle("batch.*", every=2)
    tasks = [site.marked(f"throttled-{number}") for number in range(5)]
    assert {site.server.until(task)["state"] for task in tasks} == {"COMPLETE"}
    site.lab.emulator.bad_days.mend()
    assert [site.runs(f"throttled-{number}") for number in range(5)] == [1] * 5


def test_what_never_starts_ends_with_the_words_of_aws_batch(aws: Lab, docker_client: Any, tmp_path: pathlib.Path) -> None:
    with aws_site.serving("stuck", aws, tmp_path, docker_client, wait_config="2", poll="1", sweep="1") as site:
        task = site.server.create(sh("true"), resources={"cpu_cores": 100, "ram_gb": 0.1})
        assert "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT" in aws_site.said(site.server, task, "WAITING_CAPACITY", "MISCONFIGURATION")
        ended = site.server.until(task)
        assert ended["state"] == "SYSTEM_ERROR"
        assert "AWS Batch cannot start it as its queue is set up" in "\n".join(line for log in ended["logs"] for line in log["system_logs"])


@pytest.mark.mongo
def test_two_servers_of_one_store_read_one_queue_of_events(aws: Lab, docker_client: Any, tmp_path: pathlib.Path) -> None:
    """One of them is killed in mid-flight, and the other one looks after its tasks."""
    with mongo_server.database(mongo_server.url()) as account:
        shared = {"TES_SERVER__STORE__URL": account.url, "TES_SERVER__STORE__DATABASE": account.database, "TES_SERVER__STORE__LEASE": "3"}
        with aws_site.serving("replicas", aws, tmp_path, docker_client, environment=shared) as site:
            with served(tmp_path / "second", *site.flags, environment=shared) as second:
                tasks = [site.marked(f"task-{number}", "sleep 2") for number in range(10)]
                aws_site.until(lambda: site.runs("task-0"), "the first command runs")
                second.stop(signal.SIGKILL)
                assert site.server.until_all(tasks, 120) == {"COMPLETE": 10}
            assert [site.runs(f"task-{number}") for number in range(10)] == [1] * 10
            assert len(site.jobs()) == 10
