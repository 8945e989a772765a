"""Snakemake 7 with --tes: jobs run in Docker with files on the submit host's file system; a rule that fails; Ctrl-C."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.acceptance.server import Server, served
from tests.clients import images, packages

pytestmark = [pytest.mark.clients, pytest.mark.docker]

SNAKEMAKE = ("snakemake==7.32.4", "pulp<2.8", "setuptools<81")

SNAKEFILE = """
rule all:
    input: "result.txt"

rule count:
    input: "{name}.txt"
    output: "{name}.count"
    shell: "wc -w < {input} > {output}"

rule sum:
    input: "a.count", "b.count"
    output: "result.txt"
    shell: "cat {input} | paste -s -d + > {output}"

rule fails:
    input: "a.txt"
    output: "never.txt"
    shell: "echo out of luck >&2; exit 3"

rule sleeps:
    input: "a.txt"
    output: "never.txt"
    shell: "sleep 1000"
"""


class Site:
    """A server, a workflow in its file root, and Snakemake."""

    def __init__(self, server: Server, work: pathlib.Path, bin_: pathlib.Path, image: str) -> None:
        self.server = server
        self.work = work
        self._bin = bin_
        self._image = image

    def snakemake(self, target: str) -> subprocess.Popen[str]:
        home = self.work.parent / "home"
        home.mkdir(exist_ok=True)
        return subprocess.Popen(
            [self._bin / "snakemake", "--tes", self.server.url, "--container-image", self._image, "--jobs", "2", "--nolock", target],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={"PATH": f"{self._bin}:{os.environ['PATH']}", "HOME": str(home)},
            cwd=self.work,
        )


@pytest.fixture
def site(tmp_path: pathlib.Path) -> Iterator[Site]:
    bin_ = packages.environment("snakemake", *SNAKEMAKE, "py-tes==1.1.4")
    image = images.image("snakemake-7", bin_, *SNAKEMAKE)
    work = tmp_path / "flow"
    work.mkdir()
    (work / "Snakefile").write_text(SNAKEFILE)
    (work / "a.txt").write_text("one two three\n")
    (work / "b.txt").write_text("four five\n")
    with served(tmp_path / "data", "--engine", "docker", "--root", str(work)) as server:
        yield Site(server, work, bin_, image)


def test_a_workflow(site: Site) -> None:
    with site.snakemake("all") as snakemake:
        said, _ = snakemake.communicate(timeout=120)
    assert snakemake.returncode == 0, said
    assert (site.work / "result.txt").read_text() == "3+2\n"
    assert sorted(site.server.states().values()) == ["COMPLETE"] * 3


def test_a_rule_that_fails(site: Site) -> None:
    with site.snakemake("fails") as snakemake:
        said, _ = snakemake.communicate(timeout=120)
    assert snakemake.returncode == 1, said
    (task_id,) = site.server.states()
    assert f"[TES] Task errored: {task_id}" in said
    task = site.server.get(task_id)
    assert task["state"] == "EXECUTOR_ERROR"
    # The job's own Snakemake ends with 1 whatever its rule ended with; the rule's words are in its output.
    assert task["logs"][0]["logs"][0]["exit_code"] == 1
    assert "out of luck" in task["logs"][0]["logs"][0]["stderr"]


def test_ctrl_c_cancels(site: Site) -> None:
    with site.snakemake("sleeps") as snakemake:
        while not (states := site.server.states()):
            assert snakemake.poll() is None
            time.sleep(0.1)
        (task_id,) = states
        site.server.until(task_id, "RUNNING")
        snakemake.send_signal(signal.SIGINT)
        said, _ = snakemake.communicate(timeout=60)
    assert snakemake.returncode == 1, said
    assert site.server.until(task_id)["state"] == "CANCELED"
