"""Somebody who renames as fast as the machine can, while files are moved: what is read and written is where it should be, or refused.

That the race is there at all is shown by a walk that follows names: it is caught within the same rounds.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import pathlib
import time
from collections.abc import Callable, Iterator

import pytest

from tests.unit.filer.conftest import Stage

SECRET = b"secret"
LONG = 30.0
"""Seconds after which nobody won: no race, then."""

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


def _swap(one: str, other: str) -> None:
    """Exchange two names for ever, in one step of the kernel each."""
    libc = ctypes.CDLL(None, use_errno=True)
    while True:
        if libc.renameat2(_AT_FDCWD, one.encode(), _AT_FDCWD, other.encode(), _RENAME_EXCHANGE):
            os._exit(ctypes.get_errno())


@contextlib.contextmanager
def swapping(one: pathlib.Path, other: pathlib.Path) -> Iterator[None]:
    process = multiprocessing.get_context("fork").Process(target=_swap, args=(str(one), str(other)), daemon=True)
    process.start()
    try:
        yield
        assert process.is_alive(), f"the names cannot be exchanged: {process.exitcode}"
    finally:
        process.kill()
        process.join()


def rounds(naive: Callable[[], bool]) -> Iterator[int]:
    """Numbers, until `naive` was caught, and as many again: it holds out no longer than that."""
    end = time.monotonic() + LONG
    number = caught = 0
    while not caught or number < 2 * caught or number < 30:
        assert time.monotonic() < end, "nobody was ever caught: there is no race here"
        number += 1
        if not caught and naive():
            caught = number
        yield number


def reads(path: pathlib.Path) -> bool:
    """Whoever looks whether it is a link, and then opens by name."""
    try:
        return not path.parent.is_symlink() and path.read_bytes() == SECRET
    except OSError:
        return False


def all_bytes(base: pathlib.Path) -> set[bytes]:
    return {path.read_bytes() for path in base.rglob("*") if path.is_file() and not path.is_symlink()}


@pytest.fixture
def trap(stage: Stage) -> pathlib.Path:
    """A directory of the task and, beside it, a link out of the volume by the kernel's own reading; both hold `secret`."""
    stage.make("/work/d/secret", b"harmless")
    (stage.volume / "work/link").symlink_to(stage.outside)
    return stage.volume / "work/d"


def test_a_directory_that_becomes_a_link_while_outputs_are_taken(stage: Stage, trap: pathlib.Path) -> None:
    with swapping(trap, trap.with_name("link")):
        for number in rounds(lambda: reads(trap / "secret")):
            stage.out(
                stage.collect("/work/d", f"{number}/whole"),
                stage.collect("/work/d/secret", f"{number}/one"),
                stage.collect("/work/d/*", f"{number}/stars", prefix="/work/d"),
                stage.collect("/work", f"{number}/above"),
            )
    assert all_bytes(stage.root) == {b"harmless"}


def test_a_file_that_becomes_a_link_while_outputs_are_taken(stage: Stage) -> None:
    file, link = stage.make("/work/d/x", b"harmless"), stage.volume / "work/link"
    link.symlink_to(stage.outside / "secret")

    def naive() -> bool:
        with contextlib.suppress(OSError):
            return not file.is_symlink() and file.read_bytes() == SECRET
        return False

    with swapping(file, link):
        for number in rounds(naive):
            stage.out(stage.collect("/work/d", f"{number}/whole"), stage.collect("/work/d/x", f"{number}/one"))
    assert all_bytes(stage.root) == {b"harmless"}


def test_a_target_that_becomes_a_link_out_of_the_roots(stage: Stage) -> None:
    """Whoever may write below a root has put a link there: neither files nor directories are made where it leads."""
    target, link = stage.root / "d", stage.root / "link"
    target.mkdir()
    link.symlink_to(stage.outside)
    stage.make("/work/x")

    def naive() -> bool:
        with contextlib.suppress(OSError):
            if not target.is_symlink():
                (target / "naive").write_bytes(b"")
        return (stage.outside / "naive").exists()

    with swapping(target, link):
        for number in rounds(naive):
            stage.out(stage.collect("/work/x", f"d/{number}"), stage.collect("/work/x", f"d/new-{number}/x"), stage.collect("/work", f"d/tree-{number}"))
    assert {path.name for path in stage.outside.iterdir()} == {"secret", "naive"}
    assert any(stage.root.rglob("tree-*"))  # between two swaps it goes where it should


def test_a_source_that_becomes_a_link_out_of_the_roots(stage: Stage) -> None:
    source = stage.root / "top" / "d"
    source.mkdir(parents=True)
    (source / "secret").write_bytes(b"harmless")
    (stage.root / "link").symlink_to(stage.outside)
    with swapping(source, stage.root / "link"):
        for number in rounds(lambda: reads(source / "secret")):
            for name, kind in (("top/d/secret", "file"), ("top", "tree")):
                with contextlib.suppress(Exception):  # refused: the link leads out
                    stage.into(stage.fetch(name, f"/work/{number}/{kind}"))
    assert all_bytes(stage.volume) == {b"harmless"}
