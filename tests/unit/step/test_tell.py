"""What tes-step tells of a command that nobody else waits for: lines of its own stdout, and its last words."""

from __future__ import annotations

import os
import pathlib
import random
import subprocess
import sys
import time

import pytest

from tes_server.runner import pod_told, records
from tes_server.runner.pod_told import Told
from tests.unit.step.conftest import SANITIZER
from tests.unit.step.running import Run

LONGEST = 4096
"""Bytes of a termination message that Kubernetes keeps."""


@pytest.fixture
def message(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "message"
    path.touch()
    return path


def said(message: pathlib.Path) -> Told:
    data = message.read_bytes()
    assert len(data) <= LONGEST
    told = pod_told.read(data)
    assert told is not None, data
    return told


def test_a_short_end_is_the_message_alone(run: Run, record: pathlib.Path, message: pathlib.Path) -> None:
    done = run("--record", record, "--tell", message, "--exit-zero", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout) == (0, b"")
    told, ended = said(message), records.ended(record)
    assert told.ending.ended == ended
    assert (told.code, told.stdout.text, told.stderr.text, told.whole) == (3, "out\n", "err\n", True)


def test_a_long_one_is_in_the_log_too(run: Run, record: pathlib.Path, message: pathlib.Path) -> None:
    script = "seq 3000; seq 2000 >&2; exit 4"
    done = run("--record", record, "--tell", message, "--tail", 10000, "--", "sh", "-c", script)
    short, logged = said(message), pod_told.last(done.stdout)
    assert logged is not None
    assert (logged.stdout.text, logged.stderr.text) == records.streams(record, 10000)
    assert logged.whole
    assert (short.start, short.end, short.code) == (logged.start, logged.end, 4)
    assert not short.whole
    assert short.stdout.text.startswith("1\n2\n")
    assert short.stdout.text.endswith("2999\n3000\n")
    kept = len(short.stdout.head) + len(short.stdout.tail)
    assert short.stdout.left_out + kept == len(logged.stdout.text)


def test_more_than_the_record_keeps_is_left_out(run: Run, record: pathlib.Path, message: pathlib.Path) -> None:
    done = run("--record", record, "--tell", message, "--tail", 1000, "--", "sh", "-c", "seq 100000")
    logged = pod_told.last(done.stdout)
    told = said(message)
    assert told.stdout.text == records.streams(record, 1000)[0]
    assert not told.whole
    assert logged is None, "the message has all that is kept"


@pytest.mark.parametrize("seed", range(8))
def test_any_bytes_come_through(run: Run, record: pathlib.Path, message: pathlib.Path, tmp_path: pathlib.Path, seed: int) -> None:
    """Random lengths around those of the buffers; random bytes, or the few that JSON escapes."""
    chosen = random.Random(seed)
    length = chosen.choice([0, 1, 999, 1023, 1024, 1025, 2000, 2001, 5000])
    data = bytes(chosen.choice(b'"\\\n\0\x1f\x7f a\xc3\xbc') for _ in range(length)) if seed % 2 else chosen.randbytes(length)
    (tmp_path / "data").write_bytes(data)
    done = run("--record", record, "--tell", message, "--tail", 1000, "--", "cat", tmp_path / "data")
    told = said(message)
    logged = pod_told.last(done.stdout) or told
    total = logged.stdout.left_out + 2000 if length > 2000 else length
    assert total == length
    assert logged.stdout.head.encode() == data[: 1000 if length > 2000 else length].decode("utf-8", "replace").encode()
    assert logged.stdout.tail.encode() == (data[-1000:] if length > 2000 else b"").decode("utf-8", "replace").encode()


def test_output_is_told_while_it_runs(binary: pathlib.Path, record: pathlib.Path, message: pathlib.Path) -> None:
    command: list[object] = [binary, "--record", record, "--tell", message, "--", "sh", "-c", "echo first; echo second >&2; exec sleep 1000"]
    with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, env={"PATH": "/usr/bin:/bin", **SANITIZER}) as process:
        assert process.stdout is not None
        told = pod_told.read(process.stdout.readline())
        process.terminate()
        rest = process.stdout.read()
    assert told is not None
    assert (told.stdout.text, told.stderr.text, told.end) == ("first\n", "second\n", None)
    assert rest == b"", "nothing new, no line"
    assert said(message).cut
    assert said(message).code == 143


def test_a_log_that_nobody_reads_costs_the_log(binary: pathlib.Path, record: pathlib.Path, message: pathlib.Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command: list[object] = [binary, "--record", record, "--tell", message, "--", "seq", "3000"]
    assert subprocess.run([*map(str, command)], stdout=writing, check=False, env={"PATH": "/usr/bin:/bin", **SANITIZER}).returncode == 0
    os.close(writing)
    assert said(message).code == 0


def test_time_is_over(run: Run, record: pathlib.Path, message: pathlib.Path) -> None:
    began = time.monotonic()
    run("--record", record, "--tell", message, "--time", "0.3", "--", "sleep", "1000")
    assert 0.3 <= time.monotonic() - began < 20
    assert (said(message).late, said(message).code, records.late(record)) == (True, 143, True)


def test_a_command_that_is_not_there(run: Run, record: pathlib.Path, message: pathlib.Path) -> None:
    run("--record", record, "--tell", message, "--", "/no/such/program")
    assert said(message).code == 127
    assert "/no/such/program" in said(message).stderr.text


def test_variables(run: Run) -> None:
    done = run("--tee", "--env", "A=b=c", "--env", "ODD NAME=", "--", sys.executable, "-c", "import os; print([os.environ[n] for n in ('A', 'ODD NAME')])")
    assert done.stdout == b"['b=c', '']\n"
    assert run("--env", "novalue", "--", "true").returncode == 125


def test_needs_a_record_and_its_stdout(run: Run, record: pathlib.Path, message: pathlib.Path) -> None:
    assert run("--tell", message, "--", "true").returncode == 125
    assert run("--record", record, "--tee", "--tell", message, "--", "true").returncode == 125


def test_last_words_that_cannot_be_written_do_not_change_the_end(run: Run, record: pathlib.Path, tmp_path: pathlib.Path) -> None:
    done = run("--record", record, "--tell", tmp_path / "none", "--exit-zero", "--", "true")
    assert done.returncode == 0
    assert b"none: No such file" in done.stderr
    assert records.ended(record) is not None
