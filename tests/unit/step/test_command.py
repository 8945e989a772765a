"""What tes-step makes of a command: its argv, environment, files, descriptors and end."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import time

import pytest

from tes_server.runner import records
from tests.unit.step.running import Run

NOT_UNDER_QEMU = pytest.mark.parametrize("binary", ["static", "sanitized"], indirect=True)
"""qemu's user mode needs more memory than the bound leaves, and shows a program another start time in /proc/self than others see."""

WORDS = ["", "two words", "$HOME", "`id`", "*", "?", "'", '"', "\\", "new\nline", "--", "-x", ""]


def strings(path: pathlib.Path, words: list[str]) -> pathlib.Path:
    path.write_bytes(b"".join(word.encode() + b"\0" for word in words))
    return path


def until_started(record: pathlib.Path, words: str = "up\n") -> None:
    """Poll, since nothing else tells from outside that a command has come so far."""
    deadline = time.monotonic() + 30
    while records.streams(record, 10240)[0] != words:
        assert time.monotonic() < deadline
        time.sleep(0.005)


class TestArgv:
    @pytest.mark.parametrize("words", [WORDS, ["x" * 100 * 1024], [str(n) for n in range(10_000)]], ids=["odd", "long", "many"])
    def test_arrives_exactly(self, run: Run, tmp_path: pathlib.Path, words: list[str]) -> None:
        expected = "".join(f"{word}\0" for word in words).encode()
        assert run("--tee", "--", "printf", "%s\\0", *words).stdout == expected
        listed = strings(tmp_path / "argv", ["printf", "%s\\0", *words])
        assert run("--tee", "--argv-file", listed).stdout == expected

    def test_environment_is_the_files_alone(self, run: Run, tmp_path: pathlib.Path) -> None:
        values = ["A=", "B=x=y", "C=1\n2", "PATH=/usr/bin:/bin"]
        assert run("--tee", "--env-file", strings(tmp_path / "env", values), "--", "env", "-0").stdout.decode().split("\0") == [*values, ""]

    @pytest.mark.parametrize("values", [["A=1"], [f"V{n}={'x' * 1000}" for n in range(500)]], ids=["small", "more-than-a-pipe-holds"])
    def test_an_environment_comes_through_a_pipe(self, binary: pathlib.Path, tmp_path: pathlib.Path, values: list[str]) -> None:
        os.mkfifo(tmp_path / "env")
        command = [str(binary), "--env-file", str(tmp_path / "env"), "--tee", "--", "/usr/bin/env", "-0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            strings(tmp_path / "env", values)
            assert process.communicate()[0].decode().split("\0") == [*values, ""]
        assert process.returncode == 0

    def test_program_is_found_by_its_own_path(self, run: Run, tmp_path: pathlib.Path) -> None:
        (tmp_path / "hello").write_text("#!/bin/sh\necho hello\n")
        (tmp_path / "hello").chmod(0o755)
        assert run("--tee", "--env-file", strings(tmp_path / "env", [f"PATH={tmp_path}"]), "--", "hello").stdout == b"hello\n"


class TestExitCode:
    @pytest.mark.parametrize("code", [0, 1, 125, 255])
    def test_is_the_commands(self, run: Run, record: pathlib.Path, code: int) -> None:
        assert run("--record", record, "--", "sh", "-c", f"exit {code}").returncode == code
        ended = records.ended(record)
        assert ended is not None
        assert (ended.code, ended.signal) == (code, 0)
        assert ended.start_time <= ended.end_time
        assert not records.failed(record)

    def test_tells_a_signal_from_a_number(self, run: Run, record: pathlib.Path) -> None:
        assert run("--record", record, "--", "sh", "-c", "kill -9 $$").returncode == 137
        ended = records.ended(record)
        assert ended is not None
        assert (ended.code, ended.signal) == (137, 9)

    @pytest.mark.parametrize(
        ("program", "code", "words"),
        [
            ("no-such-program", 127, "No such file"),
            ("", 127, "No such file"),
            ("/etc/passwd/x", 127, "Not a directory"),
            ("/etc/passwd", 126, "Permission denied"),
            ("/etc", 126, "Permission denied"),
        ],
    )
    def test_of_what_cannot_run(self, run: Run, record: pathlib.Path, program: str, code: int, words: str) -> None:
        assert run("--record", record, "--", program).returncode == code
        assert records.streams(record, 10240)[1].startswith(f"tes-step: {program}: {words}")

    def test_of_a_file_that_is_no_program(self, run: Run, tmp_path: pathlib.Path) -> None:
        (tmp_path / "text").write_text("echo through a shell\n")
        (tmp_path / "text").chmod(0o755)
        done = run("--tee", "--", tmp_path / "text")
        assert (done.returncode, done.stdout) == (126, b"")


class TestFiles:
    def test_stdin_is_read_only(self, run: Run, tmp_path: pathlib.Path) -> None:
        (tmp_path / "in").write_text("input\n")
        done = run("--tee", "--stdin", tmp_path / "in", "--", "sh", "-c", "cat; echo changed >&0")
        assert done.stdout == b"input\n"
        assert done.returncode != 0
        assert (tmp_path / "in").read_text() == "input\n"

    @pytest.mark.parametrize("options", [["--stdin", "nothing"], ["--workdir", "file"], ["--stdout", "file/out"], ["--stderr", "."]])
    def test_that_cannot_be_used_are_126_and_nothing_runs(self, run: Run, record: pathlib.Path, tmp_path: pathlib.Path, options: list[str]) -> None:
        (tmp_path / "file").touch()
        option, path = options
        done = run("--record", record, option, tmp_path / path, "--", "touch", tmp_path / "ran")
        assert done.returncode == 126
        assert f"tes-step: {tmp_path / path}: " in records.streams(record, 10240)[1]
        assert not (tmp_path / "ran").exists()
        assert not (tmp_path / "nothing").exists()
        ended = records.ended(record)
        assert ended is not None
        assert ended.code == 126

    def test_outputs_are_made_with_their_parents_for_everybody(self, run: Run, record: pathlib.Path, tmp_path: pathlib.Path) -> None:
        (tmp_path / "err").write_text("something longer that was there before")
        done = run("--record", record, "--stdout", tmp_path / "a/b/out", "--stderr", tmp_path / "err", "--", "sh", "-c", "echo out; echo err >&2", umask=0o077)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        assert (tmp_path / "a/b/out").read_text() == "out\n"
        assert (tmp_path / "err").read_text() == "err\n"
        assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b", "a/b/out")] == [0o777, 0o777, 0o666]
        assert records.streams(record, 10240) == ("out\n", "err\n")

    @pytest.mark.parametrize("other", ["both", "link", "hard"])
    def test_both_outputs_in_one_file_keep_every_byte(self, run: Run, tmp_path: pathlib.Path, other: str) -> None:
        both = tmp_path / "both"
        both.touch()
        (tmp_path / "link").symlink_to(both)
        (tmp_path / "hard").hardlink_to(both)
        script = "i=0; while [ $i -lt 200 ]; do echo o$i; echo e$i >&2; i=$((i+1)); done"
        assert run("--stdout", both, "--stderr", tmp_path / other, "--", "sh", "-c", script).returncode == 0
        assert sorted(both.read_text().split()) == sorted(f"{stream}{n}" for stream in "oe" for n in range(200))

    def test_an_output_that_cannot_be_kept_whole_is_no_success(self, run: Run, record: pathlib.Path) -> None:
        done = run("--record", record, "--stdout", "/dev/full", "--", "sh", "-c", "echo lost; echo fine >&2")
        assert done.returncode == 125
        assert records.streams(record, 10240) == ("lost\n", "fine\ntes-step: /dev/full: No space left on device\n")
        assert run("--stdout", "/dev/full", "--", "sh", "-c", "echo lost; exit 3").returncode == 3

    def test_workdir(self, run: Run, tmp_path: pathlib.Path) -> None:
        assert run("--tee", "--workdir", tmp_path / "a/b", "--", "pwd", umask=0o077).stdout.decode().strip() == str(tmp_path / "a/b")
        assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o777


class TestInheritance:
    def test_signals_umask_and_group_are_as_after_a_login(self, binary: pathlib.Path, run: Run) -> None:
        script = "umask; grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status; read pid name state ppid group rest < /proc/self/stat; [ $$ = $group ] && echo leads"
        plain = ["sh", "-c", f"trap '' PIPE USR1 HUP; exec {binary} --tee -- sh -c \"$1\"", "sh", script]
        done = subprocess.run(plain, capture_output=True, check=True, timeout=60, text=True)
        lines = done.stdout.split("\n")
        assert lines[0] == "0000"
        ours = ~(0b111 << 31)  # 32 to 34 belong to the C library, which lets nobody touch them
        assert [int(line.split()[1], 16) & ours for line in lines[1:3]] == [0, 0]

    def test_leads_its_own_process_group(self, run: Run) -> None:
        out = run("--tee", "--", "sh", "-c", "read pid name state ppid group rest < /proc/$$/stat; echo $pid $group $ppid").stdout.split()
        assert out[0] == out[1] != out[2]

    def test_no_descriptor_but_those_kept(self, run: Run) -> None:
        ends = os.pipe()
        try:
            script = "ls /proc/self/fd | tr '\\n' ' '"
            plain = run("--lock", ends[0], "--tee", "--", "sh", "-c", script, pass_fds=ends).stdout.decode().split()
            assert len(plain) == 4  # 0, 1, 2 and the directory that ls reads
            assert str(ends[1]) not in plain[3:] or ends[1] == 3
            kept = run("--keep", ends[1], "--tee", "--", "sh", "-c", script, pass_fds=ends).stdout.decode().split()
            assert str(ends[1]) in kept
            assert str(ends[0]) not in kept or ends[0] == 3
        finally:
            for end in ends:
                os.close(end)

    def test_closed_standard_streams_do_no_harm(self, binary: pathlib.Path, record: pathlib.Path) -> None:
        line = 'exec "$0" --record "$1" -- sh -c "echo out; echo err >&2; cat" <&- >&- 2>&-'
        assert subprocess.run(["sh", "-c", line, binary, record], check=False, timeout=60).returncode == 0
        assert records.streams(record, 10240) == ("out\n", "err\n")

    @NOT_UNDER_QEMU
    def test_memory_of_each_process_is_bounded(self, run: Run) -> None:
        done = run("--rlimit-data", 64 << 20, "--tee", "--", "tail", "-n", "1", "/dev/zero")
        assert done.returncode == 1
        assert b"memory" in done.stderr

    def test_joins_its_cgroups_itself(self, run: Run, tmp_path: pathlib.Path) -> None:
        group = tmp_path / "cgroup.procs"
        group.touch()
        assert run("--cgroup", group, "--", "true").returncode == 0
        assert group.read_text() == "0"
        done = run("--cgroup", tmp_path / "missing", "--tee", "--", "touch", tmp_path / "ran")
        assert done.returncode == 125
        assert not (tmp_path / "ran").exists()


class TestStop:
    def stop(self, binary: pathlib.Path, record: pathlib.Path, script: str, *options: str, wish: float | None = None) -> tuple[int, float]:
        """Run a script that says `up` and goes on; TERM it; exit code and seconds from TERM to the end."""
        with subprocess.Popen([binary, "--record", record, *options, "--", "sh", "-c", script]) as process:
            try:
                until_started(record)
                began = time.monotonic()
                if wish is None:
                    process.terminate()
                else:
                    records.ask_to_stop(record, wish)
                code = process.wait(30)
                return code, time.monotonic() - began
            finally:
                process.kill()

    def test_term_reaches_the_whole_group(self, binary: pathlib.Path, record: pathlib.Path) -> None:
        code, _ = self.stop(binary, record, "trap 'echo bye; exit 7' TERM; (echo up; exec sleep 1000) & wait; exit 8")
        assert code == 7
        assert records.streams(record, 10240)[0] == "up\nbye\n"

    def test_what_ignores_it_is_killed_after_the_grace(self, binary: pathlib.Path, record: pathlib.Path) -> None:
        code, seconds = self.stop(binary, record, "trap '' TERM; echo up; while :; do sleep 1000; done", "--grace", "0.25")
        assert code == 137
        assert 0.25 <= seconds < 5

    @NOT_UNDER_QEMU
    def test_the_wish_in_the_record_has_its_own_grace(self, binary: pathlib.Path, record: pathlib.Path) -> None:
        code, seconds = self.stop(binary, record, "trap '' TERM; echo up; while :; do sleep 1000; done", "--grace", "1000", wish=0.25)
        assert code == 137
        assert 0.25 <= seconds < 5

    def test_a_wish_from_before_the_start_is_seen(self, run: Run, record: pathlib.Path) -> None:
        (record / "stop").write_text("0")
        assert run("--record", record, "--", "sleep", "1000").returncode in {137, 143}
        assert records.ended(record) is not None

    def test_a_killed_supervisor_takes_its_command_along_and_leaves_no_end(self, binary: pathlib.Path, record: pathlib.Path, tmp_path: pathlib.Path) -> None:
        ends = os.pipe()
        with subprocess.Popen([binary, "--record", record, "--keep", str(ends[1]), "--", "sh", "-c", "echo up; exec sleep 1000"], pass_fds=ends) as process:
            until_started(record)
            os.close(ends[1])
            process.kill()
        assert os.read(ends[0], 1) == b""  # returns when nobody has the other end: the command is gone
        os.close(ends[0])
        begun = records.start(record)
        assert begun is not None
        assert begun.pid == process.pid
        assert records.ended(record) is None

    def test_by_somebody_else_is_marked(self, binary: pathlib.Path, record: pathlib.Path) -> None:
        self.stop(binary, record, "trap 'exit 3' TERM; echo up; while :; do sleep 0.01; done")
        assert records.cut(record)

    @NOT_UNDER_QEMU
    def test_by_the_server_is_not(self, binary: pathlib.Path, record: pathlib.Path) -> None:
        self.stop(binary, record, "trap 'exit 3' TERM; echo up; while :; do sleep 0.01; done", wish=5.0)
        assert not records.cut(record)

    def test_one_killed_before_the_ids_are_mapped_frees_the_lock(self, binary: pathlib.Path, record: pathlib.Path, tmp_path: pathlib.Path) -> None:
        """The cgroup that the child joins just before is a pipe here, whose other end holds it up."""
        os.mkfifo(tmp_path / "cgroup")
        lock = records.take_lock(record)
        assert lock is not None
        options: list[str | pathlib.Path] = [
            "--record",
            record,
            "--lock",
            str(lock),
            "--keep",
            str(lock),
            "--cgroup",
            tmp_path / "cgroup",
            "--userns",
            "200000",
            "65536",
        ]
        with subprocess.Popen([binary, *options, "--", "true"], pass_fds=[lock]) as process:
            os.close(lock)
            children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
            deadline = time.monotonic() + 30
            while not children.read_text():
                assert time.monotonic() < deadline
            process.kill()
            process.wait(30)
        assert records.locked(record)
        assert (tmp_path / "cgroup").read_text() == "0"
        while records.locked(record):
            assert time.monotonic() < deadline
            time.sleep(0.005)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
    def test_other_signals_stop_it_too(self, binary: pathlib.Path, record: pathlib.Path, number: signal.Signals) -> None:
        with subprocess.Popen([binary, "--record", record, "--", "sh", "-c", "trap 'exit 9' TERM; echo up; while :; do sleep 0.01; done"]) as process:
            until_started(record)
            process.send_signal(number)
            assert process.wait(30) == 9


class TestNested:
    """The pair that a sandbox takes, without the sandbox."""

    def nested(self, binary: pathlib.Path, run: Run, record: pathlib.Path, *inner: object) -> int:
        return run("--record", record, "--inner", 9, "--", binary, "--report", 9, "--tee", *inner).returncode

    def test_the_end_is_told(self, binary: pathlib.Path, run: Run, record: pathlib.Path) -> None:
        assert self.nested(binary, run, record, "--", "sh", "-c", "echo out; echo err >&2; exit 3") == 3
        assert records.streams(record, 10240) == ("out\n", "err\n")

    def test_a_signal_is_told_as_one(self, binary: pathlib.Path, run: Run, record: pathlib.Path) -> None:
        assert self.nested(binary, run, record, "--", "sh", "-c", "kill -9 $$") == 137
        ended = records.ended(record)
        assert ended is not None
        assert (ended.code, ended.signal) == (137, 9)

    def test_redirected_output_is_kept_as_well(self, binary: pathlib.Path, run: Run, record: pathlib.Path, tmp_path: pathlib.Path) -> None:
        assert self.nested(binary, run, record, "--stdout", tmp_path / "out", "--", "sh", "-c", "yes | head -c 3000000") == 0
        assert (tmp_path / "out").stat().st_size == 3_000_000
        assert "2979520 bytes left out" in records.streams(record, 10240)[0]

    def test_without_a_word_from_inside_nothing_was_started(self, run: Run, record: pathlib.Path) -> None:
        assert run("--record", record, "--inner", 9, "--", "sh", "-c", "echo no sandbox >&2; exit 1").returncode == 125
        assert records.failed(record)
        assert records.streams(record, 10240)[1] == "no sandbox\n"

    def test_a_sandbox_killed_from_outside_is_not_the_commands_end(self, binary: pathlib.Path, run: Run, record: pathlib.Path) -> None:
        assert self.nested(binary, run, record, "--", "sh", "-c", "kill -KILL $PPID; exec sleep 1000") == 137
        assert records.cut(record)
        assert not records.failed(record)

    def test_one_that_was_to_stop_is(self, binary: pathlib.Path, run: Run, record: pathlib.Path) -> None:
        (record / "stop").write_text("0")
        assert self.nested(binary, run, record, "--", "sh", "-c", "trap '' TERM; while :; do sleep 1000; done") in {137, 143}
        assert not records.cut(record)

    def test_the_command_cannot_forge_the_report(self, binary: pathlib.Path, run: Run, record: pathlib.Path) -> None:
        assert self.nested(binary, run, record, "--", "sh", "-c", "echo '0 0 1 1' >&9; exit 3") in {1, 2, 3}
        ended = records.ended(record)
        assert ended is not None
        assert ended.code != 0
