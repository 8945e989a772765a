"""The program that a launch template or a start task starts on each host beside the runners: here once, as all hosts share one daemon and one directory."""

from __future__ import annotations

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


class Reaper:
    """`directory`: the hosts' directory of attempts; empty = there is none."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self._directory:
            command = [sys.executable, "-m", "tes_server.runner.node_reaper", self._directory]
            self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL)

    def close(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
