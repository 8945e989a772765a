"""Compiles tes-step, the static helper of the runner, for x86-64 and arm64. Run by hatchling, or `python hatch_build.py`.

The compiler is the `ziglang` wheel, so that Python alone builds it on any machine. The same source and compiler give the
same bytes. It must never need the network or anything of the machine's own C library.
"""

from __future__ import annotations

import hashlib
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

STEP = pathlib.Path("tes_server") / "step"
ARCHITECTURES = ("x86_64", "aarch64")
FLAGS = ("-std=c11", "-static", "-Os", "-s", "-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wvla", "-Werror", "-D_GNU_SOURCE")


def build(root: pathlib.Path) -> list[pathlib.Path]:
    """Make `tes_server/step/bin/tes-step-*` below `root` where they are missing or older than their source; their paths."""
    directory = root / STEP / "bin"
    directory.mkdir(exist_ok=True)
    sources = sorted((root / STEP).glob("*.c"))
    stamp = directory / "sources.sha256"
    digest = _digest([*sources, *sorted((root / STEP).glob("*.h"))])
    binaries = [directory / f"tes-step-{architecture}" for architecture in ARCHITECTURES]
    if not (stamp.is_file() and stamp.read_text() == digest and all(binary.is_file() for binary in binaries)):
        for architecture, binary in zip(ARCHITECTURES, binaries, strict=True):
            _compile(root / STEP, [source.name for source in sources], architecture, binary)
        stamp.write_text(digest)
    return binaries


def _digest(files: list[pathlib.Path]) -> str:
    total = hashlib.sha256(" ".join(FLAGS).encode())
    for file in files:
        total.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return total.hexdigest()


def _compile(directory: pathlib.Path, sources: list[str], architecture: str, binary: pathlib.Path) -> None:
    """By way of a temporary name, so that a build cut short leaves no half of a program, nor disturbs one that runs."""
    with tempfile.TemporaryDirectory(dir=binary.parent) as scratch:
        made = pathlib.Path(scratch) / binary.name
        command = [sys.executable, "-m", "ziglang", "cc", "-target", f"{architecture}-linux-musl", *FLAGS, "-o", str(made), *sources]
        subprocess.run(command, cwd=directory, check=True)  # relative names: the path of the checkout must not reach the bytes
        made.chmod(0o755)
        made.replace(binary)


class StepBuildHook(BuildHookInterface[Any]):
    """Builds before every wheel, editable ones included."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 the hook's signature
        if self.target_name == "wheel":
            build(pathlib.Path(self.root))


if __name__ == "__main__":
    for path in build(pathlib.Path(__file__).parent.absolute()):
        print(path)
