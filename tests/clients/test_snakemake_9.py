"""Snakemake 9 with its TES plugin: files in an S3 store that the jobs reach by themselves, two steps and a rule that fails."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.acceptance.server import served
from tests.clients import images, packages

pytestmark = [pytest.mark.clients, pytest.mark.docker]

SNAKEMAKE = ("snakemake==9.27.1", "snakemake-storage-plugin-s3==0.3.6")
PLUGIN = "snakemake-executor-plugin-tes==0.1.3"

SNAKEFILE = """
rule all:
    input: "result.txt", "never.txt"

rule write:
    output: "words.txt"
    shell: "echo one two three > {output}"

rule count:
    input: "words.txt"
    output: "result.txt"
    shell: "wc -w < {input} > {output}"

rule fails:
    output: "never.txt"
    shell: "echo out of luck >&2; exit 3"
"""

READ = """
import boto3, sys
print(boto3.client("s3", endpoint_url=sys.argv[1]).get_object(Bucket="flow", Key="run/result.txt")["Body"].read().decode(), end="")
"""


@pytest.fixture
def s3() -> Iterator[str]:
    """An S3 server on this machine's loopback; its tasks reach it by the host's network (row 29)."""
    bin_ = packages.environment("moto", "moto[s3,server]==5.2.5")
    with subprocess.Popen([bin_ / "moto_server", "--host", "127.0.0.1", "--port", "0"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            yield next(found[1] for line in server.stderr if (found := re.search(r"Running on (http://\S+)", line)))
        finally:
            server.terminate()


def test_snakemake_9(tmp_path: pathlib.Path, s3: str) -> None:
    bin_ = packages.environment("snakemake-9", *SNAKEMAKE, PLUGIN)
    image = images.image("snakemake-9", bin_, *SNAKEMAKE)
    work = tmp_path / "flow"
    work.mkdir()
    (work / "Snakefile").write_text(SNAKEFILE)
    (work / "funnel.log").write_text("")
    keys = {"SNAKEMAKE_STORAGE_S3_ACCESS_KEY": "key", "SNAKEMAKE_STORAGE_S3_SECRET_KEY": "secret", "SNAKEMAKE_STORAGE_S3_ENDPOINT_URL": s3}
    environment = {
        **keys,
        "PATH": f"{bin_}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        # Where a job fails, plugin 0.1.3 opens a file of its authors' CI before it tells so.
        "GITHUB_WORKSPACE": str(work),
    }
    with served(tmp_path / "data", "--engine", "docker", environment={"TES_SERVER__DOCKER__NETWORK": "host"}) as server:
        subprocess.run(
            [bin_ / "python", "-c", f"import boto3; boto3.client('s3', endpoint_url={s3!r}).create_bucket(Bucket='flow')"], check=True, env=environment
        )
        arguments = ["--executor", "tes", "--tes-url", server.url, "--container-image", image, "--jobs", "3", "--keep-going"]
        arguments += ["--default-storage-provider", "s3", "--default-storage-prefix", "s3://flow/run", "--envvars", *keys]
        arguments += ["--default-resources", "mem_mb=500", "disk_mb=500", "--seconds-between-status-checks", "1"]
        done = subprocess.run(
            [bin_ / "snakemake", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env=environment,
            cwd=work,
        )
        states = server.states()
        tasks = {task_id: server.get(task_id) for task_id in states}
        result = subprocess.run([bin_ / "python", "-c", READ, s3], capture_output=True, text=True, check=False, env=environment)
    assert sorted(states.values()) == ["COMPLETE", "COMPLETE", "EXECUTOR_ERROR"], done.stderr[-3000:]
    assert result.stdout == "3\n", result.stderr
    assert done.returncode == 1
    assert "Error in rule fails" in done.stderr
    (failed,) = (task for task in tasks.values() if task["state"] == "EXECUTOR_ERROR")
    assert "out of luck" in failed["logs"][0]["logs"][0]["stderr"]
