"""Control groups as files: both versions' layouts in directories of our own, and the kernel's where it lets us."""

from __future__ import annotations

import pathlib
import subprocess

import pytest

from tes_server import errors
from tes_server.plan.steps import Limits
from tes_server.runner import cgroups

LIMITS = Limits(cpus=1.5, ram_bytes=64 << 20)


def test_version_1_has_a_group_for_each_controller(tmp_path: pathlib.Path) -> None:
    bases = {name: tmp_path / name for name in ("memory", "cpu", "pids")}
    for base in bases.values():
        base.mkdir()
    (bases["memory"] / "cell").mkdir()
    (bases["memory"] / "cell/memory.memsw.limit_in_bytes").touch()
    groups = cgroups.Groups(1, bases)
    for _ in range(2):
        assert groups.make("cell", LIMITS, 100) == [base / "cell" for base in bases.values()]
    written = {path.name: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {
        "memory.limit_in_bytes": "67108864",
        "memory.memsw.limit_in_bytes": "67108864",
        "cpu.cfs_quota_us": "150000",
        "pids.max": "100",
    }


def test_version_2_has_one_group(tmp_path: pathlib.Path) -> None:
    groups = cgroups.Groups(2, dict.fromkeys(("memory", "cpu", "pids"), tmp_path))
    assert groups.make("cell", LIMITS, 100) == [tmp_path / "cell"]
    written = {path.name: path.read_text() for path in (tmp_path / "cell").iterdir()}
    assert written == {"memory.max": "67108864", "cpu.max": "150000 100000", "pids.max": "100"}
    assert groups.words == "memory, cores, processes limited by cgroups v2"


def test_what_is_not_limited_is_not_written(tmp_path: pathlib.Path) -> None:
    cgroups.Groups(2, dict.fromkeys(("memory", "cpu", "pids"), tmp_path)).make("cell", Limits(cpus=0, ram_bytes=0), 100)
    assert [path.name for path in (tmp_path / "cell").iterdir()] == ["pids.max"]


def test_a_refusal_is_an_engine_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.EngineError, match="a cgroup cannot be made: No such file"):
        cgroups.Groups(2, {"memory": tmp_path / "missing"}).make("cell", LIMITS, 100)


@pytest.mark.parametrize(
    ("file", "text", "killed"),
    [
        ("memory.events", "low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\noom_group_kill 0\n", True),
        ("memory.events", "low 0\nmax 7\noom 1\noom_kill 0\n", False),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 1\noom_kill 2\n", True),
        ("memory.oom_control", "oom_kill_disable 1\nunder_oom 1\noom_kill 0\n", False),
    ],
)
def test_kills_for_memory_are_counted(tmp_path: pathlib.Path, file: str, text: str, killed: bool) -> None:
    (tmp_path / file).write_text(text)
    assert cgroups.out_of_memory([tmp_path / "gone", tmp_path]) is killed


def test_removal_kills_what_is_left() -> None:
    groups = cgroups.find()
    if groups is None:
        pytest.skip("no cgroup is writable")
    made = groups.make("tes-unit-test", LIMITS, 100)
    try:
        joined = "".join(f'echo 0 > "{group}/cgroup.procs"; ' for group in made)
        with subprocess.Popen(["sh", "-c", f"{joined} echo in; exec sleep 1000"], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "in\n"
            cgroups.remove(made)
            assert process.wait(30) == -9
    finally:
        cgroups.remove(made)
    assert not any(group.exists() for group in made)


def test_groups_are_found_from_a_mount_that_shows_a_part(tmp_path: pathlib.Path) -> None:
    below = cgroups._below
    assert below(tmp_path, "/", "/") == tmp_path
    assert below(tmp_path, "/", "/a/b") == tmp_path / "a/b"
    assert below(tmp_path, "/docker/x", "/docker/x/y") == tmp_path / "y"
    assert below(tmp_path, "/docker/x", "/elsewhere") == tmp_path
