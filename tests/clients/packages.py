"""Real clients, each in a virtual environment of its own, made once and kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

from tests.integration.conftest import unreachable

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "tes-server-tests"


def environment(name: str, *requirements: str) -> pathlib.Path:
    """The `bin` directory of a virtual environment with these packages; skips where no registry answers."""
    key = hashlib.sha256("\n".join((sys.version, *requirements)).encode()).hexdigest()[:12]
    home = CACHE / f"{name}-{key}"
    done = home / "complete"
    if not done.exists():
        shutil.rmtree(home, ignore_errors=True)
        home.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        _pip(home / "bin", "install", *requirements)
        done.touch()
    return home / "bin"


def wheels(bin_: pathlib.Path, *requirements: str) -> pathlib.Path:
    """A directory with wheels of these packages and all that they need."""
    target = bin_.parent / "wheels"
    if not (target / "complete").exists():
        _pip(bin_, "wheel", "--wheel-dir", str(target), *requirements)
        (target / "complete").touch()
    return target


def _pip(bin_: pathlib.Path, *arguments: str) -> None:
    done = subprocess.run([bin_ / "python", "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        unreachable(f"the package registry ({' '.join(arguments)})", done.stderr[-500:])
