"""Bounds on what one task may move: directories without end, answers without end, holes, and the last of a disk."""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import subprocess
from collections.abc import Iterator

import msgspec
import pytest

from tes_server import errors
from tes_server.filer import local, tree
from tes_server.filer.allowance import Allowance, Exceeded
from tes_server.filer.control import Control
from tes_server.filer.rooted import Realm
from tes_server.filer.wording import OUTPUT
from tes_server.model.task import FileType
from tes_server.plan.steps import Fetch
from tests.contract import web_server
from tests.contract.web_server import Answer, Request, ranged
from tests.guards import LOOPBACK
from tests.unit.filer.conftest import Stage, contents

MB = 1_000_000


@pytest.fixture
def stage(stage: Stage) -> Stage:
    """Ten files, ten megabytes."""
    stage.access = msgspec.structs.replace(stage.access, most_files=10, most_bytes=10 * MB, guard=LOOPBACK, tries=2, first_delay=0.001)
    return stage


def refused(stage: Stage, *inputs: Fetch) -> errors.StagingError:
    with pytest.raises(errors.StagingError) as caught:
        stage.into(*inputs)
    assert not caught.value.transient
    return caught.value


def fill(folder: pathlib.Path, count: int, size: int = 0) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        with (folder / str(number)).open("wb") as file:
            file.truncate(size)


def test_as_many_as_are_allowed(stage: Stage) -> None:
    fill(stage.root / "d", 9, MB + 111_111)
    stage.into(stage.fetch("d", "/work/in", FileType.DIRECTORY))
    assert stage.out(stage.collect("/work/in")).error is None
    assert len(contents(stage.root / "out")) == 9


def test_a_directory_of_too_many_files(stage: Stage) -> None:
    fill(stage.root / "d", 10)
    error = refused(stage, stage.fetch("d", "/work/in", FileType.DIRECTORY))
    assert error.code == "INPUT_TOO_LARGE"
    assert error.public.endswith("the inputs are more than 10 files and directories (the setting `tasks.max_staged_files`)")
    assert error.public.startswith("/inputs/0: file://")


def test_inputs_count_together(stage: Stage) -> None:
    fill(stage.root / "d", 6, MB)
    fill(stage.root / "e", 6, MB)
    content = (Fetch(path=f"/c/{number}", content="x", field=f"/inputs/{number}") for number in range(11))
    assert refused(stage, stage.fetch("d", "/work/d"), stage.fetch("e", "/work/e")).code == "INPUT_TOO_LARGE"
    assert refused(stage, *content).public == (
        "/inputs/10: the content for /c/10: the inputs are more than 10 files and directories (the setting `tasks.max_staged_files`)"
    )


def test_bytes_of_files_whose_size_is_known_are_not_even_begun(stage: Stage) -> None:
    fill(stage.root / "d", 1, 10 * MB + 1)
    error = refused(stage, stage.fetch("d/0"))
    assert (error.code, error.public.partition("0: ")[2].partition(": ")[2]) == (
        "INPUT_TOO_LARGE",
        "the inputs are more than 0.01 GB (the setting `tasks.max_staged_gb`)",
    )
    assert contents(stage.volume) == {"work": None}


def test_holes_count(stage: Stage) -> None:
    """To most targets they are sent byte by byte."""
    with stage.make("/work/x").open("wb") as file:
        file.truncate(1 << 42)
    done = stage.out(stage.collect("/work/x"))
    assert done.error is not None
    assert done.error.code == "OUTPUT_TOO_LARGE"
    assert contents(stage.root) == {}


def endless() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"
    yield from itertools.repeat(b"x" * 65536)


@pytest.mark.parametrize("length", [b"", b"Content-Length: 999999999999\r\n"])
def test_an_answer_without_end(stage: Stage, length: bytes) -> None:
    with web_server.serving() as server:
        server.script = lambda _: Answer(raw=itertools.chain([b"HTTP/1.1 200 OK\r\n" + length + b"\r\n"], itertools.repeat(b"x" * 65536)))
        error = refused(stage, Fetch(path="/work/in", url=server.url, field="/inputs/0"))
        assert len(server.requests) == 1
    assert error.code == "INPUT_TOO_LARGE"
    assert contents(stage.volume) == {"work": None}


def test_repeats_cost_nothing(stage: Stage) -> None:
    """A transfer that breaks and begins again may pass more bytes than there are."""
    data = os.urandom(9 * MB)

    def breaking(request: Request) -> Answer:
        return Answer(200, data[: -(3 - request.number)], length=len(data)) if request.number < 3 else Answer(200, data)

    stage.access = msgspec.structs.replace(stage.access, tries=5)
    with web_server.serving() as server:
        server.script = breaking
        stage.into(Fetch(path="/work/in", url=server.url, field="/inputs/0"))
        assert len(server.requests) == 4
    assert (stage.volume / "work/in").read_bytes() == data


def test_parts_that_are_written_ahead_count_once(stage: Stage) -> None:
    data = os.urandom(9 * MB)
    stage.access = msgspec.structs.replace(stage.access, part_bytes=MB)
    with web_server.serving() as server:
        server.script = lambda request: ranged(data, request)
        stage.into(Fetch(path="/work/in", url=server.url, field="/inputs/0"))
    assert (stage.volume / "work/in").read_bytes() == data


@pytest.mark.parametrize("path", ["/work", "/work/d", "/work/d/*", "/work/**"])
def test_outputs_of_too_many_files(stage: Stage, path: str) -> None:
    for number in range(12):
        stage.make(f"/work/d/{number}")
    stage.make("/work/one")
    prefix = "/work" if "*" in path else ""
    done = stage.out(stage.collect(path, prefix=prefix), stage.collect("/work/one", "one", field="/outputs/1"))
    assert done.error is not None
    assert (done.error.code, done.error.transient) == ("OUTPUT_TOO_LARGE", False)
    assert "/outputs/0: " in done.error.public
    assert "`tasks.max_staged_files`" in done.error.public
    assert len(done.outputs) <= 10


def test_directories_count_before_they_are_read(tmp_path: pathlib.Path, stage: Stage) -> None:
    """Those that wait to be read are held in memory."""
    for number in range(11):
        (tmp_path / "wide" / str(number)).mkdir(parents=True)
    found: list[object] = []
    with pytest.raises(Exceeded, match="outputs are more than 10 files"):
        found.extend(tree.walk(Realm(str(tmp_path / "wide")), "/", keep_links=True, count=Allowance(stage.access, OUTPUT).count))
    files = local.Files(msgspec.structs.replace(stage.access, roots=(str(tmp_path),)), Control(lambda: False), "a")
    with pytest.raises(Exceeded, match="inputs are more than 10 files"):
        list(files.source(f"file://{tmp_path}/wide"))


@contextlib.contextmanager
def disk(at: pathlib.Path, size: str) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(at)], check=True)
    try:
        yield
    finally:
        # Lazily: the error that is looked at still holds descriptors.
        subprocess.run(["umount", "--lazy", str(at)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a small disk")
def test_the_last_of_a_disk_is_for_others(stage: Stage) -> None:
    stage.access = msgspec.structs.replace(stage.access, most_bytes=0)
    least: list[int] = []

    def watched() -> Iterator[bytes]:
        for piece in endless():
            state = os.statvfs(stage.volume)
            least.append(state.f_bavail * state.f_frsize)
            yield piece

    with disk(stage.volume, "400m"), web_server.serving() as server:
        server.script = lambda _: Answer(raw=watched())
        error = refused(stage, Fetch(path="/work/in", url=server.url, field="/inputs/0"))
        assert "the disk is all but full" in error.public
        assert error.code == "DISK_FULL"
        assert contents(stage.volume) == {"work": None}
    assert 0 < min(least) < 50 * MB  # what is under way is not on the disk yet
