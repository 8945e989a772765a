"""What a server leaves on a machine when all its tasks have ended: nothing."""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Callable

from tes_server.runner.sandbox import cgroup_mark
from tests.acceptance.server import Server
from tests.integration.sandbox_case import processes_with

PATIENCE = 300.0
"""Seconds: a hundred thousand files are deleted on a busy machine."""


def until(condition: Callable[[], object], what: str) -> None:
    """Poll."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.1)


def check(server: Server) -> None:
    """No attempts, no processes of tasks, no cgroups; releases and deletions may take a moment."""
    none(server.data)


def none(data: pathlib.Path) -> None:
    """The same by the data directory."""
    until(lambda: not list((data / "attempts").iterdir()), "attempts released")
    until(lambda: not list((data / "trash").iterdir()), "trash emptied")
    sandbox = data / "sandbox"
    until(lambda: not sandbox.exists() or not [entry for entry in sandbox.iterdir() if not entry.name.startswith(".")], "cells removed")
    until(lambda: not processes_with(f"{data}/attempts"), "supervisors ended")
    ours = cgroup_mark(sandbox.resolve())
    until(lambda: not [name for name in cgroups() if name.endswith(f"-{ours}")], "cgroups removed")


def cgroups() -> list[str]:
    """The names of this machine's cgroups for steps. Others come and go meanwhile, which pathlib's glob does not bear."""
    return [name for _, names, _ in os.walk("/sys/fs/cgroup") for name in names if name.startswith("tes-")]
