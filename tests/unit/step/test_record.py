"""What tes-step leaves behind: the record and its rings."""

from __future__ import annotations

import os
import pathlib
import re
import signal

import pytest

from tes_server.runner import records
from tests.unit.step.running import Run


def test_start_names_the_supervisor(run: Run, record: pathlib.Path) -> None:
    assert run("--record", record, "--", "sh", "-c", 'cat "$0"/start', record, "--tee").returncode == 0
    assert re.fullmatch(r"\d+ \d+ \d{19}\n", (record / "start").read_text())
    assert sorted(path.name for path in record.iterdir()) == ["exit", "start", "stderr", "stdout"]


def test_start_is_there_before_the_command(run: Run, record: pathlib.Path) -> None:
    done = run("--record", record, "--tee", "--", "cat", record / "start")
    assert done.stdout == (record / "start").read_bytes()
    assert not (record / "exit.tmp").exists()


def test_a_record_is_begun_once(run: Run, record: pathlib.Path) -> None:
    assert run("--record", record, "--", "sh", "-c", "echo one").returncode == 0
    again = run("--record", record, "--", "sh", "-c", "echo two")
    assert again.returncode == 125
    assert records.streams(record, 10240) == ("one\n", "")


@pytest.mark.parametrize("keep", [0, 1, 7, 64])
def test_rings_hold_head_and_tail(run: Run, record: pathlib.Path, keep: int) -> None:
    for total in {0, 1, keep - 1, keep, keep + 1, 2 * keep, 2 * keep + 1, 3 * keep + 2} - {-1}:
        text = "".join(chr(ord("a") + index % 26) for index in range(total))
        # in pieces, so that the ring is written at every offset
        script = 'for piece; do printf %s "$piece"; done'
        pieces = re.findall(".{1,5}", text)
        (record / "start").unlink(missing_ok=True)  # a record is begun once
        assert run("--record", record, "--tail", keep, "--", "sh", "-c", script, "sh", *pieces).returncode == 0
        left_out = total - 2 * keep
        gap = f"\n... {left_out} bytes left out ...\n" if left_out > 0 else ""
        expected = text[:keep] + gap + (text[keep:][-keep:] if keep else "")
        assert records.streams(record, keep)[0] == expected, total
        assert (record / "stdout").stat().st_size == 8 + 2 * keep


def test_much_output_is_quick_and_stays_small(run: Run, record: pathlib.Path) -> None:
    total = 200_000_000
    assert run("--record", record, "--", "head", "-c", total, "/dev/zero").returncode == 0
    assert int.from_bytes((record / "stdout").read_bytes()[:8], "little") == total
    assert (record / "stdout").stat().st_size == 8 + 2 * 10240


def test_a_command_that_closes_its_output_goes_on(run: Run, record: pathlib.Path) -> None:
    assert run("--record", record, "--", "sh", "-c", "echo before; exec >&- 2>&-; sleep 0.05; exit 5").returncode == 5
    assert records.streams(record, 10240) == ("before\n", "")


def test_a_daemon_that_keeps_the_output_is_not_waited_for(run: Run, record: pathlib.Path, tmp_path: pathlib.Path) -> None:
    try:
        assert run("--record", record, "--", "sh", "-c", f"(sleep 1000 & echo $! > {tmp_path}/pid); yes | head -c 50000").returncode == 0
        assert int.from_bytes((record / "stdout").read_bytes()[:8], "little") == 50000
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_a_daemon_that_writes_for_ever_is_not_listened_to(run: Run, record: pathlib.Path, tmp_path: pathlib.Path) -> None:
    try:
        assert run("--record", record, "--", "sh", "-c", f"(yes & echo $! > {tmp_path}/pid); exit 4").returncode == 4
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_nothing_runs_without_a_record(run: Run, record: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "link").symlink_to(record)
    (record / "stderr").symlink_to("/dev/null")
    for directory in (tmp_path / "missing", tmp_path / "link", record):
        assert run("--record", directory, "--", "touch", tmp_path / "ran").returncode == 125
        assert not (tmp_path / "ran").exists()
    assert records.start(record) is None


@pytest.mark.parametrize(
    ("counters", "killed"),
    [
        ("low 0\nhigh 0\nmax 8\noom 1\noom_kill 2\noom_group_kill 0\n", True),
        ("low 0\nhigh 0\nmax 8\noom 1\noom_kill 0\noom_group_kill 1\n", False),
        ("oom_kill_disable 1\nunder_oom 0\noom_kill 0\n", False),
        ("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", True),
        ("", False),
    ],
)
def test_a_kill_for_memory_is_marked(run: Run, record: pathlib.Path, tmp_path: pathlib.Path, counters: str, killed: bool) -> None:
    (tmp_path / "counters").write_text(counters)
    assert run("--record", record, "--oom", tmp_path / "none", "--oom", tmp_path / "counters", "--", "sh", "-c", "exit 3").returncode == 3
    assert records.out_of_memory(record) is killed
