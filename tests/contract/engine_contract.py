"""What every container engine must do: one abstract suite, run on each implementation.

A subclass supplies the fixtures `engine`, `successor` (a second engine object over the same data, as after a restart of
the server) and `image` (one that has /bin/sh and the usual small programs), and `signal_supervisor`.
"""

from __future__ import annotations

import concurrent.futures
import pathlib
import signal
import stat
import time
from collections.abc import Iterator

import pytest

from tes_server import errors
from tes_server.plan.steps import Limits, Mount, MountKind
from tes_server.runner.engine import Cell, CellState, Engine
from tests.contract.engine_lab import PATIENCE, ROOTS, Lab, until

__all__ = ["PATIENCE", "ROOTS", "EngineContract", "Lab", "until"]  # one import for implementations


class EngineContract:
    """The suite. See the module's docstring for what a subclass adds."""

    limits_memory = True
    """False where the engine cannot hold a command's memory as a whole"""

    @pytest.fixture
    def engine(self) -> Iterator[Engine]:
        raise NotImplementedError

    @pytest.fixture
    def successor(self) -> Iterator[Engine]:
        raise NotImplementedError

    @pytest.fixture
    def image(self) -> str:
        raise NotImplementedError

    def signal_supervisor(self, cell: Cell, number: signal.Signals) -> None:
        """Signal tes-step of a running cell from outside."""
        raise NotImplementedError

    @pytest.fixture
    def lab(self, engine: Engine, image: str, tmp_path: pathlib.Path) -> Iterator[Lab]:
        lab = Lab(engine, image, tmp_path / "lab")
        yield lab
        lab.clear()
        assert not lab.home.exists()

    # -- the command ------------------------------------------------------------------------------------------------

    def test_check_says_what_answers_in_one_line(self, engine: Engine) -> None:
        assert engine.check().strip()
        assert "\n" not in engine.check()

    def test_argv_arrives_exactly_as_given(self, lab: Lab) -> None:
        words = [
            "",
            "two words",
            "$HOME",
            "`id`",
            "$(id)",
            "*",
            "?",
            "'",
            '"',
            "\\",
            "\\n",
            "new\nline",
            "täsk ∀ 🧬",
            "--",
            "-x",
            "a;b|c>d",
            "x" * 100 * 1024,
            "",
        ]
        lab.check("printf '%s\\0' \"$@\" > /work/words", *words)
        assert (lab.work / "words").read_bytes().decode().split("\0") == [*words, ""]

    def test_a_command_that_is_not_there_is_127_and_says_so(self, lab: Lab) -> None:
        cell = lab.cell("no-such-program | cat")
        assert lab.run(cell).code == 127
        assert "no-such-program | cat: " in lab.engine.streams(cell)[1]

    def test_a_command_that_cannot_run_is_126(self, lab: Lab) -> None:
        (lab.work / "text").write_text("no program")
        (lab.work / "text").chmod(0o644)
        assert lab.run(lab.cell("/work/text")).code == 126

    @pytest.mark.parametrize("code", [0, 1, 42, 255])
    def test_exit_codes(self, lab: Lab, code: int) -> None:
        ended = lab.run(lab.sh(f"exit {code}"))
        assert (ended.code, ended.signal, ended.oom) == (code, 0, False)
        assert ended.start_time <= ended.end_time

    @pytest.mark.parametrize(("number", "code"), [(9, 137), (15, 143)])
    def test_a_signal_is_128_and_its_number(self, lab: Lab, number: int, code: int) -> None:
        ended = lab.run(lab.sh(f"kill -{number} $$"))
        assert (ended.code, ended.signal, ended.oom) == (code, number, False)

    def test_environment(self, lab: Lab) -> None:
        script = 'printf "%s|" "${EMPTY-unset}" "$EQUALS" "$LINES_" "$WORDS" "${UNSET-unset}"'
        out = lab.check(script, env={"EMPTY": "", "EQUALS": "a=b=c", "LINES_": "1\n2", "WORDS": "$HOME 'x' \"y\""})
        assert out == "|a=b=c|1\n2|$HOME 'x' \"y\"|unset|"

    def test_path_of_the_task_finds_the_program(self, lab: Lab) -> None:
        program = lab.work / "hello"
        program.write_text("#!/bin/sh\necho hello\n")
        program.chmod(0o755)
        cell = lab.cell("hello", env={"PATH": "/work:/usr/bin:/bin"})
        assert (lab.run(cell).code, lab.engine.streams(cell)[0]) == (0, "hello\n")

    # -- streams and directories ------------------------------------------------------------------------------------

    def test_stdin_stdout_and_stderr_are_files(self, lab: Lab) -> None:
        (lab.work / "in").write_text("input\n")
        (lab.work / "err").write_text("something longer that was there before")
        (lab.work / "err").chmod(0o666)
        cell = lab.sh("cat; echo wrong >&2", stdin="/work/in", stdout="/work/made/for/out", stderr="/work/err")
        assert lab.run(cell).code == 0
        out = lab.work / "made" / "for" / "out"
        assert (out.read_text(), (lab.work / "err").read_text()) == ("input\n", "wrong\n")
        assert lab.engine.streams(cell) == ("input\n", "wrong\n")
        assert stat.S_IMODE(out.stat().st_mode) == 0o666
        assert stat.S_IMODE(out.parent.stat().st_mode) == 0o777
        assert (lab.work / "in").read_text() == "input\n"

    def test_a_missing_stdin_is_not_made(self, lab: Lab) -> None:
        cell = lab.sh(": > /work/ran", stdin="/work/nothing")
        assert lab.run(cell).code == 126
        assert "/work/nothing: No such file" in lab.engine.streams(cell)[1]
        assert not (lab.work / "nothing").exists()
        assert not (lab.work / "ran").exists()

    def test_without_stdin_the_command_reads_nothing(self, lab: Lab) -> None:
        assert lab.check("cat; echo end") == "end\n"

    def test_workdir_is_made_and_writable(self, lab: Lab) -> None:
        assert lab.check("pwd; : > here", workdir="/work/a/b") == "/work/a/b\n"
        assert (lab.work / "a" / "b" / "here").exists()

    def test_streams_hold_head_and_tail_and_say_what_is_missing(self, lab: Lab) -> None:
        filler = 1 << 20
        cell = lab.sh(f"printf START; yes | head -c {filler}; printf END", tail_bytes=1000, stdout="/work/all")
        assert lab.run(cell).code == 0
        total = len("START") + filler + len("END")
        out = lab.engine.streams(cell)[0]
        assert out.startswith("STARTy\n")
        assert out.endswith("END")
        assert f"{total - 2000} bytes left out" in out
        assert len(out) < 2100
        assert (lab.work / "all").stat().st_size == total

    def test_streams_are_there_while_the_command_runs(self, lab: Lab) -> None:
        cell, gate = lab.blocked(before="echo one; echo oops >&2", after="echo two")
        until(lambda: lab.engine.streams(cell) == ("one\n", "oops\n"), "the output so far")
        assert lab.engine.state(cell) is CellState.RUNNING
        gate.open()
        assert lab.run(cell).code == 0
        assert lab.engine.streams(cell) == ("one\ntwo\n", "oops\n")

    # -- files ------------------------------------------------------------------------------------------------------

    def test_a_file_mount_is_read_only(self, lab: Lab) -> None:
        target = lab.volume / "etc" / "tes-input"
        target.parent.mkdir()
        target.write_text("input\n")
        target.chmod(0o666)
        out = lab.check(
            "cat /etc/tes-input; (echo changed > /etc/tes-input) 2>/dev/null || echo refused", mounts=(*ROOTS, Mount("/etc/tes-input", MountKind.FILE))
        )
        assert out == "input\nrefused\n"
        assert target.read_text() == "input\n"

    def test_a_live_mount_is_the_directory_itself(self, lab: Lab) -> None:
        source = lab.home / "live: with colon"
        source.mkdir()
        source.chmod(0o777)
        (source / "there").write_text("before\n")
        mounts = (*ROOTS, Mount("/live", MountKind.LIVE, str(source)))
        assert lab.check("cat /live/there; echo after > /live/made", mounts=mounts) == "before\n"
        assert (source / "made").read_text() == "after\n"

    def test_executors_of_a_task_share_its_volume(self, lab: Lab) -> None:
        lab.check("echo w > /work/x; echo t > /tmp/y")
        assert lab.check("cat /work/x /tmp/y") == "w\nt\n"

    def test_volumes_do_not_see_each_other(self, lab: Lab) -> None:
        lab.check("echo w > /work/x; echo t > /tmp/y")
        assert lab.check("ls -A /work /tmp", volume=lab.new_volume("other")) == "/tmp:\n\n/work:\n"

    def test_what_the_command_makes_is_open_to_others(self, lab: Lab) -> None:
        lab.check("mkdir /work/d; : > /work/d/f")
        assert stat.S_IMODE((lab.work / "d").stat().st_mode) == 0o777
        assert stat.S_IMODE((lab.work / "d" / "f").stat().st_mode) == 0o666

    def test_named_pipes_and_hard_links_work_in_a_root(self, lab: Lab) -> None:
        out = lab.check("cd /work; mkfifo p; (echo through > p &); cat p; echo linked > a; mkdir d; ln a d/b; cat d/b")
        assert out == "through\nlinked\n"
        assert (lab.work / "a").stat().st_ino == (lab.work / "d" / "b").stat().st_ino

    def test_home_and_tmp_are_writable(self, lab: Lab) -> None:
        assert lab.check('echo a > "$HOME/probe"; echo b > /tmp/probe; cat "$HOME/probe" /tmp/probe') == "a\nb\n"

    def test_results_outside_of_the_volume_are_copied_to_it(self, lab: Lab) -> None:
        lab.check("echo result > /etc/tes-result", copies=("/etc/tes-result", "/etc/tes-absent"))
        assert (lab.volume / "etc" / "tes-result").read_text() == "result\n"
        assert not (lab.volume / "etc" / "tes-absent").exists()

    def test_results_are_copied_after_a_failure_too(self, lab: Lab) -> None:
        assert lab.run(lab.sh("echo result > /etc/tes-result; exit 3", copies=("/etc/tes-result",))).code == 3
        assert (lab.volume / "etc" / "tes-result").read_text() == "result\n"

    # -- limits and ends --------------------------------------------------------------------------------------------

    def test_memory_is_limited_as_a_whole(self, lab: Lab) -> None:
        if not self.limits_memory:
            pytest.skip("this engine cannot")
        # tail keeps what it has read since the last newline, and there is none: 512 MiB, were it not for the limit.
        script = "mkfifo /work/zeros; (head -c 536870912 /dev/zero > /work/zeros) & exec tail -n 1 < /work/zeros"
        ended = lab.run(lab.sh(script, limits=Limits(cpus=1.0, ram_bytes=64 << 20)))
        assert (ended.code, ended.signal, ended.oom) == (137, 9, True)

    def test_stop_lets_the_command_end_by_itself(self, lab: Lab) -> None:
        cell, _ = lab.blocked(before="trap 'echo bye; exit 7' TERM")
        lab.engine.stop(cell, PATIENCE)
        lab.engine.stop(cell, PATIENCE)
        assert lab.run(cell).code == 7
        assert lab.engine.streams(cell)[0] == "bye\n"

    def test_stop_kills_what_ignores_it(self, lab: Lab) -> None:
        cell, _ = lab.blocked(before="trap '' TERM", after="exit 0")
        began = time.monotonic()
        lab.engine.stop(cell, 0.5)
        assert time.monotonic() - began < PATIENCE / 3, "stop must not wait for the end"
        ended = lab.run(cell)
        assert (ended.code, ended.signal, ended.oom) == (137, 9, False)
        assert time.monotonic() - began >= 0.5

    def test_stop_before_the_start_and_after_the_end_does_nothing(self, lab: Lab) -> None:
        lab.engine.stop(lab.cell("true"), 1.0)
        cell = lab.sh("exit 3")
        ended = lab.run(cell)
        lab.engine.stop(cell, 1.0)
        assert lab.engine.wait(cell) == ended

    # -- once, whoever asks -----------------------------------------------------------------------------------------

    def test_states_from_first_to_last(self, lab: Lab) -> None:
        assert lab.engine.state(lab.cell("true")) is CellState.ABSENT
        cell, gate = lab.blocked()
        assert lab.engine.state(cell) is CellState.RUNNING
        gate.open()
        lab.run(cell)
        assert lab.engine.state(cell) is CellState.ENDED

    def test_a_cell_runs_once_however_often_it_is_started(self, lab: Lab) -> None:
        cell, gate = lab.blocked(before="echo run >> /work/runs")
        lab.engine.start(cell)
        gate.open()
        ended = lab.run(cell)
        assert lab.run(cell) == ended
        assert (lab.work / "runs").read_text() == "run\n"

    def test_a_second_engine_adopts_what_the_first_started(self, lab: Lab, successor: Engine) -> None:
        cell, gate = lab.blocked(before="echo run >> /work/runs", after="exit 5")
        assert successor.state(cell) is CellState.RUNNING
        assert cell.name in successor.survey()
        successor.start(cell)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            waits = [pool.submit(engine.wait, cell) for engine in (lab.engine, successor)]
            assert not any(wait.done() for wait in waits)
            gate.open()
            first, second = (wait.result(PATIENCE) for wait in waits)
        assert first == second
        assert first is not None
        assert first.code == 5
        assert (lab.work / "runs").read_text() == "run\n"

    def test_the_record_survives_removal(self, lab: Lab, successor: Engine) -> None:
        cell = lab.sh("echo run >> /work/runs; echo out; exit 4")
        ended = lab.run(cell)
        lab.engine.remove(cell)
        assert successor.state(cell) is CellState.ENDED
        successor.start(cell)
        assert successor.wait(cell) == ended
        assert successor.streams(cell) == ("out\n", "")
        assert (lab.work / "runs").read_text() == "run\n"

    def test_a_supervisor_killed_from_outside_is_lost(self, lab: Lab, successor: Engine) -> None:
        cell, _ = lab.blocked(before="echo run >> /work/runs")
        with concurrent.futures.ThreadPoolExecutor() as pool:
            wait = pool.submit(lab.engine.wait, cell)
            self.signal_supervisor(cell, signal.SIGKILL)
            assert wait.result(PATIENCE) is None
        assert lab.engine.state(cell) is CellState.LOST
        successor.start(cell)
        assert successor.wait(cell) is None
        assert (lab.work / "runs").read_text() == "run\n"

    def test_a_command_that_somebody_else_ends_is_lost(self, lab: Lab) -> None:
        """A daemon or a machine that goes down ends what runs politely; its exit code would be told as the command's own."""
        cell, _ = lab.blocked(before="trap 'exit 3' TERM")
        self.signal_supervisor(cell, signal.SIGTERM)
        assert lab.engine.wait(cell) is None

    def test_remove_kills_and_may_be_repeated(self, lab: Lab) -> None:
        lab.engine.remove(lab.cell("true"))
        cell, _ = lab.blocked()
        assert cell.name in lab.engine.survey()
        lab.engine.remove(cell)
        lab.engine.remove(cell)
        assert cell.name not in lab.engine.survey()
        assert lab.engine.wait(cell) is None
        assert lab.engine.state(cell) is CellState.LOST

    def test_wipe_deletes_all_and_follows_no_link(self, lab: Lab) -> None:
        outside = lab.home / "outside"
        outside.mkdir()
        (outside / "kept").touch()
        lab.check(
            'mkdir -p /work/shut/in; : > /work/shut/in/f; ln -s "$1" /work/link; ln -s "$1" /work/shut/link; chmod 000 /work/shut/in /work/shut', str(outside)
        )
        lab.engine.wipe(lab.volume)
        assert not lab.volume.exists()
        assert (outside / "kept").exists()
        lab.engine.wipe(lab.volume)

    # -- images -----------------------------------------------------------------------------------------------------

    def test_prepare_names_what_will_run(self, engine: Engine, image: str) -> None:
        assert engine.prepare(image)
        assert engine.prepare(image) == engine.prepare(image)

    def test_a_missing_image_is_an_error_that_names_it(self, engine: Engine) -> None:
        with pytest.raises(errors.EngineError) as caught:
            engine.prepare("127.0.0.1:1/tes-test/no-such-image:1")
        assert caught.value.code.startswith("IMAGE_")
        assert "no-such-image" in caught.value.public
