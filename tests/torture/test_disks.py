"""Disks that are full, or that turn read-only: what was accepted is not lost, and the server goes on when there is room again."""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.acceptance.server import BIN, Server, served
from tests.contract.engine_contract import until
from tests.integration.sandbox_case import processes_with
from tests.torture import leftovers
from tests.torture.conftest import Tell
from tests.torture.crowd import SMALL

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.usefixtures("sandbox_works"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk"),
]

RETRIES = {
    "TES_SERVER__RETRIES__BACKEND": "1000",
    "TES_SERVER__RETRIES__STAGING": "2",
    "TES_SERVER__RETRIES__LOST": "1000",
    "TES_SERVER__RETRIES__FIRST_DELAY": "0.2",
    "TES_SERVER__RETRIES__LONGEST_DELAY": "1",
}

LARGE = {**SMALL, "ram_gb": 1}
"""The disk is memory, and what a task writes there is counted as its own."""


@contextlib.contextmanager
def small_disk(at: pathlib.Path, megabytes: int) -> Iterator[pathlib.Path]:
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tes-torture", at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", at], check=True)


@contextlib.contextmanager
def serving(data: pathlib.Path, root: pathlib.Path) -> Iterator[Server]:
    root.mkdir(exist_ok=True)
    with served(data, "--engine", "sandbox", "--allow-host", "--root", str(root), environment=RETRIES) as server:
        yield server


def sh(script: str, **fields: object) -> dict[str, object]:
    return {"image": "host", "command": ["/bin/sh", "-c", script], **fields}


def fill(disk: pathlib.Path) -> pathlib.Path:
    """To the last byte."""
    path = disk / "fill"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 12))
    return path


def test_the_disk_of_the_data_directory_fills_under_way(tmp_path: pathlib.Path, seconds: float, tell: Tell) -> None:
    """Creates are refused with words while it is full; every task that was accepted before, or then, ends well afterwards."""
    with small_disk(tmp_path / "disk", 400) as disk, serving(disk / "data", tmp_path / "files") as server:
        ids = [server.create(sh("sleep 1; echo fine"), resources=SMALL) for _ in range(40)]
        server.until(ids[0], "RUNNING", "COMPLETE")
        end = time.monotonic() + min(seconds, 30) / 3
        refused = 0
        while time.monotonic() < end:
            fill(disk)
            status, answer = server.ask_again("/v1/tasks", {"executors": [sh("echo late")], "resources": SMALL})
            assert status in {200, 500, 503, 507}, answer
            if status == 200:
                ids.append(answer["id"])
            else:
                refused += 1
                assert answer["detail"], answer
        assert refused
        assert server.ask("/healthz")[0] == 200
        (disk / "fill").unlink()
        assert server.until_all(ids, 120) == {"COMPLETE": len(ids)}, server.log.read_text()[-3000:]
        leftovers.check(server)
        tell(tasks=len(ids), refused=refused)


def test_outputs_onto_a_full_disk(tmp_path: pathlib.Path, tell: Tell) -> None:
    with small_disk(tmp_path / "files", 10) as files, serving(tmp_path / "data", files) as server:
        big = sh("head -c 20000000 /dev/zero > /work/big", workdir="/work")
        outputs = [{"path": "/work/big", "url": f"{files}/big"}]
        task = server.until(server.create(big, outputs=outputs, resources={**SMALL, "disk_gb": 0.1}))
        assert task["state"] == "SYSTEM_ERROR", task
        assert any(line.startswith("DISK_FULL") for line in task["logs"][0]["system_logs"]), task["logs"][0]["system_logs"]
        assert list(files.iterdir()) == [], "a part of an output was left"
        small = server.create(sh("echo fine > /work/small"), outputs=[{"path": "/work/small", "url": f"{files}/small"}], resources=SMALL)
        assert server.until(small)["state"] == "COMPLETE"
        leftovers.check(server)
        tell(words=task["logs"][0]["system_logs"])


def test_a_task_that_fills_tmp(tmp_path: pathlib.Path, tell: Tell) -> None:
    """Its /tmp is on the disk of the data directory. It fails by itself, gives the room back, and the next task runs."""
    with small_disk(tmp_path / "disk", 400) as disk, serving(disk / "data", tmp_path / "files") as server:
        neighbour = server.create(sh("sleep 3; echo fine"), resources=SMALL)
        server.until(neighbour, "RUNNING")
        task = server.until(server.create(sh("cat /dev/zero > /tmp/fill"), resources=LARGE), patience=120)
        assert task["state"] == "EXECUTOR_ERROR", task
        assert "No space left" in task["logs"][0]["logs"][0]["stderr"], task["logs"][0]["logs"]
        assert server.until(neighbour)["state"] == "COMPLETE"
        until(lambda: subprocess.check_output(["df", "--output=pcent", disk], text=True).split()[1].rstrip("%") < "20", "room given back")
        assert server.until(server.create(sh("echo after > /tmp/x"), resources=SMALL))["state"] == "COMPLETE"
        leftovers.check(server)
        tell(system_logs=task["logs"][0].get("system_logs"))


def test_a_data_directory_that_turns_read_only(tmp_path: pathlib.Path, tell: Tell) -> None:
    """As a kernel does after a fault of the disk. The server says so and does not start; made writable again, it goes on with what waited."""
    with small_disk(tmp_path / "disk", 400) as disk, serving(disk / "data", tmp_path / "files") as server:
        ids = [server.create(sh("sleep 0.2; echo fine"), resources={"cpu_cores": 1, "ram_gb": 0.05}) for _ in range(30)]
        server.stop()
        until(lambda: not processes_with(f"{disk}/data/attempts"), "what ran has ended")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        command: list[str | pathlib.Path] = [BIN / "tes-server", "serve", "--port", "0", "--data", disk / "data", "--engine", "sandbox", "--allow-host"]
        refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert refused.returncode == 2, refused
        assert refused.stderr.splitlines() == [f"tes-server: data: {disk}/data cannot be written to: Read-only file system"]
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        server.start()
        assert server.until_all(ids, 120) == {"COMPLETE": len(ids)}
        leftovers.check(server)
        tell(tasks=len(ids))
