"""A replay of Nextflow's TES executor (nf-ga4gh) with its work directory named by a plain path (clients.md section 2, rows 20-22, 24, 33, 34).

Nothing that is sent or read depends on what stands for the path. Nextflow finds a task's files below its work directory and
hands their paths to the next task.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from typing import Any

import pytest

from tests.clients.engines import Installation, ask, decode

PATIENCE = 120.0
ENDS = {"COMPLETE", "EXECUTOR_ERROR", "SYSTEM_ERROR", "CANCELED"}

RUNNER = """#!/bin/bash
# Ends with the exit code of the user's script, which it leaves behind as well, after both copies of what it said are written.
on_exit() { code=$?; wait $out $err; printf '%s' $code > /work/.exitcode; exit $code; }
trap on_exit EXIT
cd /work
mkdir -p /tmp/nxf.scratch
mkfifo /tmp/nxf.scratch/out /tmp/nxf.scratch/err
tee .command.out < /tmp/nxf.scratch/out & out=$!
tee .command.err < /tmp/nxf.scratch/err >&2 & err=$!
bash -ue /work/.command.sh > /tmp/nxf.scratch/out 2> /tmp/nxf.scratch/err
"""


@dataclasses.dataclass
class ExecutorLog:
    exit_code: int | None
    stdout: str | None


@dataclasses.dataclass
class TaskLog:
    logs: list[ExecutorLog]
    system_logs: list[str] | None


@dataclasses.dataclass
class Task:
    id: str
    state: str
    logs: list[TaskLog] | None


class Process:
    """One task of a run: `inputs` are paths of the work directory by the name they get, `outputs` what the process declares."""

    def __init__(self, site: Installation, script: str, inputs: dict[str, str], outputs: tuple[str, ...]) -> None:
        self.site = site
        self.home = f"{site.top}/{uuid.uuid4().hex[:2]}/{uuid.uuid4().hex}"
        self.inputs = inputs
        self.outputs = outputs
        site.share.write(f"{self.home}/.command.sh", script.encode())
        site.share.write(f"{self.home}/.command.run", RUNNER.encode())

    def body(self, kinds: dict[str, str]) -> dict[str, Any]:
        inputs = [{"path": f"/work/{name}", "url": f"{self.home}/{name}"} for name in (".command.sh", ".command.run")]
        inputs += [{"path": f"/work/{name}", "url": path, "type": kinds.get(name, "FILE")} for name, path in self.inputs.items()]
        outputs = [{"path": f"/work/{name}", "url": f"{self.home}/{name}"} for name in (".command.out", ".command.err", ".command.trace", ".exitcode")]
        for name in self.outputs:
            if "*" in name or "?" in name:
                outputs.append({"path": f"/work/{name}", "path_prefix": "/work", "url": self.home})
            else:
                outputs.append({"path": f"/work/{name}", "url": f"{self.home}/{name}"})
        return {
            "name": "replay",
            "inputs": inputs,
            "outputs": outputs,
            "executors": [{"image": self.site.image, "command": ["/bin/bash", ".command.run"], "workdir": "/work"}],
            "resources": {"cpu_cores": 1, "ram_gb": 0.2, "disk_gb": 0.1},
            "volumes": ["/tmp"],
        }

    def run(self, kinds: dict[str, str] | None = None) -> tuple[str, int]:
        """Submit and poll without a view; then what it reads for the exit code."""
        endpoint = f"{self.site.server.url}/v1/tasks"
        task_id = ask(endpoint, self.body(kinds or {}))["id"]
        deadline = time.monotonic() + PATIENCE
        while (state := ask(f"{endpoint}/{task_id}")["state"]) not in ENDS:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        task = decode(Task, ask(f"{endpoint}/{task_id}?view=FULL"))
        assert task.state == state
        if state != "EXECUTOR_ERROR":
            assert state == "COMPLETE", task
            return state, 0
        assert task.logs is not None
        code = task.logs[0].logs[0].exit_code
        assert code is not None
        return state, code

    def text(self, name: str) -> str:
        return self.site.share.text(f"{self.home}/{name}")


@pytest.mark.sandbox
def test_a_run_of_two_processes(site: Installation) -> None:
    first = Process(
        site,
        "mkdir -p results/deep results/none; echo a > results/a.txt; echo b > results/deep/b.txt; : > results/empty; ln -s a.txt results/link\n"
        "for n in 1 2; do echo $n > part$n.txt; done; mkdir parts; echo x > parts/x.bam; echo y > y.bam; echo told; echo warned >&2\n",
        {},
        ("results", "part?.txt", "**.bam", "optional.txt", "none-*.txt"),
    )
    assert first.run() == ("COMPLETE", 0)
    assert (first.text(".exitcode"), first.text(".command.out"), first.text(".command.err")) == ("0", "told\n", "warned\n")
    assert site.share.names(first.home) == {
        ".command.sh", ".command.run", ".command.out", ".command.err", ".exitcode", "part1.txt", "part2.txt", "y.bam", "parts/x.bam",
        "results/a.txt", "results/deep/b.txt", "results/empty", "results/link",
    }  # fmt: skip
    assert first.text("results/link") == "a\n"

    second = Process(
        site,
        "cat 'in dir'/a.txt 'in dir'/deep/b.txt 'in dir'/link part1.txt part2.txt; test -e 'in dir/empty' && test ! -s 'in dir/empty'\n",
        {"in dir": f"{first.home}/results", "part1.txt": f"{first.home}/part1.txt", "part2.txt": f"{first.home}/part2.txt"},
        (),
    )
    assert second.run({"in dir": "DIRECTORY"}) == ("COMPLETE", 0)
    assert second.text(".command.out") == "a\nb\na\n1\n2\n"


@pytest.mark.sandbox
def test_a_directory_that_is_named_as_a_file(site: Installation) -> None:
    source = Process(site, "mkdir d; echo x > d/x\n", {}, ("d",))
    assert source.run() == ("COMPLETE", 0)
    taker = Process(site, "cat d/x\n", {"d": f"{source.home}/d"}, ())
    assert taker.run() == ("COMPLETE", 0)
    assert taker.text(".command.out") == "x\n"


@pytest.mark.sandbox
def test_a_process_that_fails_leaves_its_outputs_and_its_exit_code(site: Installation) -> None:
    failing = Process(site, "echo half > half.txt; echo why >&2; exit 13\n", {}, ("half.txt",))
    assert failing.run() == ("EXECUTOR_ERROR", 13)
    assert (failing.text(".exitcode"), failing.text("half.txt"), failing.text(".command.err")) == ("13", "half\n", "why\n")


@pytest.mark.sandbox
def test_the_same_process_again_over_what_it_left(site: Installation) -> None:
    """A run that is resumed writes into a directory that may hold files already."""
    process = Process(site, "echo one > x; mkdir d; echo one > d/x; echo keep > d/keep\n", {}, ("x", "d"))
    assert process.run() == ("COMPLETE", 0)
    site.share.write(f"{process.home}/.command.sh", b"echo longer than before > x; mkdir d; echo two > d/x\n")
    assert process.run() == ("COMPLETE", 0)
    assert (process.text("x"), process.text("d/x"), process.text("d/keep")) == ("longer than before\n", "two\n", "keep\n")
