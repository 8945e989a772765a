"""Small directories are deleted here, and nothing outside of them; others are left to tes-step."""

from __future__ import annotations

import os
import pathlib

import pytest

from tes_server.runner import small_tree


def test_deletes_files_links_pipes_and_directories(tmp_path: pathlib.Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    top = tmp_path / "top"
    (top / "a/b").mkdir(parents=True)
    (top / "a/b/file").touch()
    (top / "link").symlink_to(outside)
    (top / "a/dangling").symlink_to("nowhere")
    os.mkfifo(top / "pipe")
    assert small_tree.remove(top)
    assert not top.exists()
    assert (outside / "kept").exists()


def test_what_is_not_there_is_gone(tmp_path: pathlib.Path) -> None:
    assert small_tree.remove(tmp_path / "absent")


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("real"), lambda path: path.touch()])
def test_only_directories_are_trees(tmp_path: pathlib.Path, make: object) -> None:
    assert callable(make)
    (tmp_path / "real").mkdir()
    make(tmp_path / "top")
    assert not small_tree.remove(tmp_path / "top")
    assert (tmp_path / "top").exists()
    assert (tmp_path / "real").exists()


@pytest.mark.parametrize(("count", "gone"), [(small_tree.MOST, True), (small_tree.MOST + 1, False)])
def test_many_entries_are_left_to_others(tmp_path: pathlib.Path, count: int, gone: bool) -> None:
    top = tmp_path / "top"
    (top / "in").mkdir(parents=True)
    for number in range(count - 1):
        (top / "in" / str(number)).touch()
    assert small_tree.remove(top) is gone
    assert top.exists() is not gone


def test_empty_directories_need_not_be_opened(tmp_path: pathlib.Path) -> None:
    """An overlay's work directory has one of mode 0 in it; for an ordinary user opening it fails."""
    (tmp_path / "top/work").mkdir(parents=True)
    (tmp_path / "top/work").chmod(0)
    assert small_tree.remove(tmp_path / "top")
