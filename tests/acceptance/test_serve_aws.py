"""The whole server with an emulated AWS account, as those who begin with docs/aws-batch.md meet it: real containers, data and spool on S3."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance import aws_site
from tests.acceptance.aws_site import IMAGE, SMALL, Site, sh
from tests.acceptance.server import BIN
from tests.integration.aws_lab import Lab
from tests.integration.conftest import unreachable

pytestmark = [pytest.mark.aws_batch, pytest.mark.docker, pytest.mark.s3]

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def site(aws: Lab, docker_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with aws_site.serving("site", aws, tmp_path_factory.mktemp("site"), docker_client) as made:
        yield made


class TestFirstSteps:
    def test_a_command_and_its_output(self, site: Site) -> None:
        done = site.run("tes", "run", "--image", IMAGE, "--wait", "--", "echo", "hi")
        assert (done.returncode, done.stdout) == (0, "hi\n"), done.stderr

    def test_a_command_that_fails(self, site: Site) -> None:
        done = site.run("tes", "run", "--image", IMAGE, "--", "sh", "-c", "echo out; echo wrong >&2; exit 3")
        assert (done.returncode, done.stdout) == (3, "out\n")
        assert "wrong\n" in done.stderr
        assert "exit code 3" in done.stderr

    def test_logs_of_what_runs_and_its_cancel(self, site: Site) -> None:
        task = site.server.create(sh("trap '' TERM; echo up; while :; do sleep 0.2; done"), resources=SMALL)
        with subprocess.Popen(
            [BIN / "tes", "logs", "-f", task], env={**os.environ, "TES_URL": site.server.url}, stdout=subprocess.PIPE, text=True
        ) as following:
            assert following.stdout is not None
            assert following.stdout.readline() == "up\n"
            assert site.server.get(task)["state"] == "RUNNING"
            assert site.run("tes", "cancel", task).returncode == 0
            following.wait(60)
        assert site.server.until(task)["state"] == "CANCELED"
        assert not [name for found in site.docker.containers() for name in found["Names"] if task in name], "CANCELED means gone"

    def test_where_a_task_ran(self, site: Site) -> None:
        tasks = {preemptible: site.server.create(sh("true"), resources={**SMALL, "preemptible": preemptible}) for preemptible in (False, True)}
        for preemptible, queue, capacity in ((False, "regular", "on-demand"), (True, "spot", "spot")):
            [log] = site.server.until(tasks[preemptible])["logs"]
            [job] = site.jobs(f"{tasks[preemptible]}-1")
            told = {key: value for key, value in log["metadata"].items() if key in ("job", "queue", "capacity", "log")}
            assert told == {"job": job.id, "queue": queue, "capacity": capacity, "log": job.now["logStreamName"]}, log["metadata"]
            assert job.tags["tes-task"] == tasks[preemptible]

    def test_service_info(self, site: Site) -> None:
        info = site.server.ask("/v1/service-info")[1]
        assert "as AWS Batch jobs" in info["description"]
        assert f"{site.lab.s3.url}/data" in info["storage"]
        assert {"backend", "spot_attempts", "max_runtime"} <= set(info["tesResources_backend_parameters"])


def test_plan_says_where_and_why(site: Site, tmp_path: pathlib.Path) -> None:
    (tmp_path / "task.json").write_text(json.dumps({"executors": [sh("true")], "resources": {"cpu_cores": 500}}))
    here = '[local]\nengine = "sandbox"\ncpus = 2\n'
    flags = aws_site.settings(site.lab, tmp_path / "both.toml", site.files, server="planner", more=here)
    shown = json.loads(site.run(BIN / "tes-server", "plan", "--data", tmp_path / "data", *flags, tmp_path / "task.json").stdout)
    assert (shown["backend"], shown["rule"]) == ("aws_batch", "default: the first backend that can take it, after local")
    flags = aws_site.settings(site.lab, tmp_path / "both.toml", site.files, server="planner", more=here, max_cpus="64")
    done = site.run(BIN / "tes-server", "plan", "--data", tmp_path / "data", *flags, tmp_path / "task.json")
    assert done.returncode != 0
    assert "no backend can take it: local: " in done.stderr
    assert "; aws_batch: " in done.stderr


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
        flags = aws_site.settings(site.lab, tmp_path / "elsewhere.toml", site.files, server="elsewhere", queue='"none-such"')
        said = self.doctor(site, tmp_path, flags)
        assert "no    AWS Batch: there is no job queue none-such in us-east-1" in said.stdout
        assert said.returncode == 1


def test_here_or_there_by_a_rule(site: Site, aws: Lab, docker_client: Any, tmp_path: pathlib.Path, sandbox_works: None) -> None:
    tables = '[local]\nengine = "sandbox"\n[sandbox]\nallow_host = true\n[[routes]]\nbackend = "aws_batch"\ntags = { where = "cloud" }\n'
    with aws_site.serving("both", aws, tmp_path, docker_client, more=tables) as both:
        there = both.server.create(sh("cat /proc/1/comm >/dev/null; echo there"), resources=SMALL, tags={"where": "cloud"})
        here = both.server.create({"image": "host", "command": ["/bin/echo", "here"]}, resources=SMALL)
        for task, output in ((here, "here\n"), (there, "there\n")):
            assert both.server.until(task)["logs"][0]["logs"][0]["stdout"] == output
        assert [job.tags["tes-task"] for job in both.jobs()] == [there]


def test_alignment_with_data_in_a_store_equals_the_same_tools_by_hand(site: Site, tmp_path: pathlib.Path) -> None:
    data = site.run(EXAMPLES / "alignment" / "get-data", tmp_path)
    if data.returncode != 0:
        unreachable("Debian's package bowtie2-examples", data.stderr)
    store = site.lab.s3
    for name in ("lambda.fa", "reads_1.fq.gz", "reads_2.fq.gz"):
        store.put(f"data/lambda/{name}", (tmp_path / name).read_bytes())
    done = site.run(EXAMPLES / "alignment" / "run", f"{store.url}/data/lambda", seconds=180, environment={"TES_IMAGE": "tes-test/genomics"})
    assert done.returncode == 0, done.stderr
    results = store.objects("data/lambda/")
    (tmp_path / "calls.vcf").write_bytes(results["calls.vcf"])
    assert results["aligned.bam"].startswith(b"\x1f\x8b")
    inside = ("docker", "run", "--rm", "-v", f"{tmp_path}:{tmp_path}", "tes-test/genomics")
    same = site.run(EXAMPLES / "alignment" / "by-hand", tmp_path, *inside, seconds=180)
    assert same.stdout.startswith("the same "), same.stdout + same.stderr
    assert int(same.stdout.split()[2]) > 50


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
