"""The whole server with an emulated Azure Batch account on days that are not like others: nodes are taken back, servers are killed, answers are lost."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance import azure_scatter, azure_site, batch_contract
from tests.acceptance.azure_site import Site
from tests.acceptance.batch_site import SMALL, said, sh, until
from tests.integration.azure_lab import Lab

pytestmark = [pytest.mark.azure_batch, pytest.mark.docker, pytest.mark.azurite]


@pytest.fixture(scope="module")
def site(azure: Lab, docker_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with azure_site.serving("bad-days", azure, tmp_path_factory.mktemp("site"), docker_client) as made:
        yield made
        azure.emulator.bad_days.mend()


def test_a_scatter_while_nodes_are_taken_back(azure: Lab, docker_client: Any, tmp_path: pathlib.Path) -> None:
    with azure_site.serving("scatter", azure, tmp_path, docker_client, least=2) as site:
        counted = azure_scatter.run(site, tasks=60, preempted=12, patience=240)
    assert counted["preempted"] >= 10


class TestKilled(batch_contract.Killed):
    def test_the_reconciler_before_it_has_submitted(self, site: Site) -> None:
        site.lab.emulator.bad_days.throttle("create_task_collection")
        task = site.marked("throttled-first")
        until(lambda: site.lab.emulator.calls.refused["create_task_collection TooManyRequests"], "a submit was refused")
        site.kill_reconciler()
        site.lab.emulator.bad_days.mend()
        assert site.server.until(task)["state"] == "COMPLETE"
        assert (site.runs("throttled-first"), len(site.attempts(f"{task}-1"))) == (1, 1)


class TestThrottled(batch_contract.Throttled):
    pass


def test_what_never_starts_ends_with_the_words_of_azure(azure: Lab, docker_client: Any, tmp_path: pathlib.Path) -> None:
    with azure_site.serving("stuck", azure, tmp_path, docker_client, least=0, wait_capacity="25") as site:
        azure.emulator.bad_days.exhaust("stuck-regular")
        task = site.server.create(sh("true"), resources=SMALL)
        assert "The specified account has reached core quota" in said(site.server, task, "WAITING_CAPACITY", "quota")
        ended = site.server.until(task)
        assert ended["state"] == "SYSTEM_ERROR"
        assert "no node for 0.00694 hours" in "\n".join(line for log in ended["logs"] for line in log["system_logs"])
        azure.emulator.bad_days.mend()
