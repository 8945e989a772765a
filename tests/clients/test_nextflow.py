"""Nextflow 24.10 from Maven Central with its TES plugin: files passed between two processes, one that fails, Ctrl-C.

The plugin nf-ga4gh is in no package registry. Where TES_TEST_NEXTFLOW_PLUGINS names a folder that has it unpacked (what
Nextflow itself keeps in `~/.nextflow/plugins`), these tests run; elsewhere they are skipped.
"""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.acceptance.server import Server, served
from tests.clients import packages

PLUGINS = pathlib.Path(os.environ.get("TES_TEST_NEXTFLOW_PLUGINS") or "/nonexistent")
PLUGIN = next((path.name for path in sorted(PLUGINS.glob("nf-ga4gh-*"), reverse=True)), "")

pytestmark = [
    pytest.mark.clients,
    pytest.mark.sandbox,
    pytest.mark.skipif(not PLUGIN, reason="TES_TEST_NEXTFLOW_PLUGINS names no folder with Nextflow's plugin nf-ga4gh"),
]

# What Nextflow's launcher opens to its libraries on Java 17.
OPENED = ("java.lang", "java.io", "java.nio", "java.net", "java.util", "sun.nio.ch", "sun.nio.fs")

WORKFLOW = """
process COUNT {
    input: path text
    output: path '*.count'
    script: "wc -w < $text > ${text.baseName}.count"
}

process SUM {
    input: path counts
    output: path 'sums', type: 'dir'
    script: "mkdir sums && cat $counts | sort | paste -s -d + > sums/all"
}

process FAILS {
    output: stdout
    script: "echo out of luck >&2; exit 3"
}

process SLEEPS {
    output: stdout
    script: "sleep 1000"
}

workflow flow { SUM(COUNT(Channel.fromPath('*.txt')).collect()).view { "result ${it.resolve('all').text}" } }
workflow fails { FAILS() }
workflow sleeps { SLEEPS() }
"""


class Site:
    """A server, a work directory in its file root, and Nextflow."""

    def __init__(self, server: Server, work: pathlib.Path, class_path: str) -> None:
        self.server = server
        self._work = work
        self._class_path = class_path

    def nextflow(self, entry: str) -> subprocess.Popen[str]:
        opened = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPENED]
        launch = ["java", *opened, "-cp", self._class_path, "nextflow.cli.Launcher", "run", "main.nf", "-entry", entry, "-ansi-log", "false"]
        environment = {**os.environ, "NXF_HOME": str(self._work.parent / "home"), "NXF_OFFLINE": "true", "NXF_PLUGINS_DIR": str(PLUGINS)}
        return subprocess.Popen(launch, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=self._work)


@pytest.fixture
def site(tmp_path: pathlib.Path, sandbox_works: None) -> Iterator[Site]:
    class_path = packages.jars("nextflow", "io.nextflow:nextflow:24.10.0")
    work = tmp_path / "flow"
    work.mkdir()
    with served(tmp_path / "data", "--engine", "sandbox", "--allow-host", "--root", str(work)) as server:
        plugin = PLUGIN.replace("nf-ga4gh-", "nf-ga4gh@")
        (work / "nextflow.config").write_text(
            f"plugins {{ id '{plugin}' }}\nprocess.executor = 'tes'\nprocess.container = 'host'\ntes.endpoint = '{server.url}'\n"
        )
        (work / "main.nf").write_text(WORKFLOW)
        (work / "a.txt").write_text("one two three\n")
        (work / "b.txt").write_text("four five\n")
        yield Site(server, work, class_path)


def test_a_workflow(site: Site) -> None:
    with site.nextflow("flow") as nextflow:
        said, _ = nextflow.communicate(timeout=120)
    assert nextflow.returncode == 0, said
    assert "result 2+3" in said
    assert sorted(site.server.states().values()) == ["COMPLETE"] * 3


def test_a_process_that_fails(site: Site) -> None:
    with site.nextflow("fails") as nextflow:
        said, _ = nextflow.communicate(timeout=120)
    assert nextflow.returncode == 1, said
    assert "terminated with an error exit status (3)" in said
    assert "out of luck" in said


def test_ctrl_c_cancels(site: Site) -> None:
    with site.nextflow("sleeps") as nextflow:
        while not (states := site.server.states()):
            assert nextflow.poll() is None
            time.sleep(0.1)
        (task_id,) = states
        site.server.until(task_id, "RUNNING")
        nextflow.send_signal(signal.SIGINT)
        said, _ = nextflow.communicate(timeout=60)
    assert nextflow.returncode != 0, said
    assert site.server.until(task_id)["state"] == "CANCELED"
