"""tes-step among trees that a command has made: copied, moved, opened, wiped, and never left by a link."""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from tests.unit.step.running import Run

NOBODY = 65534


@pytest.fixture
def outside(tmp_path: pathlib.Path) -> pathlib.Path:
    """Where no link may lead."""
    directory = tmp_path / "outside"
    directory.mkdir(mode=0o750)
    (directory / "kept").write_text("kept")
    (directory / "kept").chmod(0o640)
    return directory


def tree(path: pathlib.Path, outside: pathlib.Path) -> pathlib.Path:
    (path / "deep/er").mkdir(parents=True)
    (path / "deep/er/file").write_text("text")
    (path / "program").write_text("#!/bin/sh\n")
    (path / "program").chmod(0o700)
    (path / "inner").symlink_to("deep/er/file")
    (path / "outer").symlink_to(outside)
    os.mkfifo(path / "pipe")
    return path


def untouched(outside: pathlib.Path) -> bool:
    kept = outside / "kept"
    return [path.name for path in outside.iterdir()] == ["kept"] and kept.read_text() == "kept" and kept.stat().st_mode & 0o777 == 0o640


class TestCopy:
    def test_a_tree_with_its_links(self, run: Run, tmp_path: pathlib.Path, outside: pathlib.Path) -> None:
        tree(tmp_path / "from", outside)
        done = run("--copy", tmp_path / "from", tmp_path / "to/made", "--copy", tmp_path / "absent", tmp_path / "absent2", "--", "false")
        assert done.returncode == 1
        made = tmp_path / "to/made"
        assert (made / "deep/er/file").read_text() == "text"
        assert [(made / name).stat().st_mode & 0o777 for name in ("deep", "deep/er/file", "program")] == [0o777, 0o666, 0o766]
        assert (made / "inner").readlink() == pathlib.Path("deep/er/file")
        assert (made / "outer").readlink() == outside
        assert not (made / "pipe").exists()
        assert sorted(path.name for path in (tmp_path / "to").iterdir()) == ["made"]
        assert not (tmp_path / "absent2").exists()

    def test_of_a_link_is_of_what_it_leads_to(self, run: Run, tmp_path: pathlib.Path, outside: pathlib.Path) -> None:
        (tmp_path / "from").symlink_to(outside / "kept")
        run("--copy", tmp_path / "from", tmp_path / "to", "--", "true")
        assert not (tmp_path / "to").is_symlink()
        assert (tmp_path / "to").read_text() == "kept"

    @pytest.mark.parametrize("before", ["file", "full", "link", "nothing"])
    def test_replaces_what_is_there(self, run: Run, tmp_path: pathlib.Path, outside: pathlib.Path, before: str) -> None:
        tree(tmp_path / "from", outside)
        to = tmp_path / "to"
        if before == "file":
            to.touch()
        elif before == "full":
            tree(to, outside)
            (to / "old").touch()
        elif before == "link":
            to.symlink_to(outside)
        assert run("--copy", tmp_path / "from", to, "--", "true").stderr == b""
        assert not to.is_symlink()
        assert sorted(path.name for path in to.iterdir()) == ["deep", "inner", "outer", "program"]
        assert untouched(outside)

    def test_follows_no_link_to_its_target(self, run: Run, tmp_path: pathlib.Path, outside: pathlib.Path) -> None:
        (tmp_path / "from").write_text("new")
        (tmp_path / "to").symlink_to(outside)
        done = run("--copy", tmp_path / "from", tmp_path / "to/kept", "--copy", tmp_path / "from", tmp_path / "to/a/b", "--", "true")
        assert done.stderr.count(b"not copied") == 2
        assert untouched(outside)

    def test_of_a_bottomless_tree_ends_in_words(self, run: Run, tmp_path: pathlib.Path) -> None:
        (tmp_path / "from").joinpath(*["d"] * 300).mkdir(parents=True)
        done = run("--copy", tmp_path / "from", tmp_path / "to", "--", "true")
        assert b"not copied" in done.stderr
        assert not (tmp_path / "to").exists()
        assert [path.name for path in tmp_path.iterdir()] == ["from"]


class TestMove:
    def test_takes_a_link_for_what_it_is(self, run: Run, tmp_path: pathlib.Path, outside: pathlib.Path) -> None:
        (tmp_path / "from").symlink_to(outside / "kept")
        run("--move", tmp_path / "from", tmp_path / "a/to", "--move", tmp_path / "absent", tmp_path / "b", "--", "true")
        assert (tmp_path / "a/to").readlink() == outside / "kept"
        assert not (tmp_path / "from").is_symlink()

    def test_follows_none_on_the_way(self, run: Run, tmp_path: pathlib.Path, outside: pathlib.Path) -> None:
        (tmp_path / "from").write_text("new")
        (tmp_path / "to").symlink_to(outside)
        done = run("--move", tmp_path / "from", tmp_path / "to/kept", "--move", tmp_path / "to/kept", tmp_path / "stolen", "--", "true")
        assert done.stderr.count(b"not moved") == 2
        assert untouched(outside)


def test_open_gives_others_access_and_no_more(run: Run, tmp_path: pathlib.Path, outside: pathlib.Path) -> None:
    top = tree(tmp_path / "top", outside)
    (top / "deep/er/file").chmod(0o4700)
    (top / "deep/er").chmod(0o700)
    run("--open", top, "--", "chmod", "0", top)
    assert top.stat().st_mode & 0o7777 == 0o707, "the directory itself, which the command closed"
    assert [(top / name).stat().st_mode & 0o7777 for name in ("deep/er", "deep/er/file", "program")] == [0o707, 0o706, 0o706]
    assert untouched(outside)


class TestWipe:
    @pytest.fixture
    def shared(self) -> Iterator[pathlib.Path]:
        """A directory that an ordinary user can get to."""
        directory = pathlib.Path(tempfile.mkdtemp())
        directory.chmod(0o777)
        yield directory
        shutil.rmtree(directory)

    def test_deletes_what_is_below_but_not_behind_links(self, run: Run, tmp_path: pathlib.Path, outside: pathlib.Path) -> None:
        top = tree(tmp_path / "top", outside)
        (top / ".tes-step.0").mkdir()
        (top / ".tes-step.0/.tes-step.1").mkdir()
        (top / ".tes-step.1").touch()
        assert run("--wipe", top).returncode == 0
        assert list(top.iterdir()) == []
        assert untouched(outside)

    def test_of_a_link_is_refused(self, run: Run, tmp_path: pathlib.Path, outside: pathlib.Path) -> None:
        (tmp_path / "top").symlink_to(outside)
        assert run("--wipe", tmp_path / "top").returncode == 125
        assert run("--wipe", tmp_path / "absent").returncode == 125
        assert untouched(outside)

    def test_needs_no_permission_but_ownership(self, run: Run, binary: pathlib.Path, shared: pathlib.Path) -> None:
        user = NOBODY if os.geteuid() == 0 else os.geteuid()
        program = pathlib.Path(shutil.copy(binary, shared / "tes-step"))
        top = shared / "top"
        (top / "a/b/c").mkdir(parents=True)
        (top / "a/b/c/file").touch()
        (top / "x").mkdir()
        if os.geteuid() == 0:
            for path in [top, *top.rglob("*")]:
                os.chown(path, user, user)
        for name in ("a/b/c", "a/b", "a", "x", ""):
            (top / name).chmod(0)
        as_user = {"user": user, "group": user, "extra_groups": []} if os.geteuid() == 0 else {}
        done = run("--wipe", top, executable=program, cwd=shared, **as_user)
        assert (done.returncode, done.stderr) == (0, b"")
        assert list(top.iterdir()) == []

    def test_takes_any_depth(self, run: Run, tmp_path: pathlib.Path) -> None:
        top = tmp_path / "top"
        top.mkdir()
        here = os.open(top, os.O_RDONLY)
        for _ in range(3000):  # a path of 300,000 characters
            os.mkdir("d" * 100, dir_fd=here)
            below = os.open("d" * 100, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.close(here)
        assert run("--wipe", top).returncode == 0
        assert list(top.iterdir()) == []
