"""Snakemake 7 with --tes: a two-step workflow whose jobs run in Docker, with files on the submit host's file system."""

from __future__ import annotations

import gc
import os
import pathlib
import subprocess
import textwrap
import warnings

import docker
import docker.errors
import pytest

from tests.acceptance.server import served
from tests.clients import packages
from tests.integration.conftest import unreachable

pytestmark = [pytest.mark.clients, pytest.mark.docker]

SNAKEMAKE = ("snakemake==7.32.4", "pulp<2.8", "setuptools<81")
IMAGE = "tes-test/snakemake:7.32.4"

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
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """tes-test/python with Snakemake, from wheels that this machine fetched: builds have no registry's certificates."""
    why = ""
    with warnings.catch_warnings():
        # A socket that cannot connect is left to the garbage collector by the SDK.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            client = docker.from_env()
            client.images.get("tes-test/python")
        except docker.errors.DockerException as error:
            why = str(error)
        gc.collect()
    if why:
        unreachable("Docker with the image tes-test/python", why)
    try:
        client.images.get(IMAGE)
    except docker.errors.ImageNotFound:
        found = packages.wheels(packages.environment("snakemake", *SNAKEMAKE, "py-tes==1.1.4"), *SNAKEMAKE)
        context = tmp_path_factory.mktemp("image")
        (context / "Dockerfile").write_text(
            textwrap.dedent("""
                FROM tes-test/python
                COPY wheels /wheels
                RUN pip install --break-system-packages --no-index --find-links /wheels snakemake setuptools && rm -rf /wheels
                RUN ln -s /usr/bin/python3 /usr/local/bin/python
            """)
        )
        subprocess.run(["cp", "-r", found, context / "wheels"], check=True)
        client.images.build(path=str(context), tag=IMAGE, rm=True)
    finally:
        client.close()
    return IMAGE


def test_snakemake_7(tmp_path: pathlib.Path, image: str) -> None:
    bin_ = packages.environment("snakemake", *SNAKEMAKE, "py-tes==1.1.4")
    work = tmp_path / "flow"
    work.mkdir()
    (work / "Snakefile").write_text(SNAKEFILE)
    (work / "a.txt").write_text("one two three\n")
    (work / "b.txt").write_text("four five\n")
    home = tmp_path / "home"
    home.mkdir()
    with served(tmp_path / "data", "--engine", "docker", "--root", str(work)) as server:
        done = subprocess.run(
            [bin_ / "snakemake", "--tes", server.url, "--container-image", image, "--jobs", "2", "--directory", work, "--snakefile", work / "Snakefile"],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env={"PATH": f"{bin_}:{os.environ['PATH']}", "HOME": str(home)},
            cwd=work,
        )
        states = server.states()
    assert done.returncode == 0, done.stderr[-3000:]
    assert (work / "result.txt").read_text() == "3+2\n"
    assert sorted(states.values()) == ["COMPLETE"] * 3
