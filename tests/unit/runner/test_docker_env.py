"""The environment by a named pipe, without a container."""

from __future__ import annotations

import pathlib
import stat
import threading

import pytest

from tes_server import errors
from tes_server.plan.steps import Execute, Limits
from tes_server.runner import docker_env
from tes_server.runner.engine import Cell


@pytest.fixture
def cell(tmp_path: pathlib.Path) -> Cell:
    step = Execute(index=0, image="i", argv=("a",), env={"A": "s3cr3t", "B": "x" * 200_000})
    return Cell(name="t-1-0", step=step, mounts=(), limits=Limits(cpus=1, ram_bytes=1), volume=tmp_path, record=tmp_path)


def test_the_reader_gets_it_whole_and_nothing_is_left(cell: Cell) -> None:
    docker_env.make(cell)
    docker_env.make(cell)
    assert stat.S_IMODE((cell.record / "env").stat().st_mode) == 0o666
    giver = threading.Thread(target=docker_env.give, args=(cell, lambda: True))
    giver.start()
    assert (cell.record / "env").read_bytes() == b"A=s3cr3t\0B=" + b"x" * 200_000 + b"\0"
    giver.join(30)
    assert list(cell.record.iterdir()) == []


def test_nobody_reads(cell: Cell) -> None:
    docker_env.make(cell)
    docker_env.give(cell, lambda: False)


def test_a_command_that_has_begun_needs_none(cell: Cell) -> None:
    docker_env.make(cell)
    (cell.record / "start").write_text("1 2 3\n")
    docker_env.give(cell, lambda: True)


def test_nothing_is_written_into_a_file(cell: Cell) -> None:
    (cell.record / "env").touch()
    docker_env.make(cell)
    with pytest.raises(errors.EngineError):
        docker_env.give(cell, lambda: True)
    assert (cell.record / "env").read_bytes() == b""
