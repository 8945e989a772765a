"""The scheme `file` under the contract, and what only it has: directories, roots and links."""

from __future__ import annotations

import os
import pathlib
import urllib.parse

import pytest

from tes_server.filer import copying, local, rooted
from tes_server.filer.control import Control
from tes_server.filer.manifest import Access
from tests.contract import scheme_contract
from tests.contract.scheme_contract import tree_of


def file_url(path: pathlib.Path) -> str:
    return "file://" + urllib.parse.quote(str(path))


def files(root: pathlib.Path, control: Control | None = None) -> local.Files:
    return local.Files(Access(roots=(str(root),)), control or Control(lambda: False), "attempt")


class TestFileReader(scheme_contract.ReaderContract):
    large = copying.PIECE + 1

    @pytest.fixture(autouse=True)
    def _root(self, tmp_path: pathlib.Path) -> None:
        self.root = tmp_path / "root"
        self.root.mkdir()

    def publish(self, name: str, data: bytes) -> str:
        (self.root / name).write_bytes(data)
        return file_url(self.root / name)

    def publish_denied(self) -> str:
        outside = self.root.parent / f"{scheme_contract.SECRET}"
        outside.write_bytes(b"secret")
        (self.root / "way-out").symlink_to(outside)
        return file_url(self.root / "way-out")

    def reader(self, control: Control) -> local.Files:
        return files(self.root, control)

    def test_directory(self) -> None:
        for name in ("deep/deeper/empty", "with space"):
            (self.root / "d" / name).mkdir(parents=True)
        (self.root / "d" / "deep" / "x").write_bytes(b"x")
        (self.root / "d" / ".hidden").write_bytes(b"")
        found = tree_of(self.reader(self.control).source(file_url(self.root / "d") + "/"), self.control)
        assert found == {"": None, "deep": None, "deep/deeper": None, "deep/deeper/empty": None, "with space": None, "deep/x": b"x", ".hidden": b""}

    def test_nothing_outside_tells_whether_it_is_there(self) -> None:
        for path in ("/etc/passwd", "/etc/no-such-file", str(self.root) + "/../elsewhere", str(self.root) + "-sibling/x"):
            assert self.code(file_url(pathlib.Path(path))) == "INPUT_DENIED"

    def test_root_behind_a_link(self) -> None:
        (self.root / "x").write_bytes(b"x")
        alias = self.root.parent / "alias"
        alias.symlink_to("root")
        reader = files(alias)
        for path in (alias, self.root):
            assert tree_of(reader.source(file_url(path / "x")), self.control) == {"": b"x"}

    def test_no_roots(self) -> None:
        url = self.publish("x", b"x")
        with pytest.raises(rooted.Outside):
            list(local.Files(Access(), self.control, "attempt").source(url))

    def test_name_that_is_no_utf8(self) -> None:
        (self.root / os.fsdecode(b"caf\xe9")).write_bytes(b"x")
        assert tree_of(self.reader(self.control).source(file_url(self.root) + "/caf%E9"), self.control) == {"": b"x"}


class TestFileWriter(scheme_contract.WriterContract):
    @pytest.fixture(autouse=True)
    def _root(self, tmp_path: pathlib.Path) -> None:
        self.root = tmp_path / "root"
        self.root.mkdir()

    def writer(self) -> local.Files:
        return files(self.root)

    def url(self) -> str:
        return file_url(self.root / "out put")

    def denied_url(self) -> str:
        return file_url(self.root.parent / "elsewhere")

    def arrived(self) -> dict[str, bytes]:
        base = self.root / "out put"
        return {str(path.relative_to(base)): path.read_bytes() for path in base.rglob("*") if path.is_file()}

    def test_mode_follows_the_umask(self) -> None:
        before = os.umask(0o027)
        try:
            target = self.writer().target(self.url() + "/new")
            target.put("x", self.made("x", b"x"))
            (self.local / "tool").write_bytes(b"#!")
            (self.local / "tool").chmod(0o700)
            target.put("tool", self.made("tool", b"#!"))
        finally:
            os.umask(before)
        base = self.root / "out put" / "new"
        assert [path.stat().st_mode & 0o777 for path in (base, base / "x", base / "tool")] == [0o750, 0o640, 0o750]

    def test_same_bytes_are_left_alone(self) -> None:
        target = self.writer().target(self.url())
        target.put("x", self.made("x", b"same"))
        there = (self.root / "out put" / "x").stat()
        target.put("x", self.made("x", b"same"))
        assert (self.root / "out put" / "x").stat().st_ino == there.st_ino
        target.put("x", self.made("x", b"diff"))
        assert (self.root / "out put" / "x").read_bytes() == b"diff"

    def test_file_where_a_directory_is(self) -> None:
        (self.root / "out put" / "x").mkdir(parents=True)
        with pytest.raises(IsADirectoryError, match="the target is a directory"):
            self.writer().target(self.url()).put("x", self.made("x", b"x"))

    def test_directory_where_a_file_is(self) -> None:
        (self.root / "out put").write_bytes(b"")
        with pytest.raises(NotADirectoryError, match="a file is there"):
            self.writer().target(self.url())

    def test_existing_link_is_replaced_not_written_through(self) -> None:
        outside = self.root.parent / "precious"
        outside.write_bytes(b"precious")
        (self.root / "out put").mkdir()
        (self.root / "out put" / "x").symlink_to(outside)
        self.writer().target(self.url()).put("x", self.made("x", b"x"))
        assert outside.read_bytes() == b"precious"
        assert self.arrived() == {"x": b"x"}

    @pytest.mark.parametrize("link", ["..", "../..", "/etc"])
    def test_links_out_of_the_root(self, link: str) -> None:
        (self.root / "out put").mkdir()
        (self.root / "out put" / "way-out").symlink_to(f"../{link}" if link.startswith(".") else link)
        with pytest.raises(PermissionError):
            self.writer().target(self.url() + "/way-out/new")
        with pytest.raises(OSError, match=r"[Nn]ot a directory"):
            self.writer().target(self.url()).put("way-out/new", self.made("x", b"x"))
        assert not (self.root.parent / "new").exists()

    def test_what_a_crash_left_is_replaced(self) -> None:
        target = self.writer().target(self.url())
        target.put("x", self.made("x", b"x"))
        leftover = target._slot("x")[2]
        (self.root / "out put" / leftover).write_bytes(b"half")
        self.writer().target(self.url()).put("x", self.made("x", b"new"))
        assert self.arrived() == {"x": b"new"}
