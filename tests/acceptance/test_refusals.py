"""Machines that refuse something: each is told in words that say what to do. In private namespaces, the machine stays as it is."""

from __future__ import annotations

import os
import pathlib
import subprocess

import pytest

from tests.acceptance.server import BIN

pytestmark = [pytest.mark.sandbox, pytest.mark.usefixtures("sandbox_works")]

DEMO = pathlib.Path(__file__).parents[2] / "examples" / "demo.sh"
SANDBOX = ("--engine", "sandbox", "--allow-host")
OURS = () if os.geteuid() == 0 else ("--user", "--map-root-user")


def without_user_namespaces(*command: object) -> subprocess.CompletedProcess[str]:
    """The bound counts within the namespace that it is set in."""
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    return run("unshare", "--user", "--map-root-user" if os.geteuid() == 0 else "--map-current-user", "--keep-caps", "sh", "-c", script, "sh", *command)


def on_a_small_disk(tmp_path: pathlib.Path, before: str, *command: object) -> subprocess.CompletedProcess[str]:
    """With 1 MB at `disk`."""
    (tmp_path / "disk").mkdir()
    script = f'mount -t tmpfs -o size=1m tmpfs disk && mkdir disk/data && {{ {before}; }} && exec "$@"'
    return run("unshare", *OURS, "--mount", "sh", "-c", script, "sh", *command, cwd=tmp_path)


def run(*command: object, cwd: pathlib.Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, timeout=60, env=environment, cwd=cwd)


def test_the_doctor_names_what_allows_user_namespaces(tmp_path: pathlib.Path) -> None:
    done = without_user_namespaces(BIN / "tes-server", "doctor", *SANDBOX, "--data", tmp_path / "data")
    assert done.returncode == 1, done
    [line] = [line for line in done.stdout.splitlines() if line.startswith("no ")]
    assert "sysctl -w user.max_user_namespaces=" in line


def test_the_demo_names_what_allows_user_namespaces() -> None:
    done = without_user_namespaces(DEMO)
    assert done.returncode == 1, done
    assert "The sandbox does not work on this machine" in done.stderr
    assert "sysctl -w user.max_user_namespaces=" in done.stderr


def test_the_doctor_names_every_engine(tmp_path: pathlib.Path) -> None:
    done = run("env", f"XDG_RUNTIME_DIR={tmp_path}", f"DOCKER_HOST=unix://{tmp_path}/none", BIN / "tes-server", "doctor", "--data", tmp_path / "data")
    lines = {line.split()[2].rstrip(":"): line for line in done.stdout.splitlines() if " engine " in line}
    assert set(lines) == {"docker", "podman", "sandbox"}
    assert "docker.url" in lines["docker"]
    assert "podman.socket" in lines["podman"] or lines["podman"].startswith("ok")


@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("reconcile",)], ids=["serve", "reconcile"])
def test_a_read_only_data_directory(tmp_path: pathlib.Path, command: tuple[str, ...]) -> None:
    done = on_a_small_disk(tmp_path, "mount -o remount,bind,ro disk", BIN / "tes-server", *command, *SANDBOX, "--data", "disk/data")
    assert done.returncode == 2, done
    assert done.stderr.splitlines() == [f"tes-server: data: {tmp_path}/disk/data cannot be written to: Read-only file system"]


@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("reconcile",)], ids=["serve", "reconcile"])
def test_a_full_disk_at_the_start(tmp_path: pathlib.Path, command: tuple[str, ...]) -> None:
    fill = "dd if=/dev/zero of=disk/fill bs=4096 2>/dev/null || true"
    done = on_a_small_disk(tmp_path, fill, BIN / "tes-server", *command, *SANDBOX, "--data", "disk/data")
    assert done.returncode == 2, done
    [line] = done.stderr.splitlines()
    assert f"the disk of the data directory {tmp_path}/disk/data is full: 0 MB are free" in line
