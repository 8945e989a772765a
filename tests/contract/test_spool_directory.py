"""A directory as spool."""

from __future__ import annotations

import errno
import os
import pathlib
from collections.abc import Callable

import pytest

from tes_server import errors
from tes_server.filer.spool import Shelf, Spool
from tes_server.filer.spool_directory import SpoolDirectory
from tes_server.model.run import Report
from tests.contract.spool_contract import ONE, TWO, SpoolContract, plan_of


class TestSpoolDirectory(SpoolContract):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: pathlib.Path) -> None:
        self.place = tmp_path / "spool"

    @pytest.fixture(autouse=True)
    def _spool(self, _place: None) -> None:
        self.spool = Spool(self.shelf())

    def shelf(self) -> Shelf:
        return SpoolDirectory(self.place)

    def test_nothing_is_left_over(self) -> None:
        for attempt in (ONE, TWO):
            self.spool.put_plan(attempt, plan_of(attempt))
            self.spool.take(attempt, "a")
            self.spool.take(attempt, "b")
        files = sorted(str(path.relative_to(self.place)) for path in self.place.rglob("*") if path.is_file())
        assert files == [f"task-1/{number}/{what}.json" for number in (1, 2) for what in ("plan", "started")]
        self.spool.sweep(ONE)
        self.spool.sweep(TWO)
        assert list(self.place.iterdir()) == []

    def test_a_private_one_is_for_its_owner_alone(self) -> None:
        SpoolDirectory(self.place, private=True).write("day/object", b"tasks of all owners")
        modes = {path.name: path.stat().st_mode & 0o777 for path in (self.place, *self.place.rglob("*"))}
        assert modes == {"spool": 0o700, "day": 0o700, "object": 0o600}

    def test_what_a_crash_left_is_no_object_and_goes_with_the_rest(self) -> None:
        self.spool.put_plan(ONE, plan_of(ONE))
        (self.place / "task-1" / "1" / ".tes-0123").write_bytes(b"half")
        assert set(self.shelf().names("")) == {"task-1/1/plan.json"}
        self.spool.sweep(ONE)
        assert list(self.place.iterdir()) == []

    def test_everything_is_synced_before_it_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """File, then name, then directory: in this order, and before the call returns."""
        done: list[str] = []
        real: dict[str, Callable[..., None]] = {"fsync": os.fsync, "link": os.link, "rename": os.rename}

        def fsync(fd: int) -> None:
            done.append("directory" if os.path.isdir(f"/proc/self/fd/{fd}") else "file")  # noqa: PTH112
            real["fsync"](fd)

        def link(*paths: str) -> None:
            done.append("link")
            real["link"](*paths)

        def rename(*paths: str) -> None:
            done.append("rename")
            real["rename"](*paths)

        self.spool.put_report(ONE, Report())
        for name, replacement in (("fsync", fsync), ("link", link), ("rename", rename)):
            monkeypatch.setattr(os, name, replacement)
        self.spool.take(ONE, "a")
        self.spool.put_report(ONE, Report())
        assert done == ["file", "link", "directory", "file", "rename", "directory"]

    @pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
    def test_a_file_system_without_hard_links_is_refused(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        def link(*_: object) -> None:
            raise OSError(number, "no")

        monkeypatch.setattr(os, "link", link)
        with pytest.raises(errors.Unavailable, match="spool directory"):
            self.spool.check()
        assert list(self.shelf().names("")) == []

    def test_a_file_in_the_way(self) -> None:
        self.place.write_text("x")
        with pytest.raises(errors.Unavailable):
            self.spool.take(ONE, "a")
        with pytest.raises(errors.Unavailable):
            self.spool.report(ONE)
