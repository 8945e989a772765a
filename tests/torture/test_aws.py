"""An emulated AWS account whose Spot hosts are taken away under many tasks: each ends once, right, and its command has run once in each attempt."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from tests import server_image
from tests.acceptance import aws_scatter, aws_site
from tests.integration import aws_lab
from tests.torture.conftest import Tell

pytestmark = [pytest.mark.aws_batch, pytest.mark.docker, pytest.mark.s3]

TASKS = 300

PATIENCE = 1800.0


def test_a_fifth_of_all_tasks_loses_its_host(docker_client: Any, tmp_path: pathlib.Path, share: float, tell: Tell) -> None:
    tasks = round(TASKS * share)
    if tasks <= 60:
        pytest.skip("tests/acceptance scatters as many")
    with aws_lab.lab(tmp_path / "host", server_image.find()) as lab, aws_site.serving("torture", lab, tmp_path, docker_client) as site:
        tell(**aws_scatter.run(site, tasks=tasks, reclaimed=tasks // 5, patience=PATIENCE))
