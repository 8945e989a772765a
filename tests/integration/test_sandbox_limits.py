"""Memory and processes of a cell where no cgroup holds them: what tes-step and the kernel's own limits do."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import pytest

from tes_server.plan.steps import Limits
from tes_server.runner import records
from tes_server.runner.engine import Cell, CellState
from tes_server.runner.sandbox import SandboxEngine
from tests.contract.engine_contract import Lab, until
from tests.integration.sandbox_case import SandboxCase, marks, processes_with

pytestmark = marks

SMALL = Limits(cpus=1, ram_bytes=64 << 20)

# Forks children that each do WORK and wait; ends when one of them does.
FORKS = """
import os, signal, sys
held = bytearray(b"x") * 40_000_000
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        own = bytearray(b"x") * int(sys.argv[2])
        print(sum(held[::4096]) + sum(own[::4096]), flush=True)
        signal.pause()
print("parent", flush=True)
pid, status = os.wait()
sys.exit(os.waitstatus_to_exitcode(status) + 100)
"""


class TestWithoutCgroups(SandboxCase):
    @pytest.fixture
    def engine(self, data: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SandboxEngine]:
        monkeypatch.setattr("tes_server.runner.cgroups.find", lambda: None)
        made = SandboxEngine(data=data, allow_host=True, network=False, processes=60)
        yield made
        assert made.survey() == []

    def test_says_so(self, engine: SandboxEngine) -> None:
        assert "no cgroup" in engine.limits

    def test_one_process(self, lab: Lab) -> None:
        ended = lab.run(lab.cell("tail", "-n", "1", "/dev/zero", limits=SMALL))
        assert (ended.code, ended.signal, ended.oom) == (137, 9, True)

    def test_processes_together(self, lab: Lab) -> None:
        """None of them is above the limit by itself; one is killed, as the kernel would, and the command decides what follows."""
        ended = lab.run(lab.cell("python3", "-c", FORKS, "4", "15000000", limits=SMALL))
        assert (ended.code, ended.oom) == (100 - 9, True)

    def test_what_is_shared_counts_once(self, lab: Lab) -> None:
        """Children that only look at what their parent holds: far above the limit by their resident sizes."""
        cell = lab.cell("python3", "-c", FORKS, "4", "0", limits=SMALL)
        lab.engine.start(cell)
        until(lambda: lab.engine.streams(cell)[0].count("\n") == 5, "all children have looked")
        before = wake_ups(cell)
        until(lambda: wake_ups(cell) > before + 3, "tes-step has counted")
        assert lab.engine.state(cell) is CellState.RUNNING
        lab.engine.stop(cell, 0)
        ended = lab.engine.wait(cell)
        assert ended is not None
        assert not ended.oom

    def test_a_fork_bomb_ends_with_its_task(self, lab: Lab) -> None:
        """The first fork that fails is told to the shell, which ends; what it left ends with it."""
        mark = f"tes-bomb-{os.getpid()}"
        cell = lab.sh(f"bomb() {{ : {mark}; bomb | bomb & bomb; }}; bomb")
        lab.engine.start(cell)
        until(lambda: "fork" in lab.engine.streams(cell)[1].lower(), "the kernel refuses a process")
        assert len(processes_with(mark)) <= 60
        lab.engine.stop(cell, 0)
        assert lab.engine.wait(cell) is not None
        until(lambda: not processes_with(mark), "all end")


def wake_ups(cell: Cell) -> int:
    """How often the tes-step inside has slept and woken: it is the grandchild of the supervisor."""
    begun = records.start(cell.record)
    assert begun is not None
    pid = begun.pid
    for _ in range(2):
        pid = int(pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
