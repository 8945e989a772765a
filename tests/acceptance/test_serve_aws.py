"""The whole server with an emulated AWS account, as those who begin with docs/aws-batch.md meet it: real containers, data and spool on S3."""

from __future__ import annotations

import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance import aws_site, batch_contract
from tests.acceptance.aws_site import Site
from tests.acceptance.batch_site import SMALL, sh
from tests.acceptance.server import BIN
from tests.integration.aws_lab import Lab

pytestmark = [pytest.mark.aws_batch, pytest.mark.docker, pytest.mark.s3]


@pytest.fixture(scope="module")
def site(aws: Lab, docker_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with aws_site.serving("site", aws, tmp_path_factory.mktemp("site"), docker_client) as made:
        yield made


class TestFirstSteps(batch_contract.FirstSteps):
    def test_where_a_task_ran(self, site: Site) -> None:
        tasks = {preemptible: site.server.create(sh("true"), resources={**SMALL, "preemptible": preemptible}) for preemptible in (False, True)}
        for preemptible, queue, capacity in ((False, "regular", "on-demand"), (True, "spot", "spot")):
            [log] = site.server.until(tasks[preemptible])["logs"]
            [job] = site.attempts(f"{tasks[preemptible]}-1")
            told = {key: value for key, value in log["metadata"].items() if key in ("job", "queue", "capacity", "log")}
            assert told == {"job": job.id, "queue": queue, "capacity": capacity, "log": job.now["logStreamName"]}, log["metadata"]
            assert job.tags["tes-task"] == tasks[preemptible]

    def test_service_info(self, site: Site) -> None:
        info = site.server.ask("/v1/service-info")[1]
        assert "as AWS Batch jobs" in info["description"]
        assert f"{site.lab.s3.url}/data" in info["storage"]
        assert {"backend", "spot_attempts", "max_runtime"} <= set(info["tesResources_backend_parameters"])


class TestBesideThisMachine(batch_contract.BesideThisMachine):
    pass


class TestTheDoctor:
    def doctor(self, site: Site, tmp_path: pathlib.Path, flags: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
        words = ("doctor", "--backend", "aws_batch", "--data", tmp_path / "data")
        return site.run(BIN / "tes-server", *words, *(flags or site.flags), environment=environment)

    def test_all_is_well(self, site: Site, tmp_path: pathlib.Path) -> None:
        said = self.doctor(site, tmp_path)
        assert "ok    AWS Batch in us-east-1, queue regular: takes tasks" in said.stdout
        assert said.returncode == 0, said.stdout

    def test_what_is_not_allowed_is_named(self, site: Site, tmp_path: pathlib.Path) -> None:
        site.lab.emulator.bad_days.deny("LIMITED", ["batch:SubmitJob", "sqs:ReceiveMessage"], "secret")
        said = self.doctor(site, tmp_path, AWS_ACCESS_KEY_ID="LIMITED", AWS_SECRET_ACCESS_KEY="secret")
        assert said.returncode == 1
        lines = [line for line in said.stdout.splitlines() if line.startswith("no    AWS Batch: ")]
        assert {line.split()[3] for line in lines} == {"batch:SubmitJob", "sqs:ReceiveMessage", "spool"}, said.stdout
        # Nor does the S3 server know that key, and that is said, too.
        assert "no    AWS Batch: spool s3://" in said.stdout

    def test_a_queue_that_is_not_there(self, site: Site, tmp_path: pathlib.Path) -> None:
        flags = site.flags_of(tmp_path / "elsewhere.toml", "elsewhere", queue='"none-such"')
        said = self.doctor(site, tmp_path, flags)
        assert "no    AWS Batch: there is no job queue none-such in us-east-1" in said.stdout
        assert said.returncode == 1


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("SPOOL__URL", "", "spool.url: must be named: plans go to the hosts through it, and reports come back"),
        ("AWS_BATCH__IMAGE", "", "aws_batch.image: must name this server's own image"),
        ("AWS_BATCH__QUEUE", "", "aws_batch.queue: must be named: without it no task runs on AWS Batch"),
    ],
)
def test_settings_that_do_not_suffice(site: Site, tmp_path: pathlib.Path, setting: str, value: str, words: str) -> None:
    done = site.run(BIN / "tes-server", "serve", "--data", tmp_path / "data", *site.flags, environment={f"TES_SERVER__{setting}": value})
    assert (done.returncode, done.stderr) == (2, f"tes-server: {words}\n")


def test_boto3_is_not_installed(site: Site, tmp_path: pathlib.Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['boto3'] = None")
    done = site.run(BIN / "tes-server", "serve", "--data", tmp_path / "data", *site.flags, environment={"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stderr) == (2, "tes-server: aws_batch.queue: AWS Batch needs more: pip install 'tes-server[aws]'\n")
