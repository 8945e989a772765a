"""The sync at the end. That data survives a power cut cannot be tested here; which calls are made can."""

from __future__ import annotations

import os
import pathlib

import pytest

from tes_server.filer import durable
from tes_server.filer.rooted import Realm, listable


class Calls:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files: list[str] = []
        self.disks = 0
        fsync, syncfs = os.fsync, durable.sync_disk

        def counted_fsync(fd: int) -> None:
            self.files.append(pathlib.Path(f"/proc/self/fd/{fd}").readlink().name)
            fsync(fd)

        def counted_sync_disk(fd: int) -> None:
            self.disks += 1
            syncfs(fd)

        monkeypatch.setattr(os, "fsync", counted_fsync)
        monkeypatch.setattr(durable, "sync_disk", counted_sync_disk)


@pytest.mark.parametrize(("count", "single"), [(0, True), (3, True), (durable.FEW, True), (durable.FEW + 1, False), (100, False)])
def test_few_singly_many_at_once(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, count: int, single: bool) -> None:
    calls = Calls(monkeypatch)
    (tmp_path / "d").mkdir()
    folder = listable(Realm(str(tmp_path)).find("/d").folder)
    written = durable.Written()
    for number in range(count):
        (tmp_path / "d" / str(number)).write_text("x")
        written.add(folder, str(number))
    written.sync()
    assert calls.disks == (0 if single else 1)
    assert calls.files == ([*map(str, range(count)), "d"] if single and count else [])
    written.sync()
    assert len(calls.files) == (count + 1 if single and count else 0)


def test_what_can_not_be_synced_is_an_error(tmp_path: pathlib.Path) -> None:
    folder = Realm(str(tmp_path)).root  # O_PATH: the kernel refuses to sync through it
    with pytest.raises(OSError, match="Bad file descriptor"):
        durable.sync_disk(folder.fd)
