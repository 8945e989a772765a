"""Records as a hostile command may leave them: read in bounds, or refused in words."""

from __future__ import annotations

import datetime
import fcntl
import os
import pathlib
import threading

import pytest

from tes_server import errors
from tes_server.runner import records
from tes_server.runner.engine import CellState

SECOND = 1_795_000_000


def ring(total: int, content: bytes) -> bytes:
    return total.to_bytes(8, "little") + content


class TestLines:
    def test_start(self, tmp_path: pathlib.Path) -> None:
        assert records.start(tmp_path) is None
        (tmp_path / "start").write_text(f"12 3456 {SECOND}123456789\n")
        time = datetime.datetime.fromtimestamp(SECOND, datetime.UTC).replace(microsecond=123456)
        assert records.start(tmp_path) == records.Start(12, 3456, time)

    def test_exit(self, tmp_path: pathlib.Path) -> None:
        assert records.ended(tmp_path) is None
        (tmp_path / "exit").write_text(f"137 9 {SECOND}000000000 {SECOND + 1}500000000\n")
        ended = records.ended(tmp_path)
        assert ended is not None
        assert (ended.code, ended.signal, ended.oom) == (137, 9, False)
        assert ended.end_time - ended.start_time == datetime.timedelta(seconds=1.5)

    def test_out_of_memory(self, tmp_path: pathlib.Path) -> None:
        assert not records.out_of_memory(tmp_path)
        (tmp_path / "oom").touch()
        assert records.out_of_memory(tmp_path)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "\n",
            "0",
            "0 0 1 1",
            "0 0 1\n",
            "0 0 1 1 1\n",
            "-1 0 1 1\n",
            "256 0 1 1\n",
            "0 65 1 1\n",
            "0x1 0 1 1\n",
            "0 0 1 1\n\n",
            "0  0 1 1\n",
            "0 0 1 ١\n",
            "0 0 1 " + "9" * 19 + "9\n",
            "9" * 4000,
        ],
    )
    def test_of_another_form_are_damaged(self, tmp_path: pathlib.Path, text: str) -> None:
        (tmp_path / "exit").write_text(text)
        with pytest.raises(errors.EngineError, match="exit record of the command is damaged"):
            records.ended(tmp_path)
        assert records.state(tmp_path) is CellState.ENDED  # never run again because of it

    def test_the_latest_time_that_fits_is_no_crash(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "exit").write_text(f"0 0 1 {'9' * 19}\n")
        ended = records.ended(tmp_path)
        assert ended is not None
        assert ended.end_time.year == 2286


class TestFiles:
    @pytest.mark.parametrize("kind", ["link", "pipe", "device", "directory"])
    def test_what_is_no_regular_file_is_refused(self, tmp_path: pathlib.Path, kind: str) -> None:
        (tmp_path / "secret").write_text("0 0 1 1\n")
        for name, read in (("start", records.start), ("exit", records.ended), ("stdout", lambda record: records.streams(record, 10))):
            path = tmp_path / name
            if kind == "pipe":
                os.mkfifo(path)
            elif kind == "directory":
                path.mkdir()
            else:
                path.symlink_to("/dev/zero" if kind == "device" else tmp_path / "secret")
            with pytest.raises(errors.EngineError, match="damaged"):
                read(tmp_path)

    def test_a_lock_that_is_a_link_is_refused(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "lock").symlink_to(tmp_path / "other")
        for use in (records.locked, records.await_end):
            with pytest.raises(errors.EngineError, match="damaged"):
                use(tmp_path)
        with pytest.raises(OSError, match="symbolic links"):
            records.take_lock(tmp_path)
        assert not (tmp_path / "other").exists()


class TestStreams:
    @pytest.mark.parametrize(
        ("data", "text"),
        [
            (b"", ""),
            (b"\1\0\0", ""),
            (ring(0, bytes(8)), ""),
            (ring(3, b"abc\0\0\0\0\0"), "abc"),
            (ring(4, b"abcd\0\0\0\0"), "abcd"),
            (ring(6, b"abcdef\0\0"), "abcdef"),
            (ring(8, b"abcdefgh"), "abcdefgh"),
            (ring(9, b"abcdifgh"), "abcd\n... 1 bytes left out ...\nfghi"),
            (ring(3, b"\xff\xfe\xc3"), "\ufffd\ufffd\ufffd"),
        ],
    )
    def test_are_put_together(self, tmp_path: pathlib.Path, data: bytes, text: str) -> None:
        (tmp_path / "stderr").write_bytes(data)
        assert records.streams(tmp_path, 4) == ("", text)

    @pytest.mark.parametrize("data", [ring(2**64 - 1, b""), ring(2**64 - 1, b"abc"), ring(2**63, b"abcdefgh"), ring(5, b""), ring(7, b"ab")])
    def test_that_lie_cost_nothing(self, tmp_path: pathlib.Path, data: bytes) -> None:
        (tmp_path / "stdout").write_bytes(data)
        assert len(records.streams(tmp_path, 4)[0]) < 100

    def test_are_read_in_bounds(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "stdout").write_bytes(ring(1 << 40, b"x" * 100_000))
        assert len(records.streams(tmp_path, 10)[0]) < 100

    def test_nothing_is_kept_where_nothing_was_asked_for(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "stdout").write_bytes(ring(5, b""))
        assert records.streams(tmp_path, 0)[0] == "\n... 5 bytes left out ...\n"


class TestState:
    def test_follows_lock_and_records(self, tmp_path: pathlib.Path) -> None:
        assert records.state(tmp_path / "missing") is CellState.ABSENT
        assert records.state(tmp_path) is CellState.ABSENT
        lock = records.take_lock(tmp_path)
        assert lock is not None
        assert records.state(tmp_path) is CellState.RUNNING
        assert records.take_lock(tmp_path) is None
        (tmp_path / "start").write_text("1 1 1\n")
        assert records.state(tmp_path) is CellState.RUNNING
        os.close(lock)
        assert records.state(tmp_path) is CellState.LOST
        (tmp_path / "exit").write_text("0 0 1 1\n")
        assert records.state(tmp_path) is CellState.ENDED

    def test_a_probe_does_not_look_like_a_supervisor(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "lock").touch()
        with (tmp_path / "lock").open() as probe:
            fcntl.flock(probe, fcntl.LOCK_SH)
            assert not records.locked(tmp_path)

    def test_waiting_ends_with_the_lock(self, tmp_path: pathlib.Path) -> None:
        records.await_end(tmp_path)
        lock = records.take_lock(tmp_path)
        assert lock is not None
        waiter = threading.Thread(target=records.await_end, args=[tmp_path])
        waiter.start()
        assert waiter.is_alive()
        os.close(lock)
        waiter.join(30)
        assert not waiter.is_alive()

    def test_a_stop_never_signals_a_stranger(self, tmp_path: pathlib.Path) -> None:
        """Our own pid with another start time: had it been signalled, this test would be dead."""
        ticks = records.start_ticks(os.getpid())
        assert ticks
        (tmp_path / "start").write_text(f"{os.getpid()} {ticks + 1} 1\n")
        records.ask_to_stop(tmp_path, 1.5)
        assert (tmp_path / "stop").read_text() == "1500000000"
        assert records.start_ticks(2**22 + 1) is None
