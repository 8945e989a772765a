"""Bytes from file to file."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import IO

import pytest

from tes_server import errors
from tes_server.filer import copying
from tes_server.filer.control import Control

GO = Control(lambda: False)


@contextlib.contextmanager
def file(data: bytes = b"") -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as made:
        made.write(data)
        made.flush()
        yield made


@pytest.mark.parametrize("size", [0, 1, copying.BUFFER, copying.BUFFER * 3 + 1])
@pytest.mark.parametrize("spliced", [True, False])
def test_copy(size: int, spliced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not spliced:
        monkeypatch.setattr(copying, "_copy_range", copying._copy_by_hand)
    data = os.urandom(size)
    with file(data) as source, file() as target:
        assert copying.copy(source.fileno(), target.fileno(), GO) == size
        assert os.pread(target.fileno(), size + 1, 0) == data


def test_file_that_says_it_is_empty() -> None:
    with pathlib.Path("/proc/self/status").open("rb") as source, file() as target:
        assert copying.copy(source.fileno(), target.fileno(), GO) > 0
        assert os.pread(target.fileno(), 5, 0) == b"Name:"


@pytest.mark.parametrize("islands", [[], [0], [1 << 20], [0, 5 << 20], [(8 << 20) - 4]])
def test_holes(islands: list[int]) -> None:
    with file() as source, file() as target:
        source.truncate(8 << 20)
        for start in islands:
            os.pwrite(source.fileno(), b"land", start)
        assert copying.copy(source.fileno(), target.fileno(), GO) == 8 << 20
        assert copying.same(source.fileno(), target.fileno(), GO)
        assert os.fstat(target.fileno()).st_blocks <= os.fstat(source.fileno()).st_blocks


def test_full_disk_is_not_taken_for_something_else() -> None:
    with file(b"x" * 100_000) as source, pathlib.Path("/dev/full").open("wb", buffering=0) as full:
        with pytest.raises(OSError) as caught:
            copying.copy(source.fileno(), full.fileno(), GO)
        assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [(b"", b"", True), (b"a", b"a", True), (b"a", b"b", False), (b"a", b"ab", False), (b"a" * 3_000_000, b"a" * 2_999_999 + b"b", False)],
)
def test_same(one: bytes, other: bytes, same: bool) -> None:
    with file(one) as left, file(other) as right:
        assert copying.same(left.fileno(), right.fileno(), GO) is same


def test_stops() -> None:
    stop = Control(lambda: True)
    with file(b"x") as source, file() as target:
        for move in (copying.copy, copying.same):
            with pytest.raises(errors.Canceled):
                move(source.fileno(), target.fileno(), stop)
        assert os.fstat(target.fileno()).st_size == 0
