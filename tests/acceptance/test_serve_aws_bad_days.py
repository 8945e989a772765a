"""The whole server with an emulated AWS account on days that are not like others: hosts are reclaimed, servers are killed, answers are lost."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance import aws_scatter, aws_site, batch_contract
from tests.acceptance.aws_site import Site
from tests.acceptance.batch_site import said, sh
from tests.integration.aws_lab import Lab

pytestmark = [pytest.mark.aws_batch, pytest.mark.docker, pytest.mark.s3]


@pytest.fixture(scope="module")
def site(aws: Lab, docker_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with aws_site.serving("bad-days", aws, tmp_path_factory.mktemp("site"), docker_client) as made:
        yield made
        aws.emulator.bad_days.mend()


def test_a_scatter_while_hosts_are_reclaimed(aws: Lab, docker_client: Any, tmp_path: pathlib.Path) -> None:
    with aws_site.serving("scatter", aws, tmp_path, docker_client) as site:
        counted = aws_scatter.run(site, tasks=60, reclaimed=12, patience=240)
    assert counted["reclaimed"] >= 12


class TestKilled(batch_contract.Killed):
    pass


class TestThrottled(batch_contract.Throttled):
    pass


def test_what_never_starts_ends_with_the_words_of_aws_batch(aws: Lab, docker_client: Any, tmp_path: pathlib.Path) -> None:
    with aws_site.serving("stuck", aws, tmp_path, docker_client, wait_config="2", poll="1", sweep="1") as site:
        task = site.server.create(sh("true"), resources={"cpu_cores": 100, "ram_gb": 0.1})
        assert "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT" in said(site.server, task, "WAITING_CAPACITY", "MISCONFIGURATION")
        ended = site.server.until(task)
        assert ended["state"] == "SYSTEM_ERROR"
        assert "AWS Batch cannot start it as its queue is set up" in "\n".join(line for log in ended["logs"] for line in log["system_logs"])
