"""An emulated Azure Batch account whose Spot nodes are taken away under many tasks: each ends once, right, and its command has run once in each attempt."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from tests import server_image
from tests.acceptance import azure_scatter, azure_site
from tests.integration import azure_lab
from tests.torture.conftest import Tell

pytestmark = [pytest.mark.azure_batch, pytest.mark.docker, pytest.mark.azurite]

TASKS = 300

PATIENCE = 1800.0


def test_a_fifth_of_all_tasks_loses_its_node(docker_client: Any, tmp_path: pathlib.Path, share: float, tell: Tell) -> None:
    tasks = round(TASKS * share)
    if tasks <= 60:
        pytest.skip("tests/acceptance scatters as many")
    with (
        azure_lab.lab(tmp_path / "node", server_image.find(), azure_site.WORLD, reaper=True, metadata="loopback") as lab,
        azure_site.serving("torture", lab, tmp_path, docker_client, least=2) as site,
    ):
        counted = azure_scatter.run(site, tasks=tasks, preempted=tasks // 5, patience=PATIENCE)
        tell(**counted)
        # They come one by one, over seconds: what comes between two ticks goes together.
        assert counted["begun_per_task"] <= 0.1 or tasks < TASKS
