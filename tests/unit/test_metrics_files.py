"""The shared files of the metrics: in memory, ours alone, gone with the server."""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Iterator

import pytest

from tes_server import metrics_files


@pytest.fixture(autouse=True)
def variable() -> Iterator[None]:
    yield
    os.environ.pop(metrics_files.VARIABLE, None)


@pytest.fixture
def memory(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "memory").mkdir()
    return tmp_path / "memory"


def shared(data: pathlib.Path, memory: pathlib.Path) -> pathlib.Path:
    metrics_files.share(data, memory)
    return pathlib.Path(os.environ[metrics_files.VARIABLE])


def test_processes_of_a_data_directory_share_one(tmp_path: pathlib.Path, memory: pathlib.Path) -> None:
    place = shared(tmp_path, memory)
    assert place == shared(tmp_path, memory)
    assert place.parent == memory
    assert place.stat().st_mode & 0o777 == 0o700
    assert place != shared(memory, memory)


def test_a_directory_that_others_may_enter_is_not_used(tmp_path: pathlib.Path, memory: pathlib.Path) -> None:
    shared(tmp_path, memory).chmod(0o777)
    assert shared(tmp_path, memory) == tmp_path / "metrics"


def test_a_link_is_not_followed(tmp_path: pathlib.Path, memory: pathlib.Path) -> None:
    place = shared(tmp_path, memory)
    place.rmdir()
    place.symlink_to(tmp_path)
    assert shared(tmp_path, memory) == tmp_path / "metrics"


def test_without_memory_they_lie_with_the_data(tmp_path: pathlib.Path) -> None:
    assert shared(tmp_path, tmp_path / "none") == tmp_path / "metrics"


def test_whoever_leaves_takes_its_own(tmp_path: pathlib.Path, memory: pathlib.Path) -> None:
    place = shared(tmp_path, memory)
    (place / f"counter_{os.getpid()}.db").touch()
    (place / "counter_1.db").touch()
    metrics_files.leave()
    assert [path.name for path in place.iterdir()] == ["counter_1.db"]
    metrics_files.clear()
    metrics_files.leave()
    assert not place.exists()
    metrics_files.leave()  # nothing left to do


def test_the_last_one_takes_what_the_dead_left(tmp_path: pathlib.Path, memory: pathlib.Path) -> None:
    """A server of the API alone cannot tell by a lock whether it is the last."""
    place = shared(tmp_path, memory)
    ended = subprocess.Popen(["true"])
    ended.wait()
    (place / f"counter_{ended.pid}.db").touch()
    metrics_files.leave()
    assert not place.exists()
