"""Locks of attempts, between processes."""

from __future__ import annotations

import os
import pathlib
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tes_server import step
from tes_server.runner.node_place import Place

HOLD = """
import pathlib, sys
from tes_server.runner.node_place import Place
lock = Place(pathlib.Path(sys.argv[1])).take("t-1")
print(lock is not None, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path: pathlib.Path) -> Place:
    return Place(tmp_path / "deep" / "work")


def test_it_is_for_its_owner_alone_whatever_the_umask(tmp_path: pathlib.Path) -> None:
    umask = os.umask(0)
    try:
        place = Place(tmp_path / "work")
        place.program()
    finally:
        os.umask(umask)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (place.work, *place.work.iterdir())} == {0o700}


def test_one_has_it_until_it_lets_go(place: Place) -> None:
    first = place.take("t-1")
    assert first is not None
    assert place.take("t-1") is None
    assert place.take("t-2") is not None
    first.release()
    second = place.take("t-1")
    assert second is not None


def test_a_lock_goes_with_its_process(place: Place) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, place.work], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        assert place.take("t-1") is None
        process.kill()
    assert place.take("t-1") is not None


def test_nobody_is_left_with_a_lock_that_was_deleted(place: Place) -> None:
    """Many take and let go at once: a holder's file must be the one that others try."""
    holders = [0]

    def work(_: int) -> int:
        taken = 0
        for _ in range(200):
            lock = place.take("t-1")
            if lock is not None:
                holders[0] += 1
                assert holders[0] == 1
                holders[0] -= 1
                taken += 1
                lock.release()
        return taken

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) >= 1
    assert list((place.work / "locks").iterdir()) == []


def test_the_program_is_mended_where_it_was_cut_off(place: Place) -> None:
    program = place.program()
    assert program.read_bytes() == step.path().read_bytes()
    assert program.stat().st_mode & 0o555 == 0o555
    program.write_bytes(b"short")
    assert place.program() == program
    assert program.read_bytes() == step.path().read_bytes()
    assert list(program.parent.iterdir()) == [program]
