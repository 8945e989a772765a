"""tes-step, the supervisor of one command: a small static C program (its manual is the head of main.c).

This package only says where the binary is; `runner` starts it. It must never fall back on a shell or on Python.
"""

from __future__ import annotations

import pathlib
import platform

from tes_server import errors
from tes_server.telemetry import Code

_ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


def path(machine: str = "") -> pathlib.Path:
    """The binary for `machine` (as `uname -m` has it; empty = this one). `errors.EngineError` says how to get it where it is missing."""
    machine = machine or platform.machine()
    architecture = _ARCHITECTURES.get(machine.lower())
    if architecture is None:
        raise errors.EngineError(f"tes-step is made for x86-64 and arm64, not for {machine}: tasks cannot run on this machine", Code.ENGINE_ERROR)
    binary = pathlib.Path(__file__).parent / "bin" / f"tes-step-{architecture}"
    if not binary.is_file():
        raise errors.EngineError(
            f"{binary.name} is missing from this installation: install a wheel of tes-server, or run `python hatch_build.py` in its source", Code.ENGINE_ERROR
        )
    return binary
