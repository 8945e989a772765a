"""The machine's clock jumps while tasks wait and run: a day forwards, over a year back, and to where it was."""

from __future__ import annotations

import pathlib
import subprocess
import time

import pytest

from tests.acceptance.server import Server, served
from tests.torture import leftovers
from tests.torture.conftest import Tell
from tests.torture.crowd import SMALL

SOURCE = pathlib.Path(__file__).parent / "jumping_clock.c"
DAY = 86_400
JUMPS = (DAY, -400 * DAY, -3600, 3650 * DAY, 0)
"""Seconds off the right time."""


def sh(script: str) -> dict[str, object]:
    return {"image": "host", "command": ["/bin/sh", "-c", script]}


def jump(clock: pathlib.Path, offset: int) -> None:
    new = clock.with_suffix(".new")
    new.write_text(str(offset))
    new.replace(clock)


@pytest.mark.sandbox
@pytest.mark.usefixtures("sandbox_works")
def test_tasks_do_not_notice(tmp_path: pathlib.Path, tell: Tell) -> None:
    """Waiting, running, with a time limit, new, and after a restart: none waits for the clock, none is stopped by it."""
    library, clock = tmp_path / "jumping_clock.so", tmp_path / "clock"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE], check=True)
    jump(clock, 0)
    fake = {"LD_PRELOAD": str(library), "JUMPING_CLOCK": str(clock), "TES_SERVER__CONTROL__INTERVAL": "2"}
    with served(tmp_path / "data", "--engine", "sandbox", "--allow-host", environment=fake) as server:
        gates = [bounded(server) for _ in range(3)]
        server.until(gates[0], "RUNNING")
        slowest = 0.0
        ids = list(gates)
        for number, offset in enumerate(JUMPS):
            waiting = [server.create(sh("sleep 0.3"), resources={"cpu_cores": 0.5, "ram_gb": 0.05}) for _ in range(8)]
            jump(clock, offset)
            if number == 2:
                assert server.stop() == 0
                server.start()
            began = time.monotonic()
            new = [server.create(sh("echo fine"), resources=SMALL) for _ in range(8)]
            assert server.until_all([*waiting, *new], 60) == {"COMPLETE": 16}
            slowest = max(slowest, time.monotonic() - began)
            ids += [*waiting, *new]
        for gate in gates:
            assert server.ask(f"/v1/tasks/{gate}:cancel", b"")[0] == 200
        states = server.until_all(ids, 60)
        assert states == {"COMPLETE": 16 * len(JUMPS), "CANCELED": len(gates)}
        leftovers.check(server)
        tell(jumps=len(JUMPS), tasks=len(ids), slowest_round_seconds=round(slowest, 1))


def bounded(server: Server) -> str:
    """A task that runs until it is canceled, with a time limit far above what the test takes."""
    return server.create(sh("sleep 3000"), resources={**SMALL, "backend_parameters": {"max_runtime": "50m"}})
