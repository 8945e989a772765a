"""tes-step as it is shipped, for arm64 under qemu, and with gcc's sanitizers, which end it with a signal or 66 at the first fault."""

from __future__ import annotations

import pathlib
import shutil
import subprocess

import pytest

from tes_server import step
from tests.unit.step.running import Run

SOURCES = pathlib.Path(step.__file__).parent
WARNINGS = ("-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wvla", "-Werror")
SANITIZER = {"ASAN_OPTIONS": "exitcode=66", "UBSAN_OPTIONS": "halt_on_error=1:exitcode=66"}


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc")
    binary = tmp_path_factory.mktemp("step") / "tes-step"
    flags = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    done = subprocess.run([compiler, *WARNINGS, *flags, "-o", binary, *sorted(SOURCES.glob("*.c"))], check=False, capture_output=True, text=True)
    if "cannot find -lasan" in done.stderr or "cannot find -lubsan" in done.stderr:
        pytest.skip("gcc without its sanitizers")
    assert done.returncode == 0, done.stderr
    return binary


@pytest.fixture(scope="session")
def arm64(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if emulator is None:
        pytest.skip("no qemu-aarch64 (Debian: qemu-user-static)")
    wrapper = tmp_path_factory.mktemp("step") / "tes-step"
    wrapper.write_text(f'#!/bin/sh\nexec {emulator} {SOURCES}/bin/tes-step-aarch64 "$@"\n')
    wrapper.chmod(0o755)
    return wrapper


@pytest.fixture(params=["static", "arm64", "sanitized"])
def binary(request: pytest.FixtureRequest) -> pathlib.Path:
    if request.param == "static":
        return step.path()
    found: pathlib.Path = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def record(tmp_path: pathlib.Path) -> pathlib.Path:
    directory = tmp_path / "record"
    directory.mkdir()
    return directory


@pytest.fixture
def run(binary: pathlib.Path, tmp_path: pathlib.Path) -> Run:
    """Run tes-step to its end, in `tmp_path`."""

    def run(*arguments: object, **other: object) -> subprocess.CompletedProcess[bytes]:
        options = {"cwd": tmp_path, "capture_output": True, "timeout": 60, "env": {"PATH": "/usr/bin:/bin", **SANITIZER}, **other}
        done: subprocess.CompletedProcess[bytes] = subprocess.run([binary, *map(str, arguments)], check=False, **options)  # type: ignore[call-overload]
        assert done.returncode >= 0, done
        assert done.returncode != 66, done
        return done

    return run
