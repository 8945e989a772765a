"""What tasks have nothing to do with, though it lies below a root: the server's own directory, and what processes are."""

from __future__ import annotations

import pathlib

import msgspec
import pytest

from tes_server import errors
from tes_server.filer.manifest import Access
from tes_server.model.task import FileType
from tes_server.plan.steps import Fetch
from tests.unit.filer.conftest import Stage, contents


@pytest.fixture
def kept(stage: Stage) -> pathlib.Path:
    """The data directory of a server, in a root."""
    data = stage.root / "site" / "data"
    data.mkdir(parents=True)
    (data / "tes.db").write_text("everybody's tasks")
    (stage.root / "site" / "x").write_text("x")
    stage.access = msgspec.structs.replace(stage.access, hidden=(str(data),))
    return data


def refused(stage: Stage, *inputs: Fetch) -> errors.StagingError:
    with pytest.raises(errors.StagingError) as caught:
        stage.into(*inputs)
    return caught.value


@pytest.mark.parametrize("path", ["site/data/tes.db", "site/data", "site/data/no-such", "site/link/tes.db", "site/file", "site/data/../data/tes.db"])
def test_nothing_is_read_from_it(stage: Stage, kept: pathlib.Path, path: str) -> None:
    (kept.parent / "link").symlink_to("data")
    (kept.parent / "file").symlink_to(kept / "tes.db")
    error = refused(stage, stage.fetch(path))
    assert (error.code, error.transient) == ("INPUT_DENIED", False)
    assert error.public.endswith("is outside of the directories that this server may use")


def test_a_directory_that_holds_it_comes_without(stage: Stage, kept: pathlib.Path) -> None:
    notices = stage.into(stage.fetch("site", "/work/in", FileType.DIRECTORY))
    assert contents(stage.volume / "work/in") == {"x": b"x"}
    assert [line.partition(": ")[0] for line in notices] == ["INPUT_DENIED"]
    assert "site/data is not for tasks; it was left out" in notices[0]


@pytest.mark.parametrize("target", ["site/data/x", "site/data/new/x", "site/link/x"])
def test_nothing_is_written_to_it(stage: Stage, kept: pathlib.Path, target: str) -> None:
    (kept.parent / "link").symlink_to("data")
    stage.make("/work/x")
    done = stage.out(stage.collect("/work/x", target), stage.collect("/work", target))
    assert done.error is not None
    assert done.error.code == "OUTPUT_DENIED"
    assert contents(kept) == {"tes.db": b"everybody's tasks"}


def test_no_directory_of_outputs_reaches_into_it(stage: Stage, kept: pathlib.Path) -> None:
    for name in ("data/tes.db", "data/deep/er/x", "y"):
        stage.make(f"/work/{name}")
    (stage.volume / "work/data/empty").mkdir()
    done = stage.out(stage.collect("/work", "site"), stage.collect("/work/data/tes.d*", "site", prefix="/work"))
    assert done.error is not None
    assert done.error.code == "OUTPUT_DENIED"
    assert contents(stage.root / "site") == {"data": None, "data/tes.db": b"everybody's tasks", "x": b"x", "y": b"x"}


def test_it_cannot_be_replaced(stage: Stage, kept: pathlib.Path) -> None:
    stage.make("/work/file")
    (stage.volume / "work/tree").mkdir()
    (stage.volume / "work/tree/data").symlink_to("elsewhere")
    for path, target in (("/work/file", "site/data"), ("/work/tree", "site")):
        assert stage.out(stage.collect(path, target)).error is not None
    assert contents(kept) == {"tes.db": b"everybody's tasks"}


def test_a_root_below_it_was_named_by_the_site(stage: Stage, kept: pathlib.Path) -> None:
    (kept / "files").mkdir()
    (kept / "files" / "x").write_text("fine")
    stage.access = msgspec.structs.replace(stage.access, roots=(str(kept / "files"),))
    stage.into(stage.fetch("site/data/files/x"))
    assert (stage.volume / "work/in").read_text() == "fine"
    assert refused(stage, stage.fetch("site/data/tes.db")).code == "INPUT_DENIED"


def test_hidden_by_what_it_is_and_not_by_its_name(stage: Stage, kept: pathlib.Path) -> None:
    kept.rename(kept.with_name("renamed"))
    with_name = msgspec.structs.replace(stage.access, hidden=(str(kept.with_name("renamed")),))
    (stage.root / "alias").symlink_to(kept.with_name("renamed"))
    stage.access = msgspec.structs.replace(with_name, hidden=(str(stage.root / "alias"),))
    assert refused(stage, stage.fetch("site/renamed/tes.db")).code == "INPUT_DENIED"


@pytest.mark.parametrize("path", ["/proc/self/environ", "/proc/1/environ", "/proc", "/sys/kernel/uevent_seqnum"])
def test_processes_are_no_files_even_of_a_site_that_opens_all(stage: Stage, path: str) -> None:
    """Variables of the server have credentials of stores in them."""
    stage.access = Access(roots=("/",))
    (stage.root / "link").symlink_to(path)
    for url in ("file://" + path, stage.url("link")):
        assert refused(stage, Fetch(path="/work/in", url=url, field="/inputs/0")).code == "INPUT_DENIED"


def test_links_of_the_kernel_lead_nowhere_else(stage: Stage) -> None:
    """`/proc/self/root` is a way round every check of names, for whoever lets the kernel follow it."""
    (stage.root / "root").symlink_to("/proc/self/root")
    (stage.root / "cwd").symlink_to(f"/proc/self/cwd{'/..' * 20}{stage.outside}")
    for name in (f"root{stage.outside}/secret", "cwd/secret"):
        assert refused(stage, stage.fetch(name)).code == "INPUT_DENIED"
    stage.make("/work/x")
    done = stage.out(stage.collect("/work/x", f"root{stage.outside}/x"))
    assert done.error is not None
    assert done.error.code == "OUTPUT_DENIED"
    assert contents(stage.outside) == {"secret": b"secret"}


def test_hard_links_are_files_like_any_other(stage: Stage) -> None:
    """An output is a copy: whoever holds another name of the file in the volume changes nothing of what was taken."""
    file = stage.make("/work/d/x", b"before")
    (stage.volume / "work/d/y").hardlink_to(file)
    stage.out(stage.collect("/work/d"))
    file.write_bytes(b"after")
    assert contents(stage.root / "out") == {"x": b"before", "y": b"before"}
    assert {path.stat().st_nlink for path in (stage.root / "out").iterdir()} == {1}
    stage.into(stage.fetch("out", "/work/in", FileType.DIRECTORY))
    assert {path.stat().st_nlink for path in (stage.volume / "work/in").iterdir()} == {1}
