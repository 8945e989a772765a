"""Tasks that do too much of one thing: each ends as it should, within its bounds, and does its neighbours no harm."""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Iterator

import pytest

from tests.acceptance.server import Server, served
from tests.integration.sandbox_case import processes_with
from tests.torture import leftovers
from tests.torture.conftest import Tell
from tests.torture.crowd import SMALL

pytestmark = [pytest.mark.sandbox, pytest.mark.usefixtures("sandbox_works")]

PROCESSES = 200
MEMORY = 500_000_000
"""Bytes that a process of the server may ever have held: what a task writes or makes must not go through its memory."""


@pytest.fixture
def server(tmp_path: pathlib.Path) -> Iterator[Server]:
    (tmp_path / "files").mkdir()
    settings = {"TES_SERVER__SANDBOX__PROCESSES": str(PROCESSES)}
    with served(tmp_path / "data", "--engine", "sandbox", "--allow-host", "--root", str(tmp_path / "files"), environment=settings) as server:
        yield server
        leftovers.check(server)


def sh(script: str, **fields: object) -> dict[str, object]:
    return {"image": "host", "command": ["/bin/sh", "-c", script], **fields}


def peak(server: Server) -> int:
    """The most bytes that one of its processes ever held."""
    found = []
    for part in ("api", "reconciler"):
        status = pathlib.Path(f"/proc/{server.part(part)}/status").read_text()
        found.append(int(status.partition("VmHWM:")[2].split()[0]) * 1024)
    return max(found)


def test_two_gigabytes_of_stdout(server: Server, share: float, tell: Tell) -> None:
    size = int(2_000_000_000 * share)
    began = time.monotonic()
    task = server.until(server.create(sh(f"printf START; yes | head -c {size}; printf END"), resources=SMALL), patience=600)
    assert task["state"] == "COMPLETE", task
    out = task["logs"][0]["logs"][0]["stdout"]
    assert out.startswith("STARTy\n")
    assert out.endswith("END")
    assert f"{size + len('STARTEND') - 2 * 10240} bytes left out" in out
    assert peak(server) < MEMORY
    tell(bytes=size, seconds=round(time.monotonic() - began, 1), server_bytes=peak(server))


def test_two_gigabytes_of_stdout_into_a_file_that_is_an_output(server: Server, tmp_path: pathlib.Path, share: float, tell: Tell) -> None:
    size = int(2_000_000_000 * share)
    began = time.monotonic()
    task_id = server.create(
        sh(f"yes | head -c {size}", stdout="/work/out"), outputs=[{"path": "/work/out", "url": f"{tmp_path}/files/out"}], resources={**SMALL, "disk_gb": 5}
    )
    task = server.until(task_id, patience=600)
    assert task["state"] == "COMPLETE", task
    assert (tmp_path / "files" / "out").stat().st_size == size
    assert task["logs"][0]["outputs"][0]["size_bytes"] == str(size)
    assert peak(server) < MEMORY
    tell(bytes=size, seconds=round(time.monotonic() - began, 1), server_bytes=peak(server))


def test_a_hundred_thousand_output_files(server: Server, tmp_path: pathlib.Path, share: float, tell: Tell) -> None:
    count = int(100_000 * share)
    began = time.monotonic()
    task_id = server.create(
        sh(f"mkdir /work/out; cd /work/out; seq {count} | split -l 1 -a 6 -d - f"),
        outputs=[{"path": "/work/out", "url": f"{tmp_path}/files/out", "type": "DIRECTORY"}],
        resources={**SMALL, "ram_gb": 0.5},
    )
    task = server.until(task_id, patience=900)
    assert task["state"] == "COMPLETE", task["logs"][0].get("system_logs")
    taken = round(time.monotonic() - began, 1)
    written = {entry.name for entry in os.scandir(tmp_path / "files" / "out")}
    assert len(written) == count
    assert (tmp_path / "files" / "out" / f"f{count - 1:06}").read_text() == f"{count}\n"
    asked = time.monotonic()
    told = len(server.get(task_id)["logs"][0]["outputs"])
    asked = round(time.monotonic() - asked, 1)
    assert told == count or any("outputs" in line for line in task["logs"][0]["system_logs"])
    assert peak(server) < 2 * MEMORY
    tell(files=count, seconds=taken, told=told, full_view_seconds=asked, server_bytes=peak(server))


def test_a_fork_bomb_within_its_limits(server: Server, tell: Tell) -> None:
    mark = f"tes-bomb-{os.getpid()}"
    bomb = server.create(sh(f"bomb() {{ : {mark}; bomb | bomb & bomb; }}; bomb; sleep 1000"), resources=SMALL)
    server.until(bomb, "RUNNING", "EXECUTOR_ERROR")
    most = 0
    for _ in range(10):
        neighbour = server.until(server.create(sh("echo fine"), resources=SMALL))
        assert neighbour["state"] == "COMPLETE", neighbour
        most = max(most, len(processes_with(mark)))
    assert most <= PROCESSES
    assert server.ask(f"/v1/tasks/{bomb}:cancel", b"")[0] == 200
    assert server.until(bomb)["state"] in {"CANCELED", "EXECUTOR_ERROR"}
    assert not processes_with(mark)
    tell(processes=most, limit=PROCESSES, neighbours=10)
