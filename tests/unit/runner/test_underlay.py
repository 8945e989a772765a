"""Roots without an overlay: which entries of an image are bound, which are made."""

from __future__ import annotations

import pathlib

import pytest

from tes_server.runner import underlay

PLACES = ("/work/in", "/opt/tool/data", "/etc/input")
SCRATCH = ("/root", "/run")


@pytest.fixture
def image(tmp_path: pathlib.Path) -> pathlib.Path:
    root = tmp_path / "image"
    for name in ("bin", "etc", "opt/tool", "opt/other", "root", "var/lib"):
        (root / name).mkdir(parents=True)
    for name in ("bin/sh", "etc/passwd", "etc/hosts", "opt/tool/run", "root/.profile"):
        (root / name).touch()
    (root / "lib").symlink_to("/usr/lib")
    (root / "evil").symlink_to(tmp_path)
    return root


def pairs(options: list[str], word: str) -> dict[str, str]:
    """What is bound, or linked to, by place."""
    return {options[at + 2]: options[at + 1] for at, option in enumerate(options) if option == word}


@pytest.fixture
def options(image: pathlib.Path) -> list[str]:
    return underlay.options(image, "/tmp/image", {"/etc/hosts": "/tmp/names/etc/hosts"}, "/cells/own", PLACES, SCRATCH)


def made(options: list[str]) -> dict[str, str]:
    """Modes of the directories that are the cell's own."""
    return {options[at + 1]: options[at - 1] for at, option in enumerate(options) if option == "--dir"}


def test_the_root_is_the_cells_own_directory(options: list[str]) -> None:
    assert options[:3] == ["--bind", "/cells/own", "/"]


def test_entries_of_the_image_are_bound_read_only_where_nothing_is_made(options: list[str]) -> None:
    bound = pairs(options, "--ro-bind")
    assert bound["/bin"] == "/tmp/image/bin"
    assert bound["/var"] == "/tmp/image/var"
    assert "/bin/sh" not in bound
    assert "--bind" not in options[3:]


def test_directories_above_what_is_made_are_the_cells_own(options: list[str]) -> None:
    bound = pairs(options, "--ro-bind")
    assert made(options) == {"/etc": "0755", "/opt": "0755", "/opt/tool": "0755", "/root": "1777", "/run": "1777"}
    assert bound["/opt/tool/run"] == "/tmp/image/opt/tool/run"
    assert bound["/opt/other"] == "/tmp/image/opt/other"
    assert bound["/etc/passwd"] == "/tmp/image/etc/passwd"


def test_a_file_from_elsewhere_takes_the_place_of_the_images(options: list[str]) -> None:
    assert pairs(options, "--ro-bind")["/etc/hosts"] == "/tmp/names/etc/hosts"


def test_a_home_keeps_what_the_image_has_in_it(options: list[str]) -> None:
    assert pairs(options, "--ro-bind")["/root/.profile"] == "/tmp/image/root/.profile"


def test_links_stay_links_and_are_not_followed(options: list[str], tmp_path: pathlib.Path) -> None:
    assert pairs(options, "--symlink") == {"/lib": "/usr/lib", "/evil": str(tmp_path)}
