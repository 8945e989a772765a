"""The name of a data directory: made once, whole or not at all, never guessed."""

from __future__ import annotations

import concurrent.futures
import errno
import os
import pathlib
import shutil

import pytest

from tes_server import errors
from tes_server.backends.local import place


def test_it_is_made_once_and_kept(tmp_path: pathlib.Path) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        names = set(pool.map(lambda _: place.place(tmp_path), range(40)))
    assert len(names) == 1
    assert place.place(tmp_path) in names
    assert [path.name for path in tmp_path.iterdir()] == ["place"]
    other = tmp_path / "other"
    other.mkdir()
    assert place.place(other) not in names


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(errors.SettingsError, match=r"data: .*/place, .* cannot be read or written: No space left on device"):
            place.place(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert place.place(tmp_path)


@pytest.mark.parametrize("body", [b"", b"host", b"host/zz", b"\xff\xfe", b"a host/0123456789abcdef"])
def test_what_somebody_spoiled_is_not_replaced(tmp_path: pathlib.Path, body: bytes) -> None:
    """With another name, what runs here would be lost to everybody."""
    (tmp_path / "place").write_bytes(body)
    with pytest.raises(errors.SettingsError, match=r"^data: "):
        place.place(tmp_path)
    assert (tmp_path / "place").read_bytes() == body


def test_a_directory_that_moves_keeps_its_name(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").mkdir()
    name = place.place(tmp_path / "a")
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert place.place(tmp_path / "b") == name
