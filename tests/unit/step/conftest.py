"""tes-step as it is shipped, and once more with gcc's sanitizers, which end it with a signal or 66 at the first fault."""

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


@pytest.fixture(params=["static", "sanitized"])
def binary(request: pytest.FixtureRequest) -> pathlib.Path:
    if request.param == "static":
        return step.path()
    found: pathlib.Path = request.getfixturevalue("sanitized")
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
