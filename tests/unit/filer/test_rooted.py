"""Look-ups below a root, with links that try to leave it."""

from __future__ import annotations

import ctypes
import errno
import os
import pathlib
import struct
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tes_server.filer import rooted
from tes_server.filer.rooted import Realm

OPENAT2 = 437
RESOLVE_IN_ROOT = 0x10


@pytest.fixture
def base(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "root" / "a" / "b").mkdir(parents=True)
    (tmp_path / "root" / "a" / "file").write_text("x")
    (tmp_path / "secret").write_text("secret")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "real"),
    [("/a/file", "/a/file"), ("a//./file", "/a/file"), ("/a/b/../file", "/a/file"), ("/../../a", "/a"), ("/", "/"), ("/a/b/", "/a/b"), ("", "/")],
)
def test_paths(base: pathlib.Path, path: str, real: str) -> None:
    assert Realm(str(base / "root")).find(path).real == real


@pytest.mark.parametrize(
    ("target", "real"),
    [
        ("/a/file", "/a/file"),
        ("a/file", "/a/file"),
        ("../../../a/file", "/a/file"),
        ("/a/b/../file", "/a/file"),
        ("/../../a", "/a"),
        (".", "/"),
        ("/link2", "/a/b"),
    ],
)
def test_links_count_from_the_root(base: pathlib.Path, target: str, real: str) -> None:
    (base / "root" / "link").symlink_to(target)
    (base / "root" / "link2").symlink_to("a/b")
    assert Realm(str(base / "root")).find("/link").real == real


def test_missing_parts(base: pathlib.Path) -> None:
    (base / "root" / "link").symlink_to("/a/not")
    place = Realm(str(base / "root")).place("/link/there//x/.")
    assert (place.rest, place.status, place.real) == (("not", "there", "x"), None, "/a/not/there/x")
    for path in ("/link/there", "/not", "/not/../a"):
        with pytest.raises(FileNotFoundError):
            Realm(str(base / "root")).find(path)
    with pytest.raises(NotADirectoryError):
        Realm(str(base / "root")).find("/a/file/x")


def test_allowed_directories(base: pathlib.Path) -> None:
    (base / "root" / "out").symlink_to(base / "secret")
    realm = Realm("/", [str(base / "root" / "a"), str(base / "root" / "file")])
    assert realm.find(f"{base}/root/a/file").status is not None
    for path in (f"{base}/root", f"{base}/root/ab", f"{base}/root/out", f"{base}/secret", f"{base}/root/a/../../secret", "/", "/no/where"):
        with pytest.raises(rooted.Outside):
            realm.place(path)
    with pytest.raises(rooted.Outside):
        Realm("/", []).place("/")


@pytest.mark.parametrize("target", ["/loop", "loop", "./loop/x"])
def test_loops_end(base: pathlib.Path, target: str) -> None:
    (base / "root" / "loop").symlink_to(target)
    with pytest.raises(OSError, match="too many links"):
        Realm(str(base / "root")).find("/loop")


def test_links_made_to_cost_time_end(base: pathlib.Path) -> None:
    (base / "root" / "slow").symlink_to("a/b/../.." + "/a/b/../.." * 300)
    with pytest.raises(OSError, match="too many links"):
        Realm(str(base / "root")).find("/slow" * 30)


def test_files_are_opened_as_what_they_are(base: pathlib.Path) -> None:
    os.mkfifo(base / "root" / "a" / "fifo")
    (base / "root" / "a" / "link").symlink_to("file")
    folder = Realm(str(base / "root")).find("/a").folder
    fd = rooted.open_file(folder, "file")
    assert os.read(fd, 9) == b"x"
    os.close(fd)
    for name in ("fifo", "link", "b"):
        with pytest.raises(OSError, match="is not a regular file"):
            rooted.open_file(folder, name)


def test_directory_swapped_for_a_link(base: pathlib.Path) -> None:
    """What was opened stays what it was, and the swapped name is refused."""
    folder = Realm(str(base / "root")).find("/a").folder
    (base / "root" / "a" / "b").rmdir()
    (base / "root" / "a" / "b").symlink_to("/")
    with pytest.raises(OSError, match=r"[Nn]ot a directory"):
        rooted.listable(folder, "b")
    with pytest.raises(OSError, match=r"[Nn]ot a directory"):
        rooted.make(folder, "b")


def test_descriptors_close(base: pathlib.Path) -> None:
    before = list(pathlib.Path("/proc/self/fd").iterdir())
    for _ in range(50):
        Realm(str(base / "root")).find("/a/b/../b/../file")
    assert len(list(pathlib.Path("/proc/self/fd").iterdir())) == len(before)


PART = st.sampled_from(["..", ".", "a", "b", "c", "l", "m", "/"])


def kernel_finds(root: pathlib.Path, path: str) -> tuple[int, int] | None:
    """Device and inode of `path` as openat2(RESOLVE_IN_ROOT) of the kernel sees it, None if there is nothing."""
    folder = os.open(root, os.O_PATH)
    try:
        how = struct.pack("QQQ", os.O_PATH, 0, RESOLVE_IN_ROOT)
        fd = ctypes.CDLL(None, use_errno=True).syscall(OPENAT2, folder, (path or ".").encode(), how, len(how))
    finally:
        os.close(folder)
    if fd < 0:
        if ctypes.get_errno() in (errno.ENOSYS, errno.EPERM):
            pytest.skip("no openat2 here")
        return None
    status = os.fstat(fd)
    os.close(fd)
    return status.st_dev, status.st_ino


@settings(max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(["l", "a/l", "a/b/m"]), st.lists(PART, min_size=1, max_size=5)), max_size=3), st.lists(PART, min_size=1, max_size=5))
def test_same_as_the_kernel(links: list[tuple[str, list[str]]], parts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as base:
        root = pathlib.Path(base, "r")
        (root / "a" / "b").mkdir(parents=True)
        for name, target in dict(links).items():
            (root / name).symlink_to("/".join(target))
        path = "/".join(parts)
        try:
            place = Realm(str(root)).find(path)
        except OSError:
            assert kernel_finds(root, path) is None
            return
        assert place.status is not None
        assert kernel_finds(root, path) == (place.status.st_dev, place.status.st_ino)
        assert os.path.realpath(base + "/r" + place.real) == os.path.normpath(os.path.realpath(base) + "/r" + place.real)
