"""Steps that are started at once and take turns, as the containers of a pod do."""

from __future__ import annotations

import fcntl
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from tes_server.runner import records
from tes_server.runner.engine import CellState
from tests.unit.step.conftest import SANITIZER
from tests.unit.step.running import Run

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(binary: pathlib.Path, tmp_path: pathlib.Path) -> Iterator[Start]:
    """A step that goes on in the background; killed at the end."""
    begun: list[subprocess.Popen[bytes]] = []

    def start(*arguments: object) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([binary, *map(str, arguments)], cwd=tmp_path, env={"PATH": "/usr/bin:/bin", **SANITIZER}, stderr=subprocess.PIPE)
        begun.append(process)
        return process

    yield start
    for process in begun:
        process.kill()
        process.communicate()


@pytest.fixture
def steps(tmp_path: pathlib.Path) -> list[pathlib.Path]:
    directories = [tmp_path / "steps" / str(number) for number in range(3)]
    for directory in directories:
        directory.mkdir(parents=True)
    return directories


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def monotonic(path: pathlib.Path, seconds: float) -> pathlib.Path:
    path.write_text(str(time.monotonic_ns() + int(seconds * 1e9)))
    return path


class TestLock:
    def test_is_held_as_long_as_the_step_lives(self, start: Start, record: pathlib.Path) -> None:
        process = start("--record", record, "--hold", "--", "sleep", "1000")
        until((record / "start").exists)
        assert records.state(record) is CellState.RUNNING
        process.kill()
        process.wait()
        until(lambda: records.state(record) is CellState.LOST)  # between fork and exec the command has it for a moment

    def test_is_free_after_the_record_is_written(self, run: Run, record: pathlib.Path) -> None:
        assert run("--record", record, "--hold", "--", "true").returncode == 0
        assert not records.locked(record)
        assert records.state(record) is CellState.ENDED
        assert sorted(path.name for path in record.iterdir()) == ["exit", "lock", "start", "stderr", "stdout"]

    def test_is_not_the_commands(self, start: Start, record: pathlib.Path) -> None:
        """A daemon that the command left must not look like the step."""
        process = start("--record", record, "--hold", "--", "sh", "-c", "setsid sleep 1000 & echo $!")
        process.wait()
        try:
            assert not records.locked(record)
        finally:
            os.kill(int(records.streams(record, 10240)[0]), signal.SIGKILL)

    def test_needs_a_record(self, run: Run) -> None:
        assert run("--hold", "--", "true").returncode == 125


class TestTurn:
    def test_comes_when_the_step_before_has_ended(self, start: Start, steps: list[pathlib.Path], tmp_path: pathlib.Path) -> None:
        last = start("--record", steps[2], "--hold", "--after", steps[1], "--", "sh", "-c", "echo 2 >> log")
        middle = start("--record", steps[1], "--hold", "--after", steps[0], "--", "sh", "-c", "echo 1 >> log")
        until((steps[2] / "lock").exists)
        until((steps[1] / "lock").exists)
        assert not (steps[1] / "start").exists()
        first = start("--record", steps[0], "--hold", "--", "sh", "-c", "sleep 0.2; echo 0 >> log")
        assert [process.wait() for process in (first, middle, last)] == [0, 0, 0]
        assert (tmp_path / "log").read_text() == "0\n1\n2\n"

    @pytest.mark.parametrize(
        ("option", "script", "runs"),
        [("--after", "exit 0", True), ("--after", "exit 3", False), ("--after", "exit 10", False), ("--after-any", "exit 3", True)],
    )
    def test_is_given_by_the_record(self, run: Run, steps: list[pathlib.Path], option: str, script: str, runs: bool) -> None:
        run("--record", steps[0], "--hold", "--", "sh", "-c", script)
        assert run("--record", steps[1], "--hold", option, steps[0], "--", "true").returncode == 0
        assert (records.ended(steps[1]) is not None) is runs
        assert records.skipped(steps[1]) is not runs
        # What was skipped is not what was ignored.
        run("--record", steps[2], "--hold", "--after-any", steps[1], "--", "true")
        assert (records.ended(steps[2]) is not None) is runs

    @pytest.mark.parametrize(("option", "runs"), [("--after", False), ("--after-any", True)])
    def test_after_a_step_that_was_killed(self, start: Start, run: Run, steps: list[pathlib.Path], option: str, runs: bool) -> None:
        killed = start("--record", steps[0], "--hold", "--", "sleep", "1000")
        until((steps[0] / "start").exists)
        killed.kill()
        killed.wait()
        run("--record", steps[1], "--hold", option, steps[0], "--", "true")
        assert (records.ended(steps[1]) is not None) is runs

    def test_never_comes_after_term(self, start: Start, run: Run, steps: list[pathlib.Path]) -> None:
        waits = start("--record", steps[1], "--hold", "--after", steps[0], "--", "true")
        until((steps[1] / "lock").exists)
        waits.terminate()
        assert waits.wait() == 0
        assert records.skipped(steps[1])
        assert records.cut(steps[1])
        run("--record", steps[2], "--hold", "--after-any", steps[1], "--", "true")
        assert records.skipped(steps[2])

    def test_term_reaches_the_one_that_waits_behind_a_lock(self, start: Start, steps: list[pathlib.Path]) -> None:
        start("--record", steps[0], "--hold", "--", "sleep", "1000")
        until((steps[0] / "lock").exists)
        waits = start("--record", steps[1], "--hold", "--after", steps[0], "--", "true")
        until((steps[1] / "lock").exists)
        waits.terminate()
        assert waits.wait() == 0
        assert records.skipped(steps[1])

    def test_others_may_look_at_the_lock_meanwhile(self, start: Start, steps: list[pathlib.Path]) -> None:
        (steps[0] / "lock").touch()
        with (steps[0] / "lock").open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            waits = start("--record", steps[1], "--hold", "--after-any", steps[0], "--", "true")
            until((steps[1] / "lock").exists)
            assert all(records.locked(steps[0]) for _ in range(100))
        assert waits.wait() == 0
        assert records.ended(steps[1]) is not None

    def test_a_record_that_is_not_there(self, run: Run, steps: list[pathlib.Path]) -> None:
        done = run("--record", steps[1], "--hold", "--after", steps[0] / "none", "--", "true")
        assert done.returncode == 125
        assert b"No such file" in done.stderr


class TestUntil:
    def test_ends_the_command(self, run: Run, record: pathlib.Path, tmp_path: pathlib.Path) -> None:
        begun = time.monotonic()
        done = run("--record", record, "--until", monotonic(tmp_path / "until", 0.3), "--", "sleep", "1000")
        assert 0.3 <= time.monotonic() - begun < 20
        assert done.returncode == 143
        assert records.late(record)
        assert not records.cut(record)

    def test_ends_what_ignores_term(self, run: Run, record: pathlib.Path, tmp_path: pathlib.Path) -> None:
        file = monotonic(tmp_path / "until", 0.3)
        assert run("--record", record, "--grace", "0.2", "--until", file, "--", "sh", "-c", 'trap "" TERM; sleep 1000 & wait; wait').returncode == 137
        assert records.late(record)

    @pytest.mark.parametrize("text", ["", "no number", None])
    def test_without_a_time_there_is_none(self, run: Run, record: pathlib.Path, tmp_path: pathlib.Path, text: str | None) -> None:
        if text is not None:
            (tmp_path / "until").write_text(text)
        assert run("--record", record, "--until", tmp_path / "until", "--", "true").returncode == 0
        assert not records.late(record)

    def test_a_command_that_ends_in_time_is_not_late(self, run: Run, record: pathlib.Path, tmp_path: pathlib.Path) -> None:
        assert run("--record", record, "--until", monotonic(tmp_path / "until", 1000), "--", "sh", "-c", "exit 4").returncode == 4
        assert not records.late(record)

    def test_nothing_is_begun_when_it_is_over(self, run: Run, steps: list[pathlib.Path], tmp_path: pathlib.Path) -> None:
        file = monotonic(tmp_path / "until", -1)
        assert run("--record", steps[0], "--until", file, "--", "touch", "ran").returncode == 0
        assert not (tmp_path / "ran").exists()
        assert records.late(steps[0])
        assert records.skipped(steps[0])

    def test_the_next_step_does_not_run(self, run: Run, steps: list[pathlib.Path], tmp_path: pathlib.Path) -> None:
        file = monotonic(tmp_path / "until", 0.2)
        script = 'trap "exit 0" TERM; sleep 1000 & wait'
        assert run("--record", steps[0], "--hold", "--until", file, "--", "sh", "-c", script).returncode == 0
        run("--record", steps[1], "--hold", "--after-any", steps[0], "--", "true")
        assert records.skipped(steps[1])


class TestExitZero:
    @pytest.mark.parametrize("script", ["exit 0", "exit 3", "kill -9 $$"])
    def test_whatever_the_command_did(self, run: Run, record: pathlib.Path, script: str) -> None:
        assert run("--record", record, "--exit-zero", "--", "sh", "-c", script).returncode == 0

    def test_but_not_without_a_record(self, run: Run, record: pathlib.Path) -> None:
        (record / "start").touch()
        assert run("--record", record, "--exit-zero", "--", "true").returncode == 125


class TestExitOom:
    """Of init containers: one that ends well although something of it was killed for memory hangs its pod."""

    @pytest.mark.parametrize(
        ("kills", "script", "zero", "code"), [(0, "exit 3", False, 3), (0, "exit 3", True, 0), (1, "exit 0", False, 137), (1, "exit 3", True, 137)]
    )
    def test_exit(self, run: Run, record: pathlib.Path, tmp_path: pathlib.Path, kills: int, script: str, zero: bool, code: int) -> None:
        (tmp_path / "counters").write_text(f"oom_kill {kills}\n")
        more = ["--exit-zero"] if zero else []
        assert run("--record", record, "--oom", tmp_path / "counters", "--exit-oom", *more, "--", "sh", "-c", script).returncode == code


class TestEnvironment:
    def test_is_added_to_what_there_is(self, run: Run, tmp_path: pathlib.Path) -> None:
        (tmp_path / "env").write_bytes(b"A=$(X)\0HOME=/new\0odd name.=\xc3\xbc\0EMPTY=\0")
        done = run("--tee", "--env-add", tmp_path / "env", "--", "env", "-0", env={"PATH": "/usr/bin:/bin", "HOME": "/old", "KEPT": "1", **SANITIZER})
        found = set(done.stdout.decode().split("\0"))
        assert {"A=$(X)", "HOME=/new", "odd name.=ü", "EMPTY=", "KEPT=1", "PATH=/usr/bin:/bin"} <= found
        assert "HOME=/old" not in found

    def test_may_be_empty(self, run: Run, tmp_path: pathlib.Path) -> None:
        (tmp_path / "env").touch()
        assert run("--env-add", tmp_path / "env", "--", "true").returncode == 0

    def test_must_be_variables(self, run: Run, tmp_path: pathlib.Path) -> None:
        (tmp_path / "env").write_bytes(b"PATH\0")
        assert run("--env-add", tmp_path / "env", "--", "true").returncode == 125
